//! Pulling offer lists.

use std::sync::Arc;
use std::time::Duration;

use derouter_wire::announce::{ListSummary, OfferList, OfferListHash};
use derouter_wire::discovery::{DiscoveryRequest, PulledList, Want};
use libp2p::PeerId;
use tokio::time::timeout;

use super::exchange::{Commands, ExchangeError, ask, read_body, read_length};
use crate::directory::{PullEnd, PullOutcome, PullPlan};
use crate::limits;

/// How asking one peer for lists ended.
#[derive(Debug)]
pub(super) struct Pulled {
    pub(super) end: PullEnd,
    /// One for each list that was asked for.
    pub(super) outcomes: Vec<(PeerId, OfferListHash, PullOutcome)>,
    /// It gave a list that is not the one that was announced.
    pub(super) wrong: bool,
    /// It sent what is no message of the protocol.
    pub(super) invalid: bool,
}

/// What came so far.
#[derive(Debug)]
struct Coming {
    lists: Vec<Option<Arc<[u8]>>>,
    wrong: bool,
}

/// A peer that passed on so many announcements and has none of their lists did not have them.
const LACKING: usize = 8;

/// Asks one peer for lists. What it does not give is told as nothing.
pub(super) async fn pull(commands: Commands, plan: PullPlan) -> Pulled {
    let mut coming = Coming {
        lists: vec![None; plan.wants.len()],
        wrong: false,
    };
    let asked = pull_into(&commands, &plan, &mut coming);
    let ended = match timeout(patience(&plan), asked).await {
        Ok(ended) => ended,
        Err(_late) => Err(ExchangeError::Timeout),
    };
    let bytes: usize = coming.lists.iter().flatten().map(|list| list.len()).sum();
    let lacks = plan.own >= LACKING && bytes == 0;
    // Who is slow and gives lists is not to blame. A stream that broke costs nothing but a try.
    let stalled = matches!(ended, Err(ExchangeError::Timeout)) && bytes == 0;
    let invalid = matches!(ended, Err(ExchangeError::Invalid(_)));
    if let Err(error) = ended {
        tracing::debug!(peer = %plan.source, %error, "offer lists could not be pulled");
    }
    let outcome = |((provider, summary), list): ((PeerId, ListSummary), Option<Arc<[u8]>>)| {
        let outcome = list.map_or(PullOutcome::Nothing, PullOutcome::List);
        (provider, summary.hash, outcome)
    };
    let wants = plan.wants.into_iter();
    Pulled {
        end: PullEnd {
            source: plan.source,
            stranger: plan.stranger,
            failed: lacks || stalled || invalid || coming.wrong,
            bytes,
        },
        outcomes: wants.zip(coming.lists).map(outcome).collect(),
        wrong: coming.wrong,
        invalid,
    }
}

/// For the whole answer, at the pace that can be expected; for a dial as well where there is none.
fn patience(plan: &PullPlan) -> Duration {
    let bytes = plan
        .wants
        .iter()
        .map(|(_, summary)| u64::from(summary.bytes));
    let pace = Duration::from_secs(bytes.sum::<u64>() / limits::PULL_PACE);
    let begins = if plan.stranger {
        limits::OPEN_DEADLINE + limits::PULL_BEGINS
    } else {
        limits::PULL_BEGINS
    };
    // As much again, for what it has to look up for others.
    (begins * 2 + pace).min(limits::DISCOVERY_DEADLINE)
}

async fn pull_into(
    commands: &Commands,
    plan: &PullPlan,
    coming: &mut Coming,
) -> Result<(), ExchangeError> {
    let want = |(peer, summary): &(PeerId, ListSummary)| Want {
        peer: *peer,
        hash: summary.hash,
    };
    let request = DiscoveryRequest::Pull(plan.wants.iter().map(want).collect());
    let begun = async {
        let mut stream = ask(commands, plan.source, &request).await?;
        let length = read_length(&mut stream, PulledList::FRAME_BYTES).await?;
        Ok((stream, length))
    };
    let (mut stream, mut next) = if plan.stranger {
        begun.await?
    } else {
        let begun = timeout(limits::PULL_BEGINS, begun).await;
        begun.unwrap_or(Err(ExchangeError::Timeout))?
    };
    let mut answers = 0;
    while let Some(length) = next {
        let frame = read_body(&mut stream, length).await?;
        take_list(plan, coming, &frame)?;
        answers += 1;
        if coming.wrong || answers == plan.wants.len() {
            // Nothing more is read of it.
            return Ok(());
        }
        next = read_length(&mut stream, PulledList::FRAME_BYTES).await?;
    }
    Ok(())
}

fn take_list(plan: &PullPlan, coming: &mut Coming, frame: &[u8]) -> Result<(), ExchangeError> {
    let pulled = PulledList::decode(frame)?;
    let index = usize::try_from(pulled.index).unwrap_or(usize::MAX);
    let place = coming.lists.get_mut(index);
    let (Some((_, summary)), Some(place)) = (plan.wants.get(index), place) else {
        return Err(ExchangeError::Invalid("a list that was not wanted".into()));
    };
    let Some(list) = pulled.list else {
        return Ok(());
    };
    match OfferList::decode(&list.0, summary) {
        Ok(_) => *place = Some(Arc::from(list.0)),
        Err(_) if OfferListHash::of(&list.0) == summary.hash => {
            // Not its fault: the provider announced what is no list.
            tracing::debug!(peer = %plan.source, "an announced offer list is not valid");
        }
        Err(_) => coming.wrong = true,
    }
    Ok(())
}
