//! Pulling offer lists.

use std::sync::Arc;

use derouter_wire::announce::{ListSummary, OfferList, OfferListHash};
use derouter_wire::discovery::{DiscoveryRequest, PulledList, Want};
use libp2p::PeerId;
use tokio::time::timeout;

use super::exchange::{Commands, ExchangeError, ask, read_frame};
use crate::directory::{PullOutcome, PullPlan};
use crate::limits;

/// How asking one peer for lists ended.
#[derive(Debug)]
pub(super) struct Pulled {
    pub(super) source: PeerId,
    /// One for each list that was asked for.
    pub(super) outcomes: Vec<(PeerId, OfferListHash, PullOutcome)>,
    /// It gave a list that is not the one that was announced.
    pub(super) wrong: bool,
    /// It sent what is no message of the protocol.
    pub(super) invalid: bool,
}

/// Asks one peer for lists. What it does not give is told as nothing.
pub(super) async fn pull(commands: Commands, plan: PullPlan) -> Pulled {
    let mut lists: Vec<Option<Arc<[u8]>>> = vec![None; plan.wants.len()];
    let mut wrong = false;
    let asked = pull_into(&commands, &plan, &mut lists, &mut wrong);
    let ended = match timeout(limits::DISCOVERY_DEADLINE, asked).await {
        Ok(ended) => ended,
        Err(_late) => Err(ExchangeError::Timeout),
    };
    let mut invalid = false;
    if let Err(error) = ended {
        invalid = matches!(error, ExchangeError::Invalid(_));
        tracing::debug!(peer = %plan.source, %error, "offer lists could not be pulled");
    }
    let outcome = |((provider, summary), list): ((PeerId, ListSummary), Option<Arc<[u8]>>)| {
        let outcome = list.map_or(PullOutcome::Nothing, PullOutcome::List);
        (provider, summary.hash, outcome)
    };
    Pulled {
        source: plan.source,
        outcomes: plan.wants.into_iter().zip(lists).map(outcome).collect(),
        wrong,
        invalid,
    }
}

async fn pull_into(
    commands: &Commands,
    plan: &PullPlan,
    lists: &mut [Option<Arc<[u8]>>],
    wrong: &mut bool,
) -> Result<(), ExchangeError> {
    let want = |(peer, summary): &(PeerId, ListSummary)| Want {
        peer: *peer,
        hash: summary.hash,
    };
    let request = DiscoveryRequest::Pull(plan.wants.iter().map(want).collect());
    let mut stream = ask(commands, plan.source, &request).await?;
    for _ in 0..plan.wants.len() {
        let Some(frame) = read_frame(&mut stream, PulledList::FRAME_BYTES).await? else {
            return Ok(());
        };
        let pulled = PulledList::decode(&frame)?;
        let index = usize::try_from(pulled.index).unwrap_or(usize::MAX);
        let (Some((_, summary)), Some(place)) = (plan.wants.get(index), lists.get_mut(index))
        else {
            return Err(ExchangeError::Invalid("a list that was not wanted".into()));
        };
        let Some(list) = pulled.list else { continue };
        match OfferList::decode(&list.0, summary) {
            Ok(_) => *place = Some(Arc::from(list.0)),
            Err(_) if OfferListHash::of(&list.0) == summary.hash => {
                // Not its fault: the provider announced what is no list.
                tracing::debug!(peer = %plan.source, "an announced offer list is not valid");
            }
            Err(_) => *wrong = true,
        }
    }
    Ok(())
}
