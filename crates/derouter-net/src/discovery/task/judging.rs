//! Announcements that come in.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use derouter_wire::announce::{AnnouncementBatch, SignedAnnouncement};
use libp2p::PeerId;
use tokio::sync::oneshot;

use super::super::Gossiped;
use super::Discovery;
use crate::actor::{Command, Offence};
use crate::clock::unix_now;
use crate::counters::count;
use crate::directory::{Arrival, Listed, Verdict};
use crate::heartbeat::bucket::Rate;
use crate::reachability::clock_watch::OffClock;

/// Providers whose clock is unlike ours, as the swarm task is told: it wants to know of some.
const OFF_CLOCK_RATE: Rate = Rate {
    every: Duration::from_secs(10),
    burst: 16,
};
/// How often it is told that a provider's clock is like ours.
const RIGHT_CLOCK_RATE: Rate = Rate {
    every: Duration::from_secs(60),
    burst: 1,
};
/// Providers whose addresses go into the peer book unasked, for when this node is lonely. The others
/// are looked up when they are needed.
const LEARN_RATE: Rate = Rate {
    every: Duration::from_secs(5),
    burst: 256,
};
/// How often the log says that clocks are off.
const COMPLAIN_EVERY: Duration = Duration::from_secs(600);

impl Discovery {
    pub(super) async fn judge_gossip(&mut self, gossip: &mut Vec<Gossiped>) {
        for Gossiped { forwarder, data } in gossip.drain(..) {
            let Ok(batch) = AnnouncementBatch::decode(&data) else {
                count(&self.counters.announcements_invalid);
                self.blame(forwarder, Offence::InvalidMessage).await;
                continue;
            };
            for announcement in &batch.announcements {
                let verdict = self.judge(forwarder, announcement, None).await;
                if matches!(verdict, Verdict::Invalid | Verdict::Forged) {
                    break;
                }
                self.pass_on(forwarder, verdict);
            }
        }
    }

    /// What came by gossip goes on to others. Nobody passes on what it can't give.
    fn pass_on(&mut self, forwarder: PeerId, verdict: Verdict) {
        match verdict {
            Verdict::New { provider, list } => match list {
                Listed::Here => self.hand_on_soon(provider, forwarder),
                Listed::Coming => {
                    if !self.held.hold(provider, forwarder, Instant::now()) {
                        self.not_handed_on(&provider);
                    }
                }
                Listed::Absent => {}
            },
            Verdict::Again {
                provider,
                spread: true,
                ..
            } => self.hand_on_soon(provider, forwarder),
            _ => {}
        }
    }

    pub(super) fn hand_on_soon(&mut self, provider: PeerId, bringer: PeerId) {
        if !self.outbox.add(provider, bringer) {
            self.not_handed_on(&provider);
        }
    }

    /// There is no room for it: the next copy that comes by gossip gets another chance.
    fn not_handed_on(&mut self, provider: &PeerId) {
        count(&self.counters.announcements_unsent);
        self.directory.not_spread(provider);
    }

    pub(super) async fn judge(
        &mut self,
        forwarder: PeerId,
        bytes: &[u8],
        remaining: Option<u32>,
    ) -> Verdict {
        let arrival = Arrival {
            forwarder,
            bytes,
            remaining,
        };
        let verdict = self.directory.judge(arrival, Instant::now(), unix_now());
        let checks = self.directory.signature_checks();
        self.counters.signature_checks.store(checks, Relaxed);
        match verdict {
            Verdict::New { provider, list } => {
                count(&self.counters.announcements_received);
                let now = Instant::now();
                if self.right_clock.try_take(RIGHT_CLOCK_RATE, 1, now) {
                    self.command(Command::ClockIsRight).await;
                }
                if list != Listed::Coming {
                    self.news.add(provider);
                }
                if self.learnt.try_take(LEARN_RATE, 1, Instant::now()) {
                    self.learn(&provider, None).await;
                }
            }
            Verdict::Again {
                provider, longer, ..
            } => {
                count(&self.counters.announcements_stale);
                if longer {
                    self.news.add(provider);
                }
            }
            Verdict::Old => count(&self.counters.announcements_stale),
            Verdict::OffClock(ahead) => {
                count(&self.counters.announcements_off_clock);
                self.complain(ahead);
                self.tell_off_clock(bytes, ahead).await;
            }
            Verdict::TooMany | Verdict::Full => count(&self.counters.announcements_limited),
            Verdict::Invalid => {
                count(&self.counters.announcements_invalid);
                self.blame(forwarder, Offence::InvalidMessage).await;
            }
            Verdict::Forged => {
                count(&self.counters.announcements_forged);
                self.blame(forwarder, Offence::ForgedAnnouncement).await;
            }
        }
        verdict
    }

    /// Tells the peer book where a provider is, which answers whether any of it is new. A dropped
    /// reply says that the provider does not tell.
    pub(super) async fn learn(&self, provider: &PeerId, reply: Option<oneshot::Sender<bool>>) {
        if let Some(known) = self.directory.addresses(provider) {
            self.command(Command::Learn(known, reply)).await;
        }
    }

    /// Tells for `netcheck`, whose advice it is to check the clock.
    async fn tell_off_clock(&mut self, bytes: &[u8], ahead: bool) {
        if !self.off_clock.try_take(OFF_CLOCK_RATE, 1, Instant::now()) {
            return;
        }
        if let Ok(signed) = SignedAnnouncement::decode(bytes) {
            let off = OffClock::new(ahead);
            self.command(Command::OffClock(signed.body.peer, off)).await;
        }
    }

    fn complain(&mut self, ahead: bool) {
        let now = Instant::now();
        let recently = self
            .complained
            .is_some_and(|at| now.duration_since(at) < COMPLAIN_EVERY);
        if !recently {
            self.complained = Some(now);
            let direction = if ahead { "ahead" } else { "behind" };
            tracing::warn!(
                direction,
                "announcements that are off by over four hours are ignored; check the clock of this machine"
            );
        }
    }
}
