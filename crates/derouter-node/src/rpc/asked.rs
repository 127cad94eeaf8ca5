//! One request in work: it has one answer, whether that comes in time, too late, or is not wanted
//! any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use derouter_wire::limits::RPC_DEADLINE_MILLISECONDS;
use derouter_wire::rpc::hello::Capability;
use derouter_wire::rpc::list::*;
use derouter_wire::rpc::request::*;
use derouter_wire::rpc::{Call, Frame};

/// A request, and whether it was answered.
pub(super) struct Asked<'a> {
    pub(super) frame: Frame<'a>,
    answered: AtomicBool,
}

impl<'a> Asked<'a> {
    pub(super) fn new(frame: Frame<'a>) -> Self {
        Self {
            frame,
            answered: AtomicBool::new(false),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.frame.type_name
    }

    /// Takes the right to answer; true once.
    pub(super) fn take_answer(&self) -> bool {
        !self.answered.swap(true, Ordering::AcqRel)
    }

    /// How long the module waits. Never longer than the limit.
    pub(super) fn deadline(&self) -> Duration {
        let asked = self.frame.deadline_ms.unwrap_or(RPC_DEADLINE_MILLISECONDS);
        Duration::from_millis(asked.min(RPC_DEADLINE_MILLISECONDS))
    }
}

/// What may become of a request's work when its answer is not waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It is dropped: it only asks, or what it began ends with it.
    Dropped,
    /// It goes on to its end: it takes a step on a job, which must not be half taken. It can't be
    /// cancelled, and behind its deadline the answer is that this has passed.
    Finished,
    /// It is over at once.
    Immediate,
}

impl Ending {
    pub(super) fn of(type_name: &str) -> Self {
        match type_name {
            ConsumerCreateJob::TYPE
            | ConsumerCompleteJob::TYPE
            | ProviderCompleteJob::TYPE
            | FailJob::TYPE => Self::Finished,
            SubscribeToActiveOffers::TYPE
            | SubscribeToActiveProviders::TYPE
            | SubscribeToJobs::TYPE
            | CancelSubscription::TYPE => Self::Immediate,
            _ => Self::Dropped,
        }
    }
}

/// What a request needs of the module, beside being let in.
pub(super) fn needs(type_name: &str) -> Option<&'static [Capability]> {
    match type_name {
        ProviderProvide::TYPE | ProviderWithdraw::TYPE | ProviderCompleteJob::TYPE => {
            Some(&[Capability::Provide])
        }
        ConsumerCreateJob::TYPE
        | ConsumerOpenJobConnection::TYPE
        | ConsumerGetJob::TYPE
        | ConsumerCompleteJob::TYPE => Some(&[Capability::Consume]),
        // Either of them will do: which side gives up is not part of the request.
        FailJob::TYPE => Some(&Capability::ALL),
        _ => None,
    }
}

/// Requests of 0.1 that a list or Hello takes the place of in 0.2.
pub(super) fn replaced(type_name: &str) -> Option<&'static str> {
    match type_name {
        QuerySystem::TYPE => Some("Hello"),
        QueryActiveOffers::TYPE => Some(ListOffers::TYPE),
        QueryActiveProviders::TYPE => Some(ListProviders::TYPE),
        QueryJobs::TYPE => Some(ListJobs::TYPE),
        QueryPeers::TYPE => Some(ListPeers::TYPE),
        _ => None,
    }
}
