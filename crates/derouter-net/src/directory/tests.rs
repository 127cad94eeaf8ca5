use derouter_wire::announce::{AnnouncementBody, OfferList, OfferListHash};
use derouter_wire::gossip::Announcement;
use libp2p::identity::Keypair;
use proptest::prelude::*;

use super::*;

const CLOCK: UnixSeconds = UnixSeconds(1_700_000_000);

fn key(seed: u8) -> Keypair {
    let mut bytes = [seed; 32];
    Keypair::ed25519_from_bytes(&mut bytes).unwrap()
}

fn list(name: &str) -> OfferList {
    OfferList::encode(&Announcement {
        name: Some(name.to_owned()),
        ..Announcement::default()
    })
    .unwrap()
}

fn body(keypair: &Keypair, sequence: u64, list: Option<&OfferList>) -> AnnouncementBody {
    AnnouncementBody {
        peer: keypair.public().to_peer_id(),
        sequence,
        issued_at: CLOCK,
        lasts: 660,
        list: list.map(|list| list.summary),
        tags: Vec::new(),
        addresses: Vec::new(),
    }
}

fn signed(keypair: &Keypair, sequence: u64, list: Option<&OfferList>) -> Vec<u8> {
    let body = body(keypair, sequence, list);
    SignedAnnouncement::sign(body, keypair).unwrap().encode()
}

/// A directory, and the time of its test.
struct Bench {
    directory: Directory,
    now: Instant,
    forwarder: PeerId,
}

impl Bench {
    fn new() -> Self {
        Self {
            directory: Directory::new(PeerId::random()),
            now: Instant::now(),
            forwarder: PeerId::random(),
        }
    }

    fn judge(&mut self, bytes: &[u8]) -> Verdict {
        self.judge_from(self.forwarder, bytes, None)
    }

    fn judge_from(&mut self, forwarder: PeerId, bytes: &[u8], remaining: Option<u32>) -> Verdict {
        let arrival = Arrival {
            forwarder,
            bytes,
            remaining,
        };
        self.directory.judge(arrival, self.now, CLOCK)
    }

    fn pull(&mut self, connected: &[PeerId]) -> Option<PullPlan> {
        self.directory.take_pull(connected, 0, self.now)
    }

    fn give(&mut self, provider: &PeerId, list: &OfferList) -> bool {
        let outcome = PullOutcome::List(Arc::from(list.bytes.clone()));
        self.directory
            .pulled(provider, list.summary.hash, outcome, self.now, 0.5)
    }

    fn miss(&mut self, provider: &PeerId, list: &OfferList) {
        let nothing = PullOutcome::Nothing;
        self.directory
            .pulled(provider, list.summary.hash, nothing, self.now, 0.5);
    }
}

fn is_new(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::New { .. })
}

#[test]
fn an_announcement_is_new_once_and_its_duplicate_costs_no_signature_check() {
    let mut bench = Bench::new();
    let (key, list) = (key(1), list("a"));
    let first = signed(&key, 10, Some(&list));
    assert!(is_new(bench.judge(&first)));
    assert_eq!(bench.directory.signature_checks(), 1);
    for _ in 0..100 {
        assert_eq!(bench.judge(&first), Verdict::Old);
        let older = signed(&key, 9, Some(&list));
        assert_eq!(
            bench.judge_from(PeerId::random(), &older, None),
            Verdict::Old
        );
    }
    assert_eq!(bench.directory.signature_checks(), 1);
    assert!(is_new(bench.judge(&signed(&key, 11, Some(&list)))));
    assert_eq!(bench.directory.signature_checks(), 2);
    assert_eq!(bench.directory.len(), 1);
}

#[test]
fn a_forgery_changes_nothing() {
    let mut bench = Bench::new();
    let (victim, other) = (key(1), key(2));
    let good = signed(&victim, 10, None);
    assert!(is_new(bench.judge(&good)));
    let mut forged = signed(&victim, 99, None);
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(bench.judge(&forged), Verdict::Forged);
    assert!(is_new(bench.judge(&signed(&victim, 11, None))));
    assert!(is_new(bench.judge(&signed(&other, 1, None))));
    assert_eq!(bench.judge(b"garbage"), Verdict::Invalid);
    assert_eq!(bench.judge(&[0x81; 513]), Verdict::Invalid);
}

#[test]
fn clocks_an_hour_apart_are_believed_and_more_is_not() {
    for (issued_at, ahead) in [(CLOCK.0 + 3601, true), (CLOCK.0 - 3601, false)] {
        let mut bench = Bench::new();
        let key = key(1);
        let mut off = body(&key, 5, None);
        off.issued_at = UnixSeconds(issued_at);
        let bytes = SignedAnnouncement::sign(off.clone(), &key)
            .unwrap()
            .encode();
        assert_eq!(bench.judge(&bytes), Verdict::OffClock(ahead));
        assert_eq!(bench.directory.signature_checks(), 0);
        off.issued_at = UnixSeconds(if ahead {
            CLOCK.0 + 3600
        } else {
            CLOCK.0 - 3600
        });
        let bytes = SignedAnnouncement::sign(off, &key).unwrap().encode();
        assert!(is_new(bench.judge(&bytes)));
    }
}

#[test]
fn what_is_over_is_forgotten_and_a_recording_does_not_bring_it_back() {
    let mut bench = Bench::new();
    let key = key(1);
    let bytes = signed(&key, 10, None);
    assert!(is_new(bench.judge(&bytes)));
    bench.now += Duration::from_secs(659);
    bench.directory.expire(bench.now);
    assert_eq!(bench.directory.len(), 1);
    bench.now += Duration::from_secs(1);
    bench.directory.expire(bench.now);
    assert_eq!(bench.directory.len(), 0);
    assert_eq!(bench.judge(&bytes), Verdict::Old, "a recording");
    assert!(is_new(bench.judge(&signed(&key, 11, None))));
}

#[test]
fn a_copy_that_comes_late_holds_no_longer_than_what_it_is_a_copy_of() {
    let mut bench = Bench::new();
    let key = key(1);
    let bytes = signed(&key, 10, None);
    let forwarder = bench.forwarder;
    assert_eq!(bench.judge_from(forwarder, &bytes, Some(0)), Verdict::Old);
    assert!(is_new(bench.judge_from(forwarder, &bytes, Some(30))));
    let id = SignedAnnouncement::decode(&bytes).unwrap().id();
    let carried = bench.directory.carried(&id, bench.now).unwrap();
    assert_eq!((carried.remaining, carried.announcement.0), (30, bytes));
    bench.now += Duration::from_secs(30);
    bench.directory.expire(bench.now);
    assert_eq!(bench.directory.len(), 0);
    let key = self::key(2);
    let bytes = signed(&key, 10, None);
    assert!(is_new(bench.judge_from(forwarder, &bytes, Some(u32::MAX))));
    bench.now += Duration::from_secs(660);
    bench.directory.expire(bench.now);
    assert_eq!(bench.directory.len(), 0, "nobody makes it hold longer");
}

#[test]
fn a_source_gets_a_burst_and_then_one_announcement_a_second_whoever_forwards_it() {
    let mut bench = Bench::new();
    let key = key(1);
    for sequence in 1..=5 {
        let bytes = signed(&key, sequence, None);
        assert!(is_new(bench.judge_from(PeerId::random(), &bytes, None)));
    }
    let next = signed(&key, 6, None);
    assert_eq!(bench.judge(&next), Verdict::TooMany);
    assert_eq!(bench.directory.signature_checks(), 5);
    bench.now += Duration::from_secs(1);
    assert!(is_new(bench.judge(&next)));
}

#[test]
fn a_forwarder_of_forgeries_runs_out_of_signature_checks_and_others_do_not() {
    let mut bench = Bench::new();
    bench.directory.senders = Senders::default();
    let key = key(1);
    let mut forged = signed(&key, 7, None);
    *forged.last_mut().unwrap() ^= 1;
    let mut judged = 0;
    // The checks themselves are what is bounded: they are not run 20,000 times here.
    for _ in 0..20_000 {
        let may = bench
            .directory
            .senders
            .may_send(bench.forwarder, true, bench.now);
        judged += u32::from(may);
    }
    assert_eq!(judged, 20_000);
    assert_eq!(bench.judge(&forged), Verdict::TooMany);
    assert_eq!(bench.directory.signature_checks(), 0);
    let other = PeerId::random();
    assert_eq!(bench.judge_from(other, &forged, None), Verdict::Forged);
    bench.now += Duration::from_millis(5);
    assert_eq!(bench.judge(&forged), Verdict::Forged, "one more");
}

#[test]
fn a_list_is_asked_of_who_announced_it_then_of_anybody_then_of_the_provider() {
    let mut bench = Bench::new();
    let (key, list) = (key(1), list("a"));
    let provider = key.public().to_peer_id();
    let verdict = bench.judge(&signed(&key, 1, Some(&list)));
    assert_eq!(
        verdict,
        Verdict::New {
            provider,
            complete: false
        }
    );
    assert_eq!(bench.directory.news(&provider, bench.now), None);
    let anybody = PeerId::random();
    let connected = [anybody, bench.forwarder];
    let mut asked = Vec::new();
    for _ in 0..4 {
        let plan = bench.pull(&connected).unwrap();
        assert_eq!(plan.wants, [(provider, list.summary)]);
        asked.push(plan.source);
        assert_eq!(bench.pull(&connected), None, "it is being asked for");
        bench.miss(&provider, &list);
        assert_eq!(bench.pull(&connected), None, "not at once");
        bench.now = bench.directory.next_pull().unwrap();
    }
    assert_eq!(asked, [bench.forwarder, bench.forwarder, anybody, provider]);
    assert!(bench.give(&provider, &list));
    let news = bench.directory.news(&provider, bench.now).unwrap();
    let told = news.list.unwrap().decode().unwrap();
    assert_eq!(told.name.as_deref(), Some("a"));
    let given = bench.directory.list(&provider, &list.summary.hash).unwrap();
    assert_eq!(*given, *list.bytes);
}

#[test]
fn a_list_that_nobody_has_is_given_up_until_the_next_announcement() {
    let mut bench = Bench::new();
    let (key, list) = (key(1), list("a"));
    let provider = key.public().to_peer_id();
    bench.judge(&signed(&key, 1, Some(&list)));
    let mut tries = 0;
    while let Some(next) = bench.directory.next_pull() {
        bench.now = next;
        bench.pull(&[]).unwrap();
        bench.miss(&provider, &list);
        tries += 1;
        assert!(tries < 100, "bounded");
    }
    bench.judge(&signed(&key, 2, Some(&list)));
    assert!(bench.pull(&[]).is_some());
}

#[test]
fn an_unchanged_list_is_not_pulled_again_and_a_changed_one_is() {
    let mut bench = Bench::new();
    let (key, list, other) = (key(1), list("a"), list("b"));
    let provider = key.public().to_peer_id();
    bench.judge(&signed(&key, 1, Some(&list)));
    bench.pull(&[]).unwrap();
    bench.give(&provider, &list);
    let again = bench.judge(&signed(&key, 2, Some(&list)));
    assert_eq!(
        again,
        Verdict::New {
            provider,
            complete: true
        }
    );
    assert_eq!(bench.pull(&[]), None);
    bench.judge(&signed(&key, 3, Some(&other)));
    let plan = bench.pull(&[]).unwrap();
    assert_eq!(plan.wants, [(provider, other.summary)]);
    assert!(!bench.give(&provider, &list), "the old one comes late");
    assert!(bench.give(&provider, &other));
    bench.judge(&signed(&key, 4, None));
    let news = bench.directory.news(&provider, bench.now).unwrap();
    assert_eq!((news.sequence, news.list), (4, None));
    assert_eq!(bench.directory.list_bytes, 0);
}

#[test]
fn lists_of_one_peer_are_asked_for_together() {
    let mut bench = Bench::new();
    let list = list("a");
    for seed in 1..=100 {
        bench.judge(&signed(&key(seed), 1, Some(&list)));
    }
    let connected = [bench.forwarder];
    assert_eq!(bench.pull(&connected).unwrap().wants.len(), 64);
    assert_eq!(bench.pull(&connected).unwrap().wants.len(), 36);
    assert_eq!(bench.pull(&connected), None);
}

#[test]
fn own_announcements_are_given_to_others_and_not_believed_from_them() {
    let key = key(1);
    let local = key.public().to_peer_id();
    let mut bench = Bench::new();
    bench.directory = Directory::new(local);
    let list = list("mine");
    let own = SignedAnnouncement::sign(body(&key, 5, Some(&list)), &key).unwrap();
    let bytes: Arc<[u8]> = Arc::from(list.bytes.clone());
    bench.directory.insert_own(&own, Some(bytes), bench.now);
    assert!(bench.directory.list(&local, &list.summary.hash).is_some());
    assert_eq!(bench.directory.items(u16::MAX).count(), 1);
    assert_eq!(bench.judge(&signed(&key, 6, None)), Verdict::Old);
    let shard = 1 << shard_of(&local);
    assert_eq!(bench.directory.items(shard).count(), 1);
    assert_eq!(bench.directory.items(!shard).count(), 0);
}

#[test]
fn announcements_of_a_blocked_provider_are_not_taken_from_anybody() {
    let (blocked, other) = (key(1), key(2));
    let mut bench = Bench::new();
    let peers = [blocked.public().to_peer_id()].into();
    bench.directory.block(peers);
    assert_eq!(bench.judge(&signed(&blocked, 5, None)), Verdict::Old);
    assert!(matches!(
        bench.judge(&signed(&other, 5, None)),
        Verdict::New { .. }
    ));
    assert_eq!(bench.directory.len(), 1);
}

/// What may happen to a directory.
#[derive(Debug, Clone)]
enum Step {
    Announce { key: u8, sequence: u64, list: u8 },
    Give { key: u8, list: u8 },
    Pull,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..5_u8, 1..40_u64, 0..4_u8)
            .prop_map(|(key, sequence, list)| Step::Announce { key, sequence, list }),
        2 => (1..5_u8, 1..4_u8).prop_map(|(key, list)| Step::Give { key, list }),
        1 => Just(Step::Pull),
        1 => (0..900_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_sequence_never_falls_and_the_books_balance(steps in prop::collection::vec(step(), 1..60)) {
        let mut bench = Bench::new();
        let lists = [list(""), list("a"), list("bb"), list("ccc")];
        let mut last: HashMap<u8, u64> = HashMap::new();
        for step in steps {
            match step {
                Step::Announce { key: seed, sequence, list } => {
                    let list = (list > 0).then(|| &lists[usize::from(list)]);
                    let bytes = signed(&key(seed), sequence, list);
                    if is_new(bench.judge(&bytes)) {
                        let before = last.insert(seed, sequence);
                        prop_assert!(before.is_none_or(|before| before < sequence));
                    }
                }
                Step::Give { key: seed, list } => {
                    let provider = key(seed).public().to_peer_id();
                    bench.give(&provider, &lists[usize::from(list)]);
                }
                Step::Pull => {
                    bench.pull(&[]);
                }
                Step::Pass(seconds) => {
                    bench.now += Duration::from_secs(seconds);
                    bench.directory.expire(bench.now);
                }
            }
            let held: usize = bench.directory.entries.values().map(|entry| match &entry.list {
                ListState::Here(list) => list.len(),
                _ => 0,
            }).sum();
            prop_assert_eq!(held, bench.directory.list_bytes);
            prop_assert_eq!(bench.directory.by_id.len(), bench.directory.entries.len());
            for (peer, entry) in &bench.directory.entries {
                if let (ListState::Here(list), Some(summary)) = (&entry.list, entry.summary) {
                    prop_assert_eq!(OfferListHash::of(list), summary.hash);
                }
                prop_assert!(bench.directory.floors.get(peer).is_none_or(|floor| floor < entry.sequence));
            }
        }
    }
}

#[test]
fn what_holds_is_older_by_the_time_that_was_slept() {
    let mut bench = Bench::new();
    let providers = [key(1), key(2)];
    assert!(is_new(bench.judge(&signed(&providers[0], 1, None))));
    let given = signed(&providers[1], 1, None);
    assert!(is_new(bench.judge_from(bench.forwarder, &given, Some(300))));
    bench.directory.slept(Duration::from_secs(300), bench.now);
    bench.directory.expire(bench.now);
    let [long, short] = providers.map(|key| key.public().to_peer_id());
    assert!(bench.directory.news(&short, bench.now).is_none());
    let news = bench.directory.news(&long, bench.now).unwrap();
    assert_eq!(news.lasting, Duration::from_secs(360));
}

#[test]
fn only_what_has_more_than_half_of_its_time_left_is_spread() {
    let mut bench = Bench::new();
    let provider = key(1);
    let peer = provider.public().to_peer_id();
    let given = signed(&provider, 1, None);
    assert!(is_new(bench.judge_from(bench.forwarder, &given, Some(331))));
    let spread = |bench: &Bench, after| {
        let now = bench.now + Duration::from_secs(after);
        bench.directory.fresh_announcement(&peer, now).is_some()
    };
    assert!(spread(&bench, 0));
    assert!(!spread(&bench, 1));
    assert!(bench.directory.announcement(&peer).is_some(), "kept");
}
