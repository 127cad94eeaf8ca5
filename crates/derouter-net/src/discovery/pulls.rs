//! Pulling offer lists.

use std::sync::Arc;
use std::time::Duration;

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
    /// It was dialled for that.
    pub(super) stranger: bool,
    /// One for each list that was asked for.
    pub(super) outcomes: Vec<(PeerId, OfferListHash, PullOutcome)>,
    /// It gave a list that is not the one that was announced.
    pub(super) wrong: bool,
    /// It sent what is no message of the protocol.
    pub(super) invalid: bool,
    /// It did not answer, or not to the end.
    pub(super) failed: bool,
}

/// What came so far.
#[derive(Debug)]
struct Coming {
    lists: Vec<Option<Arc<[u8]>>>,
    wrong: bool,
}

/// Asks one peer for lists. What it does not give is told as nothing.
pub(super) async fn pull(commands: Commands, plan: PullPlan) -> Pulled {
    let mut coming = Coming {
        lists: vec![None; plan.wants.len()],
        wrong: false,
    };
    let asked = pull_into(&commands, &plan, &mut coming);
    let ended = match timeout(limits::DISCOVERY_DEADLINE, asked).await {
        Ok(ended) => ended,
        Err(_late) => Err(ExchangeError::Timeout),
    };
    let failed = ended.is_err() || coming.wrong;
    let mut invalid = false;
    if let Err(error) = ended {
        invalid = matches!(error, ExchangeError::Invalid(_));
        tracing::debug!(peer = %plan.source, %error, "offer lists could not be pulled");
    }
    let outcome = |((provider, summary), list): ((PeerId, ListSummary), Option<Arc<[u8]>>)| {
        let outcome = list.map_or(PullOutcome::Nothing, PullOutcome::List);
        (provider, summary.hash, outcome)
    };
    let wants = plan.wants.into_iter();
    Pulled {
        source: plan.source,
        stranger: plan.stranger,
        outcomes: wants.zip(coming.lists).map(outcome).collect(),
        wrong: coming.wrong,
        invalid,
        failed,
    }
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
    let most = longest_frame(plan);
    let pace = limits::PULL_BEGINS + Duration::from_secs(wide(most) / limits::PULL_PACE);
    let begun = async {
        let mut stream = ask(commands, plan.source, &request).await?;
        let first = read_frame(&mut stream, most).await?;
        Ok((stream, first))
    };
    let (mut stream, mut next) = if plan.stranger {
        begun.await?
    } else {
        in_time(pace, begun).await?
    };
    let mut came = 0;
    while let Some(frame) = next {
        take_list(plan, coming, &frame)?;
        came += 1;
        if coming.wrong || came == plan.wants.len() {
            // Nothing more is read of it.
            return Ok(());
        }
        next = in_time(pace, read_frame(&mut stream, most)).await?;
    }
    Ok(())
}

async fn in_time<T>(
    pace: Duration,
    step: impl Future<Output = Result<T, ExchangeError>>,
) -> Result<T, ExchangeError> {
    let ended = timeout(pace, step).await;
    ended.unwrap_or(Err(ExchangeError::Timeout))
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// No more is read at once than the longest of the lists takes.
fn longest_frame(plan: &PullPlan) -> usize {
    let lengths = plan.wants.iter().map(|(_, summary)| summary.bytes);
    let longest = usize::try_from(lengths.max().unwrap_or(0)).unwrap_or(usize::MAX);
    longest.saturating_add(PulledList::HEAD_BYTES)
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
