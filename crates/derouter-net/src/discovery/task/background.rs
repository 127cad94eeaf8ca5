//! Pulls and reconciliations, which run beside the task.

use std::time::{Duration, Instant};

use super::super::exchange::ExchangeError;
use super::super::pulls::{self, Pulled};
use super::super::reconcile::{self, Ended};
use super::{Discovery, Done};
use crate::actor::{Command, Offence};
use crate::counters::count;
use crate::limits;

/// Peers with whom a reconciliation failed are left alone for so long, while there are others: one that is
/// slow must not hold up the look at the rest again and again.
const RECONCILE_AVOID: Duration = Duration::from_secs(300);

impl Discovery {
    pub(super) fn start_pulls(&mut self) {
        while let Some(plan) = self.directory.take_pull(Instant::now()) {
            let commands = self.commands.clone();
            // Only who has to be dialled: the others are connected.
            let stranger = plan.stranger.then_some(plan.source);
            let whereabouts = stranger.and_then(|peer| self.directory.addresses(&peer));
            self.tasks.spawn(async move {
                if let (Some(known), Some(sender)) = (whereabouts, commands.upgrade()) {
                    let _ = sender.send(Command::Learn(known, None)).await;
                }
                Done::Pulled(pulls::pull(commands, plan).await)
            });
        }
    }

    pub(super) fn start_reconciliations(&mut self) {
        while self.reconciling.len() < limits::RECONCILIATIONS {
            let Some(peer) = self.fresh.pop_front() else {
                return;
            };
            if self.reconciling.contains(&peer) {
                continue;
            }
            let (shards, now) = (self.shards.bits(), Instant::now());
            let Some(snapshot) = self.snapshots.get(&self.directory, shards, false, now) else {
                return;
            };
            self.reconciling.insert(peer);
            let commands = self.commands.clone();
            let inputs = self.own_inputs.clone();
            self.tasks.spawn(async move {
                Done::Reconciled(reconcile::reconcile(commands, inputs, snapshot, peer).await)
            });
        }
    }

    pub(super) async fn on_done(&mut self, done: Done) {
        match done {
            Done::Pulled(pulled) => self.on_pulled(pulled).await,
            Done::Reconciled(ended) => self.on_reconciled(ended).await,
        }
    }

    async fn on_pulled(&mut self, pulled: Pulled) {
        let source = pulled.end.source;
        if pulled.wrong {
            count(&self.counters.lists_wrong);
            self.blame(source, Offence::WrongOfferList).await;
        }
        if pulled.invalid {
            self.blame(source, Offence::InvalidMessage).await;
        }
        let now = Instant::now();
        let (end, outcomes) = (pulled.end, pulled.outcomes);
        let here = self
            .directory
            .pull_ended(end, outcomes, now, rand::random());
        for provider in here {
            count(&self.counters.lists_pulled);
            self.news.add(provider);
            let found = self.found.remove(&provider);
            if let Some(bringer) = self.held.release(&provider).or(found) {
                self.hand_on_soon(provider, bringer);
            }
        }
    }

    async fn on_reconciled(&mut self, ended: Ended) {
        let Ended {
            peer,
            differences,
            outcome,
        } = ended;
        self.reconciling.remove(&peer);
        let by_chance = self.by_chance.remove(&peer);
        // Who has just come lacks much, whatever its mesh does.
        if by_chance && differences.late > 0 {
            count(&self.counters.meshes_late);
            self.rounds.missed(self.directory.len(), Instant::now());
        }
        let Err(error) = outcome else {
            count(&self.counters.reconciliations);
            return tracing::debug!(%peer, ?differences, "reconciled");
        };
        tracing::debug!(%peer, ?differences, %error, "not reconciled to the end");
        let is_its_fault = matches!(error, ExchangeError::Timeout | ExchangeError::Invalid(_));
        if is_its_fault {
            self.avoided.insert(peer, Instant::now() + RECONCILE_AVOID);
            if by_chance {
                self.rounds.hurry(Instant::now());
            }
        }
        if matches!(error, ExchangeError::Invalid(_)) {
            self.blame(peer, Offence::InvalidMessage).await;
        }
    }
}
