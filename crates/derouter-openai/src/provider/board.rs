//! How the offers are, where whoever looks finds it: written by the keeper, read by views.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use derouter_sdk::wire::rpc::network::{Reachability, ReservationState};
use derouter_sdk::{NetworkReport, OfferId, UnixSeconds};

use super::admission::Lane;
use super::config::OfferConfig;
use super::keeper::{Absent, Origin};
use super::monitor::Monitor;

/// An offer.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) offer_id: OfferId,
    pub(super) config: Arc<OfferConfig>,
    pub(super) monitor: Arc<Monitor>,
    pub(super) lane: Arc<Lane>,
    pub(super) origin: Origin,
    pub(super) edited: bool,
    pub(super) problem: Option<String>,
    pub(super) absent: Option<Absent>,
    pub(super) on_market: bool,
    pub(super) since: UnixSeconds,
    pub(super) refused: Option<String>,
}

/// How the node is reached, as it said last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    pub(super) reachability: Reachability,
    /// Relays through which others reach it.
    pub(super) relays: usize,
    pub(super) peers: u32,
}

impl Reach {
    pub(super) fn of(report: &NetworkReport) -> Self {
        let reserved = |state: ReservationState| state == ReservationState::Reserved;
        let relays = report.relays.iter().filter(|relay| reserved(relay.state));
        Self {
            reachability: report.reachability,
            relays: relays.count(),
            peers: report.peers,
        }
    }
}

/// What is on it.
#[derive(Default)]
pub(super) struct Board {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seats: Arc<Vec<Seat>>,
    problem: Option<String>,
    reach: Option<Reach>,
}

impl Board {
    pub(super) fn put(&self, seats: Vec<Seat>, problem: Option<String>) {
        let seats = Arc::new(seats);
        let mut state = self.lock();
        state.problem = problem;
        let before = std::mem::replace(&mut state.seats, seats);
        drop(state);
        drop(before);
    }

    pub(super) fn put_reach(&self, reach: Reach) {
        self.lock().reach = Some(reach);
    }

    pub(super) fn seats(&self) -> Arc<Vec<Seat>> {
        Arc::clone(&self.lock().seats)
    }

    /// Why the file of changed offers is not used.
    pub(super) fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    pub(super) fn reach(&self) -> Option<Reach> {
        self.lock().reach
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
