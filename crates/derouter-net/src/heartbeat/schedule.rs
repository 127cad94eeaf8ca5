//! When this node's heartbeats are sent, and with which times. Pure: the caller gives the time.

use std::time::{Duration, Instant};

use derouter_wire::UnixSeconds;
use derouter_wire::gossip::{Announcement, Heartbeat};

use super::SentHeartbeat;
use super::bucket::{Bucket, Rate};

/// How often while something is announced (wire 0.1).
const INTERVAL: Duration = Duration::from_secs(30);
/// Changes within this are sent as one.
const DEBOUNCE: Duration = Duration::from_millis(250);
/// Never two heartbeats within this: their timestamps are whole seconds.
const MIN_GAP: Duration = Duration::from_secs(1);
/// A heartbeat that found no peer is tried again after this, or when a peer subscribes.
const RETRY: Duration = Duration::from_secs(5);
/// Heartbeats for new subscribers. Each goes to everybody, so peers that come and go all the time
/// must wait for the next one, which then tells all of them.
const SUBSCRIBER_RATE: Rate = Rate {
    every: Duration::from_secs(10),
    burst: 3,
};

#[derive(Debug, Clone, PartialEq)]
enum State {
    /// Nothing to say.
    Silent,
    /// Offers to tell of.
    Announcing(Announcement),
    /// One heartbeat that takes the offers back.
    Withdrawing(Announcement),
}

/// Decides when a heartbeat is due and what it says.
#[derive(Debug)]
pub(crate) struct HeartbeatSchedule {
    state: State,
    due: Option<Instant>,
    last_try: Option<Instant>,
    last: SentHeartbeat,
    /// Whether the present announcement, or an earlier one, may be known to others.
    told: bool,
    /// Whether anybody hears heartbeats.
    wanted: bool,
    for_subscribers: Bucket,
}

impl HeartbeatSchedule {
    /// `floor`: the last heartbeat of an earlier run.
    pub(crate) fn new(floor: SentHeartbeat) -> Self {
        Self {
            state: State::Silent,
            due: None,
            last_try: None,
            last: floor,
            told: false,
            wanted: true,
            for_subscribers: Bucket::default(),
        }
    }

    /// The times of the last heartbeat that was given out.
    pub(crate) fn last(&self) -> SentHeartbeat {
        self.last
    }

    /// What is announced from now on; `None` or no offers take back what was.
    pub(crate) fn announce(
        &mut self,
        announcement: Option<Announcement>,
        now: Instant,
        clock: UnixSeconds,
    ) {
        let offers = announcement.filter(|announcement| !announcement.offers.is_empty());
        match offers {
            Some(announcement) => self.announce_offers(announcement, now),
            None => self.withdraw(now, clock),
        }
    }

    fn announce_offers(&mut self, mut announcement: Announcement, now: Instant) {
        if let State::Announcing(present) = &self.state {
            announcement.updated_at = announcement.updated_at.max(present.updated_at);
            if same_content(present, &announcement) {
                announcement.updated_at = present.updated_at;
            }
            if *present == announcement {
                return;
            }
        }
        // Receivers look at the offers only when `updated_at` rises.
        let floor = self.last.updated_at.0.saturating_add(1);
        announcement.updated_at.0 = announcement.updated_at.0.max(floor);
        self.state = State::Announcing(announcement);
        self.due_within(now, DEBOUNCE);
    }

    fn withdraw(&mut self, now: Instant, clock: UnixSeconds) {
        let State::Announcing(present) = &self.state else {
            return;
        };
        if !self.told {
            self.state = State::Silent;
            self.due = None;
            return;
        }
        let updated_at = clock.0.max(self.last.updated_at.0.saturating_add(1));
        let empty = Announcement {
            offers: Default::default(),
            updated_at: UnixSeconds(updated_at),
            ..present.clone()
        };
        self.state = State::Withdrawing(empty);
        self.due_within(now, DEBOUNCE);
    }

    /// A peer subscribed to the topic. It is told within a second or so, or within 10 s when many
    /// came just before.
    pub(crate) fn subscribed(&mut self, now: Instant) {
        if self.state == State::Silent {
            return;
        }
        let ready = self.for_subscribers.ready_at(SUBSCRIBER_RATE, 1, now);
        let wanted = ready.max(now + DEBOUNCE);
        if self.due.is_some_and(|due| due <= wanted) {
            return;
        }
        self.for_subscribers.take(SUBSCRIBER_RATE, 1, now);
        self.due = Some(wanted);
    }

    /// Whether there is anybody who hears heartbeats. When there is again, one is due at once.
    pub(crate) fn set_wanted(&mut self, wanted: bool, now: Instant) {
        let before = std::mem::replace(&mut self.wanted, wanted);
        if wanted && !before && self.state != State::Silent {
            self.due_within(now, DEBOUNCE);
        }
    }

    /// When the next heartbeat is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        if !self.wanted {
            return None;
        }
        let earliest = self.last_try.map(|last| last + MIN_GAP);
        self.due
            .map(|due| earliest.map_or(due, |earliest| due.max(earliest)))
    }

    /// The heartbeat to publish now, if one is due. Say how it went with
    /// [`HeartbeatSchedule::published`].
    pub(crate) fn take(&mut self, now: Instant, clock: UnixSeconds) -> Option<Heartbeat> {
        if self.due()? > now {
            return None;
        }
        self.take_now(now, clock)
    }

    /// The heartbeat to publish before a stop, whether due or not: only one that takes back.
    pub(crate) fn take_last(&mut self, now: Instant, clock: UnixSeconds) -> Option<Heartbeat> {
        self.withdraw(now, clock);
        let tells = self.wanted && matches!(self.state, State::Withdrawing(_));
        tells.then(|| self.take_now(now, clock))?
    }

    fn take_now(&mut self, now: Instant, clock: UnixSeconds) -> Option<Heartbeat> {
        let announcement = match &self.state {
            State::Silent => {
                self.due = None;
                return None;
            }
            State::Announcing(announcement) | State::Withdrawing(announcement) => announcement,
        };
        let timestamp = UnixSeconds(clock.0.max(self.last.timestamp.0.saturating_add(1)));
        let heartbeat = Heartbeat {
            provider: Some(announcement.clone()),
            timestamp,
        };
        self.last = SentHeartbeat {
            timestamp,
            updated_at: announcement.updated_at,
        };
        self.last_try = Some(now);
        self.due = Some(now + INTERVAL);
        Some(heartbeat)
    }

    /// Whether what [`HeartbeatSchedule::take`] gave has been handed to at least one peer.
    pub(crate) fn published(&mut self, now: Instant, ok: bool) {
        if !ok {
            self.due = Some(now + RETRY);
            return;
        }
        match self.state {
            State::Withdrawing(_) => {
                self.state = State::Silent;
                self.due = None;
                self.told = false;
            }
            State::Announcing(_) => self.told = true,
            State::Silent => {}
        }
    }

    fn due_within(&mut self, now: Instant, delay: Duration) {
        let latest = now + delay;
        self.due = Some(self.due.map_or(latest, |due| due.min(latest)));
    }
}

fn same_content(one: &Announcement, other: &Announcement) -> bool {
    one.name == other.name
        && one.teaser == other.teaser
        && one.description == other.description
        && one.offers == other.offers
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use derouter_wire::gossip::AnnouncedOffer;
    use derouter_wire::{OfferId, ProtocolId};

    use super::*;

    const CLOCK: UnixSeconds = UnixSeconds(1_700_000_000);

    fn offers(payload: &str, updated_at: u64) -> Announcement {
        let offer = AnnouncedOffer {
            protocol_payload: payload.to_owned(),
        };
        let offers = BTreeMap::from([(OfferId::new("offer").unwrap(), offer)]);
        Announcement {
            offers: BTreeMap::from([(ProtocolId::new("test").unwrap(), offers)]),
            updated_at: UnixSeconds(updated_at),
            ..Announcement::default()
        }
    }

    fn schedule() -> HeartbeatSchedule {
        HeartbeatSchedule::new(SentHeartbeat::default())
    }

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Takes and publishes what is due at `now`.
    fn send(schedule: &mut HeartbeatSchedule, now: Instant) -> Heartbeat {
        let heartbeat = schedule.take(now, CLOCK).unwrap();
        schedule.published(now, true);
        heartbeat
    }

    #[test]
    fn nothing_is_sent_while_nobody_hears_and_one_comes_at_once_when_somebody_does() {
        let mut schedule = schedule();
        let now = Instant::now();
        schedule.set_wanted(false, now);
        schedule.announce(Some(offers("a", 1)), now, CLOCK);
        assert_eq!(schedule.take(now + INTERVAL, CLOCK), None);
        assert_eq!(schedule.due(), None);
        let later = now + INTERVAL;
        schedule.set_wanted(true, later);
        assert!(schedule.due().unwrap() <= later + DEBOUNCE);
        send(&mut schedule, later + DEBOUNCE);
        schedule.set_wanted(false, later + DEBOUNCE);
        assert_eq!(schedule.take(later + INTERVAL * 3, CLOCK), None);
        assert_eq!(schedule.take_last(later + INTERVAL * 3, CLOCK), None);
    }

    #[test]
    fn nothing_is_sent_while_nothing_was_ever_announced() {
        let mut schedule = schedule();
        let now = Instant::now();
        schedule.subscribed(now);
        schedule.announce(None, now, CLOCK);
        schedule.announce(Some(Announcement::default()), now, CLOCK);
        assert_eq!(schedule.due(), None);
        assert_eq!(schedule.take(now + INTERVAL, CLOCK), None);
        assert_eq!(schedule.take_last(now, CLOCK), None);
    }

    #[test]
    fn changes_close_together_are_one_heartbeat_and_then_one_comes_every_30_seconds() {
        let mut schedule = schedule();
        let now = Instant::now();
        schedule.announce(Some(offers("a", 1)), now, CLOCK);
        schedule.announce(Some(offers("b", 2)), now + millis(200), CLOCK);
        assert_eq!(schedule.due(), Some(now + millis(250)));
        assert_eq!(schedule.take(now + millis(249), CLOCK), None);
        let first = send(&mut schedule, now + millis(250));
        assert_eq!(first.provider, Some(offers("b", 2)));
        assert_eq!(first.timestamp, CLOCK);
        assert_eq!(schedule.due(), Some(now + millis(30_250)));
        let second = send(&mut schedule, now + millis(30_250));
        assert_eq!(second.provider, first.provider);
        assert_eq!(second.timestamp.0, CLOCK.0 + 1, "the clock stood still");
    }

    #[test]
    fn never_two_within_a_second() {
        let mut schedule = schedule();
        let now = Instant::now();
        schedule.announce(Some(offers("a", 1)), now, CLOCK);
        let sent = now + millis(250);
        send(&mut schedule, sent);
        schedule.announce(Some(offers("b", 2)), sent, CLOCK);
        schedule.subscribed(sent);
        assert_eq!(schedule.due(), Some(sent + MIN_GAP));
        assert_eq!(schedule.take(sent + millis(999), CLOCK), None);
        assert!(schedule.take(sent + MIN_GAP, CLOCK).is_some());
    }

    #[test]
    fn the_same_announcement_again_changes_nothing() {
        let mut schedule = schedule();
        let now = Instant::now();
        schedule.announce(Some(offers("a", 5)), now, CLOCK);
        send(&mut schedule, now + millis(250));
        let due = schedule.due();
        schedule.announce(Some(offers("a", 6)), now + millis(300), CLOCK);
        assert_eq!(schedule.due(), due);
    }

    #[test]
    fn a_new_subscriber_is_told_within_a_second() {
        let mut schedule = schedule();
        let now = Instant::now();
        schedule.announce(Some(offers("a", 1)), now, CLOCK);
        let sent = now + millis(250);
        send(&mut schedule, sent);
        schedule.subscribed(sent);
        assert_eq!(schedule.due(), Some(sent + MIN_GAP));
        send(&mut schedule, sent + MIN_GAP);
        schedule.subscribed(sent + millis(5000));
        assert_eq!(schedule.due(), Some(sent + millis(5250)));
    }

    #[test]
    fn peers_that_keep_subscribing_are_told_three_times_and_then_every_10_seconds() {
        let mut schedule = schedule();
        let start = Instant::now();
        schedule.announce(Some(offers("a", 1)), start, CLOCK);
        let mut sent = Vec::new();
        for step in 0..240 {
            let now = start + millis(step * 250);
            if schedule.take(now, CLOCK).is_some() {
                schedule.published(now, true);
                sent.push(now - start);
            }
            schedule.subscribed(now);
        }
        let expected = [250, 1250, 2250, 3250];
        assert_eq!(sent.get(..4), Some(&expected.map(millis)[..]));
        assert_eq!(sent.len(), 4 + 5, "{sent:?}");
        let gaps = sent[4..].windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.clone().all(|gap| gap == millis(10_000)), "{sent:?}");
    }

    #[test]
    fn the_last_offer_going_is_told_once_with_newer_times() {
        let mut schedule = schedule();
        let now = Instant::now();
        schedule.announce(Some(offers("a", CLOCK.0)), now, CLOCK);
        let first = send(&mut schedule, now + millis(250));
        schedule.announce(None, now + millis(300), CLOCK);
        let taken_back = send(&mut schedule, now + millis(1250));
        let announcement = taken_back.provider.unwrap();
        assert!(announcement.offers.is_empty());
        assert!(announcement.updated_at > first.provider.unwrap().updated_at);
        assert!(taken_back.timestamp > first.timestamp);
        assert_eq!(schedule.due(), None);
        // Offered again within the same second: still newer than what took them back.
        schedule.announce(
            Some(offers("a", announcement.updated_at.0)),
            now + millis(1300),
            CLOCK,
        );
        let again = send(&mut schedule, now + millis(2250));
        assert!(again.provider.unwrap().updated_at > announcement.updated_at);
    }

    #[test]
    fn offers_that_nobody_heard_of_are_not_taken_back() {
        let mut schedule = schedule();
        let now = Instant::now();
        schedule.announce(Some(offers("a", 1)), now, CLOCK);
        schedule.announce(None, now + millis(10), CLOCK);
        assert_eq!(schedule.due(), None);
    }

    #[test]
    fn a_heartbeat_that_found_no_peer_is_tried_again_when_one_subscribes() {
        let mut schedule = schedule();
        let now = Instant::now();
        schedule.announce(Some(offers("a", 1)), now, CLOCK);
        let tried = now + millis(250);
        schedule.take(tried, CLOCK).unwrap();
        schedule.published(tried, false);
        assert_eq!(schedule.due(), Some(tried + RETRY));
        schedule.subscribed(tried + millis(1500));
        assert_eq!(schedule.due(), Some(tried + millis(1750)));
        assert!(schedule.take(tried + millis(1750), CLOCK).is_some());
    }

    #[test]
    fn a_stop_takes_everything_back_at_once() {
        let mut schedule = schedule();
        let now = Instant::now();
        schedule.announce(Some(offers("a", 1)), now, CLOCK);
        let first = send(&mut schedule, now + millis(250));
        let last = schedule.take_last(now + millis(251), CLOCK).unwrap();
        assert!(last.provider.unwrap().offers.is_empty());
        assert!(last.timestamp > first.timestamp);
    }

    #[test]
    fn times_go_on_rising_after_a_restart_with_a_clock_set_back() {
        let floor = SentHeartbeat {
            timestamp: UnixSeconds(CLOCK.0 + 500),
            updated_at: UnixSeconds(CLOCK.0 + 400),
        };
        let mut schedule = HeartbeatSchedule::new(floor);
        let now = Instant::now();
        schedule.announce(Some(offers("a", CLOCK.0)), now, CLOCK);
        let heartbeat = send(&mut schedule, now + millis(250));
        assert_eq!(heartbeat.timestamp.0, CLOCK.0 + 501);
        assert_eq!(heartbeat.provider.unwrap().updated_at.0, CLOCK.0 + 401);
    }
}
