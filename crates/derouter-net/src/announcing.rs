//! When this node announces, and with which sequence number (wire 0.2). Pure: the caller gives the
//! time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use derouter_wire::announce::{AnnouncementBody, ListSummary, OfferList, protocol_tag};
use derouter_wire::gossip::Announcement;
use derouter_wire::limits::ANNOUNCEMENT_TAGS;
use derouter_wire::{PeerId, UnixSeconds};

/// Changes within this are sent as one.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Never two announcements within this: receivers allow one a second.
const MIN_GAP: Duration = Duration::from_secs(1);
/// The longest time without an announcement; the shortest is four fifths of it.
const REFRESH: Duration = Duration::from_secs(300);
/// How long one holds: two refreshes at their longest, and a minute.
const LASTS: u32 = 660;
/// What no peer took is handed out again after one to five of these.
const RETRY: Duration = Duration::from_secs(1);

/// The two clocks, and chance from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) now: Instant,
    pub(crate) unix_millis: u64,
    pub(crate) jitter: f64,
}

#[derive(Debug)]
struct Offered {
    summary: ListSummary,
    bytes: Arc<[u8]>,
    tags: Vec<[u8; 8]>,
    updated_at: UnixSeconds,
}

/// Decides when an announcement is due and what it says.
#[derive(Debug)]
pub(crate) struct OwnAnnouncements {
    local: PeerId,
    offered: Option<Offered>,
    /// Where this node is reached, best first.
    addresses: Vec<Vec<u8>>,
    /// The same, as the last announcement had it.
    told_addresses: Vec<Vec<u8>>,
    /// Whether others may know of an offer that is not taken back.
    told: bool,
    sequence: u64,
    due: Option<Instant>,
    last_at: Option<Instant>,
    /// When to hand out the last one once more: no peer took it.
    again: Option<Instant>,
}

impl OwnAnnouncements {
    /// `floor`: a sequence number that no earlier run went beyond.
    pub(crate) fn new(local: PeerId, floor: u64) -> Self {
        Self {
            local,
            offered: None,
            addresses: Vec::new(),
            told_addresses: Vec::new(),
            told: false,
            sequence: floor,
            due: None,
            last_at: None,
            again: None,
        }
    }

    /// What is announced from now on; `None` or no offers take back what was.
    pub(crate) fn announce(&mut self, announcement: Option<&Announcement>, now: Instant) {
        let offers = announcement.filter(|announcement| !announcement.offers.is_empty());
        let offered = offers.and_then(|announcement| match OfferList::encode(announcement) {
            Ok(list) => Some(offered(announcement, list)),
            Err(error) => {
                tracing::warn!(%error, "the offers can't be announced");
                None
            }
        });
        let before = self.offered.as_ref().map(|offered| offered.summary);
        let after = offered.as_ref().map(|offered| offered.summary);
        self.offered = offered;
        if before == after {
            return;
        }
        if after.is_none() && !self.told {
            self.due = None;
            return;
        }
        self.due_within(now, DEBOUNCE);
    }

    /// Where this node is reached now, best first. What the last announcement did not say is
    /// announced, whoever noticed it first: until then others look for this node in vain.
    pub(crate) fn reached_at(&mut self, addresses: Vec<Vec<u8>>, now: Instant) {
        self.addresses = addresses;
        if self.told && self.addresses != self.told_addresses {
            self.due_within(now, DEBOUNCE);
        }
    }

    /// The machine slept: what others knew may be over.
    pub(crate) fn slept(&mut self, now: Instant) {
        if self.told {
            self.due_within(now, Duration::ZERO);
        }
    }

    /// No peer took the last one: there was none, or none had room. `jitter` is from 0 to 1.
    pub(crate) fn unpublished(&mut self, now: Instant, jitter: f64) {
        self.again = Some(now + RETRY.mul_f64(1.0 + 4.0 * jitter));
    }

    /// Whether to hand out the last one once more now.
    pub(crate) fn take_again(&mut self, now: Instant) -> bool {
        let again = self.again.is_some_and(|again| again <= now);
        if again {
            self.again = None;
        }
        again
    }

    /// The list that is offered.
    pub(crate) fn list(&self) -> Option<Arc<[u8]>> {
        self.offered
            .as_ref()
            .map(|offered| Arc::clone(&offered.bytes))
    }

    /// When what is offered was changed.
    pub(crate) fn updated_at(&self) -> UnixSeconds {
        let offered = self.offered.as_ref();
        offered.map_or(UnixSeconds(0), |offered| offered.updated_at)
    }

    /// When something is to be handed out.
    pub(crate) fn due(&self) -> Option<Instant> {
        let times = [self.new_due(), self.again];
        times.into_iter().flatten().min()
    }

    /// When the next announcement is due.
    fn new_due(&self) -> Option<Instant> {
        let earliest = self.last_at.map(|last| last + MIN_GAP);
        self.due.map(|due| earliest.map_or(due, |at| due.max(at)))
    }

    /// The announcement to sign now, if one is due.
    pub(crate) fn take(&mut self, moment: Moment) -> Option<AnnouncementBody> {
        if self.new_due()? > moment.now {
            return None;
        }
        self.told_addresses.clone_from(&self.addresses);
        Some(self.next(moment, self.addresses.clone()))
    }

    /// The announcement before a stop: only one that takes back.
    pub(crate) fn take_last(&mut self, moment: Moment) -> Option<AnnouncementBody> {
        self.offered = None;
        self.told.then(|| self.next(moment, Vec::new()))
    }

    fn next(&mut self, moment: Moment, addresses: Vec<Vec<u8>>) -> AnnouncementBody {
        self.sequence = moment.unix_millis.max(self.sequence.saturating_add(1));
        self.last_at = Some(moment.now);
        self.again = None;
        self.told = self.offered.is_some();
        // Spread, so that providers that started together do not announce together.
        let refresh = REFRESH.mul_f64(0.8 + moment.jitter / 5.0);
        self.due = self.told.then(|| moment.now + refresh);
        let offered = self.offered.as_ref();
        AnnouncementBody {
            peer: self.local,
            sequence: self.sequence,
            issued_at: UnixSeconds(moment.unix_millis / 1000),
            lasts: LASTS,
            list: offered.map(|offered| offered.summary),
            tags: offered
                .map(|offered| offered.tags.clone())
                .unwrap_or_default(),
            addresses,
        }
    }

    fn due_within(&mut self, now: Instant, delay: Duration) {
        let latest = now + delay;
        self.due = Some(self.due.map_or(latest, |due| due.min(latest)));
    }
}

fn offered(announcement: &Announcement, list: OfferList) -> Offered {
    let protocols = announcement.offers.keys().take(ANNOUNCEMENT_TAGS);
    Offered {
        summary: list.summary,
        bytes: Arc::from(list.bytes),
        tags: protocols.map(protocol_tag).collect(),
        updated_at: announcement.updated_at,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use derouter_wire::gossip::AnnouncedOffer;
    use derouter_wire::{OfferId, ProtocolId};

    use super::*;

    fn offers(payload: &str) -> Announcement {
        let offer = AnnouncedOffer {
            protocol_payload: payload.to_owned(),
        };
        let offers = BTreeMap::from([(OfferId::new("offer").unwrap(), offer)]);
        Announcement {
            offers: BTreeMap::from([(ProtocolId::new("test").unwrap(), offers)]),
            ..Announcement::default()
        }
    }

    fn moment(now: Instant) -> Moment {
        Moment {
            now,
            unix_millis: 1_700_000_000_000,
            jitter: 0.5,
        }
    }

    #[test]
    fn a_change_is_announced_soon_and_then_every_five_minutes_or_so() {
        let mut own = OwnAnnouncements::new(PeerId::random(), 0);
        let start = Instant::now();
        own.announce(Some(&offers("a")), start);
        own.announce(Some(&offers("b")), start + Duration::from_millis(50));
        assert_eq!(own.take(moment(start)), None, "not yet");
        own.reached_at(vec![vec![1]], start);
        let first = own
            .take(moment(start + DEBOUNCE))
            .expect("both changes at once");
        assert_eq!(first.tags.len(), 1);
        assert_eq!(first.addresses, [vec![1]]);
        let next = own.due().unwrap();
        assert_eq!(next, start + DEBOUNCE + REFRESH.mul_f64(0.9));
        own.announce(Some(&offers("b")), next);
        assert_eq!(own.due(), Some(next), "the same is no change");
        let again = own.take(moment(next)).unwrap();
        assert_eq!(again.list, first.list);
        assert!(again.sequence > first.sequence, "although the clock stood");
    }

    #[test]
    fn one_refresh_may_be_lost_however_late_both_come() {
        for jitter in [0.0, 1.0] {
            let mut own = OwnAnnouncements::new(PeerId::random(), 0);
            let start = Instant::now();
            let at = |now| Moment {
                jitter,
                ..moment(now)
            };
            own.announce(Some(&offers("a")), start);
            let first = start + DEBOUNCE;
            let body = own.take(at(first)).unwrap();
            let lost = own.due().unwrap();
            own.take(at(lost)).unwrap();
            let heard = own.due().unwrap();
            let over = first + Duration::from_secs(u64::from(body.lasts));
            assert!(heard + Duration::from_secs(60) <= over);
            assert!(lost >= first + Duration::from_secs(240));
        }
    }

    #[test]
    fn what_no_peer_took_is_handed_out_again_until_one_does() {
        let mut own = OwnAnnouncements::new(PeerId::random(), 0);
        let start = Instant::now();
        own.announce(Some(&offers("a")), start);
        let first = start + DEBOUNCE;
        own.take(moment(first)).unwrap();
        assert!(!own.take_again(first + REFRESH), "it was taken");
        for jitter in [0.0, 1.0] {
            own.unpublished(first, jitter);
            let again = own.due().unwrap();
            assert!(again >= first + RETRY && again <= first + RETRY * 5);
            assert_eq!(own.take(moment(again)), None, "it is the same");
            assert!(!own.take_again(first) && own.take_again(again));
        }
    }

    #[test]
    fn a_place_that_is_first_seen_when_the_last_one_is_handed_out_again_is_announced_too() {
        let mut own = OwnAnnouncements::new(PeerId::random(), 0);
        let start = Instant::now();
        let (direct, relayed) = (vec![vec![1]], vec![vec![2], vec![3]]);
        own.reached_at(direct.clone(), start);
        own.announce(Some(&offers("a")), start);
        let first = start + DEBOUNCE;
        let body = own.take(moment(first)).unwrap();
        assert_eq!(body.addresses, direct);
        own.unpublished(first, 0.0);
        // Nobody was there to take it, and meanwhile relays are.
        let again = own.due().unwrap();
        own.reached_at(relayed.clone(), again);
        assert_eq!(own.take(moment(again)), None, "not yet");
        assert!(own.take_again(again));
        // Whoever asks where it is reached after that sees no change any more.
        own.reached_at(relayed.clone(), again);
        let due = own.due().unwrap();
        assert!(due <= again + DEBOUNCE);
        assert_eq!(own.take(moment(due)).unwrap().addresses, relayed);
        own.reached_at(relayed, due);
        assert!(own.due().unwrap() > due + MIN_GAP, "the same is no change");
    }

    #[test]
    fn what_was_told_is_told_again_after_a_sleep_and_what_was_taken_back_is_not() {
        let mut own = OwnAnnouncements::new(PeerId::random(), 0);
        let start = Instant::now();
        own.slept(start);
        assert_eq!(own.due(), None);
        own.announce(Some(&offers("a")), start);
        own.take(moment(start + DEBOUNCE)).unwrap();
        let woken = start + Duration::from_secs(10);
        own.slept(woken);
        assert_eq!(own.due(), Some(woken));
        own.announce(None, woken);
        own.take(moment(woken + DEBOUNCE)).unwrap();
        own.slept(woken + MIN_GAP * 2);
        assert_eq!(own.due(), None);
    }

    #[test]
    fn announcements_are_a_second_apart() {
        let mut own = OwnAnnouncements::new(PeerId::random(), 0);
        let start = Instant::now();
        own.announce(Some(&offers("a")), start);
        let first = start + DEBOUNCE;
        own.take(moment(first)).unwrap();
        own.announce(Some(&offers("b")), first);
        assert_eq!(own.due(), Some(first + MIN_GAP));
    }

    #[test]
    fn what_was_told_is_taken_back_once_and_what_was_not_is_not() {
        let mut own = OwnAnnouncements::new(PeerId::random(), 0);
        let start = Instant::now();
        own.announce(Some(&offers("a")), start);
        own.announce(None, start);
        assert_eq!(own.due(), None);
        assert_eq!(own.take_last(moment(start)), None);
        own.announce(Some(&offers("a")), start);
        own.take(moment(start + DEBOUNCE)).unwrap();
        let last = own.take_last(moment(start + DEBOUNCE)).unwrap();
        assert_eq!(last.list, None);
        assert_eq!(own.take_last(moment(start + DEBOUNCE)), None);
    }

    #[test]
    fn the_sequence_rises_above_that_of_an_earlier_run_whose_clock_was_ahead() {
        let floor = 1_800_000_000_000;
        let mut own = OwnAnnouncements::new(PeerId::random(), floor);
        let start = Instant::now();
        own.announce(Some(&offers("a")), start);
        let first = own.take(moment(start + DEBOUNCE)).unwrap();
        assert_eq!(first.sequence, floor + 1);
        assert_eq!(first.issued_at, UnixSeconds(1_700_000_000));
    }
}
