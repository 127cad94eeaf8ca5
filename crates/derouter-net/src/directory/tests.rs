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

    fn connect(&mut self, peers: &[PeerId]) {
        let peers: Vec<_> = peers.iter().map(|peer| (*peer, None)).collect();
        self.directory.set_connected(&peers, self.now);
    }

    fn pull(&mut self) -> Option<PullPlan> {
        self.directory.take_pull(self.now)
    }

    /// Asking by this plan brought an answer, or did not.
    fn asked(&mut self, plan: &PullPlan, failed: bool) {
        self.asked_for(plan, failed, 0);
    }

    fn asked_for(&mut self, plan: &PullPlan, failed: bool, bytes: usize) {
        let end = PullEnd {
            source: plan.source,
            stranger: plan.stranger,
            failed,
            bytes,
        };
        let now = self.now;
        self.directory.pull_ended(end, Vec::new(), now, 0.5);
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
    for (issued_at, ahead) in [(CLOCK.0 + 14_401, true), (CLOCK.0 - 14_401, false)] {
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
            CLOCK.0 + 14_400
        } else {
            CLOCK.0 - 14_400
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
            .may_send(Origin::Peer(bench.forwarder), true, bench.now);
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
            list: Listed::Coming
        }
    );
    assert_eq!(bench.directory.news(&provider, bench.now), None);
    let anybody = PeerId::random();
    bench.connect(&[anybody, bench.forwarder]);
    let mut asked = Vec::new();
    for _ in 0..8 {
        let plan = bench.pull().unwrap();
        assert_eq!(plan.wants, [(provider, list.summary)]);
        assert_eq!(plan.stranger, plan.source == provider);
        asked.push(plan.source);
        assert_eq!(bench.pull(), None, "it is being asked for");
        bench.asked(&plan, false);
        bench.miss(&provider, &list);
        assert_eq!(bench.pull(), None, "not at once");
        bench.now = bench.directory.next_pull(bench.now).unwrap();
    }
    let forwarder = bench.forwarder;
    assert_eq!(
        (asked[0], asked[3], asked[4], asked[7]),
        (forwarder, provider, forwarder, provider)
    );
    let others = [asked[1], asked[2], asked[5], asked[6]];
    assert!(others.contains(&anybody), "all have their part: {others:?}");
    assert!(!others.contains(&provider));
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
    while let Some(next) = bench.directory.next_pull(bench.now) {
        bench.now = next;
        let plan = bench.pull().unwrap();
        bench.asked(&plan, true);
        bench.miss(&provider, &list);
        tries += 1;
        assert!(tries < 100, "bounded");
    }
    bench.judge(&signed(&key, 2, Some(&list)));
    assert!(bench.pull().is_some());
}

#[test]
fn an_unchanged_list_is_not_pulled_again_and_a_changed_one_is() {
    let mut bench = Bench::new();
    let (key, list, other) = (key(1), list("a"), list("b"));
    let provider = key.public().to_peer_id();
    bench.judge(&signed(&key, 1, Some(&list)));
    bench.pull().unwrap();
    bench.give(&provider, &list);
    let again = bench.judge(&signed(&key, 2, Some(&list)));
    assert_eq!(
        again,
        Verdict::New {
            provider,
            list: Listed::Here
        }
    );
    assert_eq!(bench.pull(), None);
    bench.judge(&signed(&key, 3, Some(&other)));
    let plan = bench.pull().unwrap();
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
    bench.connect(&[bench.forwarder]);
    let list = list("a");
    for seed in 1..=200 {
        bench.judge(&signed(&key(seed), 1, Some(&list)));
    }
    let first = bench.pull().unwrap();
    assert_eq!(first.wants.len(), 64);
    assert_eq!(bench.pull().unwrap().wants.len(), 64);
    assert_eq!(bench.pull(), None, "two at a time");
    assert_eq!(bench.directory.next_pull(bench.now), None);
    bench.asked(&first, false);
    assert_eq!(bench.pull().unwrap().wants.len(), 64);
}

#[test]
fn who_stalls_holds_up_nobody_and_what_it_announced_is_asked_of_others() {
    let mut bench = Bench::new();
    let (staller, other) = (PeerId::random(), PeerId::random());
    bench.connect(&[staller, other]);
    let list = list("a");
    for seed in 1..=200 {
        bench.judge_from(staller, &signed(&key(seed), 1, Some(&list)), None);
    }
    bench.judge_from(other, &signed(&key(251), 1, Some(&list)), None);
    let plans: Vec<PullPlan> = std::iter::from_fn(|| bench.pull()).collect();
    let of_staller = plans.iter().filter(|plan| plan.source == staller);
    assert_eq!(of_staller.count(), 2);
    for plan in &plans {
        bench.asked(plan, plan.source == staller);
    }
    // What it was not asked for yet is asked of the other at once, behind what that brought itself.
    bench.judge_from(other, &signed(&key(252), 1, Some(&list)), None);
    let plan = bench.pull().unwrap();
    let newest = key(252).public().to_peer_id();
    assert_eq!((plan.source, plan.own, plan.wants.len()), (other, 1, 64));
    assert_eq!(plan.wants[0].0, newest);
    bench.asked(&plan, false);
}

#[test]
fn who_does_not_answer_rests_longer_each_time_also_when_it_comes_back() {
    let mut bench = Bench::new();
    let (staller, other) = (PeerId::random(), PeerId::random());
    bench.connect(&[staller, other]);
    let list = list("a");
    let mut seed = 0;
    let mut asked_next = |bench: &mut Bench| {
        seed += 1;
        bench.judge_from(staller, &signed(&key(seed), 1, Some(&list)), None);
        let plan = bench.pull().unwrap();
        bench.asked(&plan, plan.source == staller);
        plan.source
    };
    for rest in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(asked_next(&mut bench), staller);
        bench.connect(&[other]);
        bench.connect(&[staller, other]);
        bench.now += Duration::from_millis(rest * 1000 - 1);
        assert_eq!(asked_next(&mut bench), other, "{rest}");
        bench.now += Duration::from_millis(1);
    }
    assert_eq!(asked_next(&mut bench), staller);
}

#[test]
fn a_list_is_asked_of_whoever_passes_its_announcement_on() {
    let mut bench = Bench::new();
    let (gone, other, third) = (PeerId::random(), PeerId::random(), PeerId::random());
    bench.connect(&[other, third]);
    let list = list("a");
    let bytes = signed(&key(1), 1, Some(&list));
    let provider = key(1).public().to_peer_id();
    bench.judge_from(gone, &bytes, Some(600));
    assert!(
        bench
            .directory
            .carried(&SignedAnnouncement::decode(&bytes).unwrap().id(), bench.now)
            .is_none()
    );
    assert_eq!(
        bench.directory.items(u16::MAX, true).count(),
        0,
        "nothing that we can't give"
    );
    assert_eq!(bench.directory.items(u16::MAX, false).count(), 1);
    for passes_on in [other, third] {
        assert!(!is_new(bench.judge_from(passes_on, &bytes, Some(600))));
        let plan = bench.pull().unwrap();
        assert_eq!((plan.source, plan.own), (passes_on, 1));
        bench.asked(&plan, true);
        bench.miss(&provider, &list);
        bench.now = bench.directory.next_pull(bench.now).unwrap();
    }
    // Also when it was given up.
    while bench.directory.is_coming(&provider) {
        bench.miss(&provider, &list);
    }
    bench.now += Duration::from_secs(120);
    assert_eq!(bench.judge_from(other, &bytes, Some(300)), Verdict::Old);
    assert_eq!(bench.pull().unwrap().source, other);
    bench.give(&provider, &list);
    assert_eq!(bench.directory.items(u16::MAX, true).count(), 1);
}

#[test]
fn announcing_a_list_again_and_again_does_not_put_it_last() {
    let mut bench = Bench::new();
    let list = list("a");
    let provider = key(1).public().to_peer_id();
    bench.connect(&[bench.forwarder]);
    bench.judge(&signed(&key(1), 1, Some(&list)));
    bench.now += Duration::from_secs(1);
    for seed in 2..=100 {
        bench.judge(&signed(&key(seed), 1, Some(&list)));
    }
    bench.now += Duration::from_secs(1);
    bench.judge(&signed(&key(1), 2, Some(&list)));
    assert_eq!(bench.pull().unwrap().wants[0].0, provider);
}

#[test]
fn what_waits_for_a_peer_that_leaves_is_asked_of_those_who_are_there() {
    let mut bench = Bench::new();
    let (list, other) = (list("a"), PeerId::random());
    bench.judge(&signed(&key(1), 1, Some(&list)));
    bench.connect(&[bench.forwarder]);
    bench.connect(&[other]);
    assert_eq!(bench.pull().unwrap().source, other);
    bench.judge(&signed(&key(2), 1, Some(&list)));
    bench.connect(&[]);
    let plan = bench.pull().unwrap();
    assert!(plan.stranger, "nobody else is there");
}

#[test]
fn providers_that_are_not_connected_are_dialled_a_few_at_a_time() {
    let mut bench = Bench::new();
    let list = list("a");
    for seed in 1..=100 {
        bench.judge(&signed(&key(seed), 1, Some(&list)));
    }
    let mut dialled = 0;
    while let Some(plan) = bench.pull() {
        assert!(plan.stranger);
        dialled += 1;
        if dialled % limits::STRANGER_PULLS == 0 {
            assert_eq!(bench.pull(), None, "so many at a time");
            for _ in 0..limits::STRANGER_PULLS {
                bench.asked(&plan, true);
            }
        }
    }
    assert_eq!(dialled, 16);
    let next = bench.directory.next_pull(bench.now).unwrap();
    assert_eq!(next, bench.now + Duration::from_secs(1));
    bench.now = next;
    assert!(bench.pull().is_some());
    assert_eq!(bench.pull(), None);
}

#[test]
fn a_peer_makes_us_pull_so_many_bytes_and_then_only_so_many_a_second() {
    let mut bench = Bench::new();
    bench.connect(&[bench.forwarder]);
    let (mut large, mut pulled) = (list("a"), 0);
    large.summary.bytes = 256 * 1024;
    for seed in 1..=250 {
        bench.judge(&signed(&key(seed), 1, Some(&large)));
    }
    while let Some(plan) = bench.pull() {
        assert!(plan.wants.len() <= 8, "2 MiB at once");
        let bytes = plan.wants.len() * 256 * 1024;
        pulled += bytes;
        bench.asked_for(&plan, false, bytes);
    }
    assert_eq!(pulled, 32 << 20);
    let next = bench.directory.next_pull(bench.now).unwrap();
    assert!(next > bench.now);
    bench.now = next;
    assert!(bench.pull().is_some());
}

#[test]
fn who_says_that_too_little_time_is_left_hides_nobody() {
    let mut bench = Bench::new();
    let (liar, honest) = (bench.forwarder, PeerId::random());
    let key = key(1);
    let provider = key.public().to_peer_id();
    let bytes = signed(&key, 10, None);
    assert!(is_new(bench.judge_from(liar, &bytes, Some(1))));
    let longer = bench.judge_from(honest, &bytes, Some(300));
    let expected = Verdict::Again {
        provider,
        longer: true,
        spread: false,
    };
    assert_eq!(longer, expected);
    assert_eq!(bench.judge_from(liar, &bytes, Some(1)), Verdict::Old);
    bench.now += Duration::from_secs(299);
    bench.directory.expire(bench.now);
    assert_eq!(bench.directory.len(), 1);
    bench.now += Duration::from_secs(1);
    bench.directory.expire(bench.now);
    assert_eq!(bench.directory.len(), 0);
    // Also when it is over here: somebody heard it later than we.
    assert!(is_new(bench.judge_from(honest, &bytes, Some(200))));
    bench.now += Duration::from_secs(200);
    bench.directory.expire(bench.now);
    // But never for longer than its whole time from when it was heard.
    assert!(is_new(bench.judge_from(liar, &bytes, Some(660))));
    bench.now += Duration::from_secs(160);
    bench.directory.expire(bench.now);
    assert_eq!(bench.directory.len(), 0);
    assert_eq!(bench.judge_from(liar, &bytes, Some(660)), Verdict::Old);
    assert_eq!(bench.judge(&bytes), Verdict::Old);
}

#[test]
fn what_an_exchange_brought_is_spread_when_gossip_brings_it_too() {
    let mut bench = Bench::new();
    let (provider, forwarder) = (key(1), bench.forwarder);
    let fresh = signed(&provider, 1, None);
    assert!(is_new(bench.judge_from(forwarder, &fresh, Some(5))));
    let checks = bench.directory.signature_checks();
    let spread = |verdict| matches!(verdict, Verdict::Again { spread: true, .. });
    assert!(spread(bench.judge(&fresh)));
    assert!(!spread(bench.judge(&fresh)), "once");
    assert_eq!(bench.directory.signature_checks(), checks);
    // One that is old by its time and by the clock is a recording.
    let mut old = body(&key(2), 1, None);
    old.issued_at = UnixSeconds(CLOCK.0 - 400);
    let old = SignedAnnouncement::sign(old, &key(2)).unwrap().encode();
    assert!(is_new(bench.judge_from(forwarder, &old, Some(260))));
    assert!(!spread(bench.judge(&old)));
    let gossiped = signed(&key(3), 1, None);
    assert!(is_new(bench.judge(&gossiped)));
    assert_eq!(bench.judge(&gossiped), Verdict::Old);
}

#[test]
fn whoever_brought_most_makes_room_for_what_others_bring() {
    let mut bench = Bench::new();
    bench.directory.room.announcements = 100;
    let (greedy, modest) = (bench.forwarder, PeerId::random());
    let list = list("a");
    for seed in 1..=100 {
        let list = (seed % 2 == 0).then_some(&list);
        bench.judge(&signed(&key(seed), 1, list));
    }
    assert_eq!(bench.judge(&signed(&key(101), 1, None)), Verdict::Full);
    bench.now += ROOM_PAUSE;
    let bytes = signed(&key(102), 1, None);
    assert!(is_new(bench.judge_from(modest, &bytes, None)));
    assert_eq!(bench.directory.len(), 100);
    let kept = |bench: &Bench, seed| {
        let peer = key(seed).public().to_peer_id();
        bench.directory.announcement(&peer).is_some()
    };
    let gone = (1..=100).find(|seed| !kept(&bench, *seed)).unwrap();
    assert_eq!(gone % 2, 0, "first those whose list is not here");
    // Up to an equal share, and no more.
    for seed in 103..=253 {
        bench.now += ROOM_PAUSE;
        bench.judge_from(modest, &signed(&key(seed), 1, None), None);
    }
    let shares = [greedy, modest].map(|peer| bench.directory.shares.of(Origin::Peer(peer)).entries);
    assert_eq!(shares.iter().sum::<usize>(), 100);
    assert!(shares.iter().all(|entries| *entries >= 49), "{shares:?}");
}

#[test]
fn new_names_of_one_network_share_what_it_may_bring() {
    let mut bench = Bench::new();
    bench.directory.room.announcements = 60;
    let network = Subnet::V4([203, 0, 113]);
    let sybils: Vec<PeerId> = (0..5).map(|_| PeerId::random()).collect();
    let honest = PeerId::random();
    let mut places: Vec<_> = sybils.iter().map(|peer| (*peer, Some(network))).collect();
    places.push((honest, Some(Subnet::V4([198, 51, 100]))));
    bench.directory.set_connected(&places, bench.now);
    for seed in 1..=30 {
        bench.judge_from(honest, &signed(&key(seed), 1, None), None);
    }
    for seed in 31..=250 {
        bench.now += ROOM_PAUSE;
        let sybil = sybils[usize::from(seed) % sybils.len()];
        bench.judge_from(sybil, &signed(&key(seed), 1, None), None);
    }
    let shares = [honest, sybils[0]].map(|peer| bench.directory.origin_of(peer));
    let entries = shares.map(|origin| bench.directory.shares.of(origin).entries);
    assert_eq!(entries, [30, 30]);
}

#[test]
fn whoever_brought_the_most_bytes_of_lists_makes_room_for_lists_of_others() {
    let mut bench = Bench::new();
    let large = list(&"x".repeat(1000));
    let bytes = large.bytes.len();
    bench.directory.room.list_bytes = 10 * bytes;
    let (greedy, modest) = (bench.forwarder, PeerId::random());
    for seed in 1..=20 {
        let (key, sequence) = (key(seed), 1);
        let provider = key.public().to_peer_id();
        bench.judge_from(greedy, &signed(&key, sequence, Some(&large)), None);
        bench.give(&provider, &large);
        assert!(bench.directory.list_bytes <= 10 * bytes);
    }
    let held =
        |bench: &Bench, peer| bench.directory.shares.of(Origin::Peer(peer)).list_bytes / bytes;
    assert_eq!(held(&bench, greedy), 10);
    for seed in 21..=40 {
        bench.now += ROOM_PAUSE;
        let key = key(seed);
        bench.judge_from(modest, &signed(&key, 1, Some(&large)), None);
        bench.give(&key.public().to_peer_id(), &large);
    }
    let shares = [greedy, modest].map(|peer| held(&bench, peer));
    assert!(shares.iter().all(|lists| *lists >= 4), "{shares:?}");
    assert!(shares.iter().sum::<usize>() <= 10, "{shares:?}");
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
    assert_eq!(bench.directory.items(u16::MAX, true).count(), 1);
    assert_eq!(bench.judge(&signed(&key, 6, None)), Verdict::Old);
    let shard = 1 << shard_of(&local);
    assert_eq!(bench.directory.items(shard, true).count(), 1);
    assert_eq!(bench.directory.items(!shard, true).count(), 0);
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

#[test]
fn announcements_of_other_shards_are_not_taken() {
    let mut bench = Bench::new();
    let (one, two) = (key(1), key(2));
    let shards = [&one, &two].map(|key| shard_of(&key.public().to_peer_id()));
    assert_ne!(shards[0], shards[1]);
    bench.directory.take_part_in(1 << shards[0]);
    assert!(is_new(bench.judge(&signed(&one, 1, None))));
    assert_eq!(bench.judge(&signed(&two, 1, None)), Verdict::Old);
    assert_eq!(bench.directory.signature_checks(), 1);
}

/// What may happen to a directory.
#[derive(Debug, Clone)]
enum Step {
    Announce {
        key: u8,
        sequence: u64,
        list: u8,
        remaining: Option<u32>,
        forwarder: u8,
    },
    Give {
        key: u8,
        list: u8,
    },
    Miss {
        key: u8,
        list: u8,
    },
    Pull,
    Asked {
        failed: bool,
    },
    Connect(u8),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let remaining = prop_oneof![Just(None), (0..700_u32).prop_map(Some)];
    prop_oneof![
        6 => (1..7_u8, 1..40_u64, 0..4_u8, remaining, 0..4_u8).prop_map(
            |(key, sequence, list, remaining, forwarder)| Step::Announce {
                key, sequence, list, remaining, forwarder,
            },
        ),
        2 => (1..7_u8, 1..4_u8).prop_map(|(key, list)| Step::Give { key, list }),
        1 => (1..7_u8, 1..4_u8).prop_map(|(key, list)| Step::Miss { key, list }),
        2 => Just(Step::Pull),
        1 => any::<bool>().prop_map(|failed| Step::Asked { failed }),
        1 => (0..8_u8).prop_map(Step::Connect),
        1 => (0..900_u64).prop_map(Step::Pass),
    ]
}

fn check_books(bench: &Bench) -> Result<(), TestCaseError> {
    let directory = &bench.directory;
    let held: usize = directory
        .entries
        .values()
        .map(|entry| entry.list.bytes())
        .sum();
    prop_assert_eq!(held, directory.list_bytes);
    prop_assert!(held <= directory.room.list_bytes);
    prop_assert!(directory.len() <= directory.room.announcements);
    prop_assert_eq!(directory.by_id.len(), directory.entries.len());
    prop_assert!(directory.wanted.is_consistent());
    for (peer, entry) in &directory.entries {
        if let (ListState::Here(list), Some(summary)) = (&entry.list, entry.summary) {
            prop_assert_eq!(OfferListHash::of(list), summary.hash);
        }
        let wanted = directory.wanted.hash(peer).is_some();
        prop_assert_eq!(matches!(entry.list, ListState::Wanted), wanted);
        prop_assert!(directory.floors.get(peer).is_none());
        prop_assert!(entry.expires <= entry.latest);
        let share = directory.shares.share(entry.bringer);
        let of_share = || {
            directory
                .entries
                .values()
                .filter(|other| other.bringer == entry.bringer)
        };
        prop_assert_eq!(share.entries, of_share().count());
        let bytes: usize = of_share().map(|other| other.list.bytes()).sum();
        prop_assert_eq!(share.list_bytes, bytes);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_sequence_never_falls_and_the_books_balance(steps in prop::collection::vec(step(), 1..60)) {
        let mut bench = Bench::new();
        let lists = [list(""), list("a"), list("bb"), list("ccc")];
        bench.directory.room = Room { announcements: 4, list_bytes: 2 * lists[3].bytes.len() };
        let peers: [PeerId; 4] = std::array::from_fn(|_| PeerId::random());
        let mut last: HashMap<u8, u64> = HashMap::new();
        let mut plans = Vec::new();
        for step in steps {
            match step {
                Step::Announce { key: seed, sequence, list, remaining, forwarder } => {
                    let list = (list > 0).then(|| &lists[usize::from(list)]);
                    let bytes = signed(&key(seed), sequence, list);
                    let forwarder = peers[usize::from(forwarder)];
                    if is_new(bench.judge_from(forwarder, &bytes, remaining)) {
                        // The same one may come back, an older one never.
                        let before = last.insert(seed, sequence);
                        prop_assert!(before.is_none_or(|before| before <= sequence));
                    }
                }
                Step::Give { key: seed, list } => {
                    let provider = key(seed).public().to_peer_id();
                    bench.give(&provider, &lists[usize::from(list)]);
                }
                Step::Miss { key: seed, list } => {
                    let provider = key(seed).public().to_peer_id();
                    bench.miss(&provider, &lists[usize::from(list)]);
                }
                Step::Pull => plans.extend(bench.pull()),
                Step::Asked { failed } => {
                    if let Some(plan) = plans.pop() {
                        bench.asked(&plan, failed);
                    }
                }
                Step::Connect(bits) => {
                    let there = |(place, peer): (usize, &PeerId)| (bits & 1 << place != 0).then_some(*peer);
                    let there: Vec<PeerId> = peers.iter().enumerate().filter_map(there).collect();
                    bench.connect(&there);
                }
                Step::Pass(seconds) => {
                    bench.now += Duration::from_secs(seconds);
                    bench.directory.expire(bench.now);
                }
            }
            check_books(&bench)?;
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

#[test]
fn a_peer_is_asked_less_often_than_it_answers() {
    let mut bench = Bench::new();
    bench.connect(&[bench.forwarder]);
    let mut large = list("a");
    large.summary.bytes = 2 << 20;
    let mut asked = 0;
    for number in 0..600_u32 {
        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&number.to_be_bytes());
        let key = Keypair::ed25519_from_bytes(seed).unwrap();
        let mut body = body(&key, 1, Some(&large));
        body.list = Some(ListSummary {
            bytes: 256 * 1024,
            ..large.summary
        });
        let bytes = SignedAnnouncement::sign(body, &key).unwrap().encode();
        bench.judge(&bytes);
        while let Some(plan) = bench.pull() {
            asked += 1;
            bench.asked(&plan, false);
        }
    }
    assert_eq!(asked, 500);
    let next = bench.directory.next_pull(bench.now).unwrap();
    assert_eq!(next, bench.now + Duration::from_millis(100));
}
