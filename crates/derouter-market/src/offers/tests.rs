use super::*;

fn at(secs: u64) -> Now {
    Now {
        unix: UnixSeconds(1_000_000 + secs),
        uptime: Duration::from_secs(secs),
    }
}

fn record(peer: PeerId, updated_at: u64) -> ProviderRecord {
    ProviderRecord {
        peer_id: peer,
        name: Some("p".into()),
        teaser: None,
        description: None,
        updated_at: UnixSeconds(updated_at),
        latest_heartbeat_at: UnixSeconds(0),
    }
}

fn offer(peer: PeerId, snapshot: u64, name: &str) -> OfferSnapshot {
    OfferSnapshot {
        snapshot_id: SnapshotId(snapshot),
        active: true,
        provider_peer_id: peer,
        protocol_id: ProtocolId::new("p").unwrap(),
        offer_id: OfferId::new(name).unwrap(),
        protocol_payload: format!("{snapshot}"),
    }
}

fn names(changes: &[OfferChange]) -> Vec<String> {
    let name = |change: &OfferChange| match change {
        OfferChange::ProviderUpdated(_) => "provider".into(),
        OfferChange::ProviderHeartbeat(_) => "beat".into(),
        OfferChange::OfferUpdated(offer) => format!("+{}", offer.snapshot_id),
        OfferChange::OfferRemoved(offer) => format!("-{}", offer.snapshot_id),
    };
    changes.iter().map(name).collect()
}

fn index() -> (OfferIndex, PeerId) {
    (OfferIndex::new(PeerId::random()), PeerId::random())
}

#[test]
fn a_new_provider_is_told_before_its_offers() {
    let (mut index, peer) = index();
    assert_eq!(
        index.assess(&peer, UnixSeconds(5), None),
        Assessment::Changed
    );
    let changes = index.apply(record(peer, 5), vec![offer(peer, 1, "a")], at(0));
    assert_eq!(names(&changes), ["provider", "beat", "+1"]);
    assert_eq!(index.active_offers().count(), 1);
}

#[test]
fn only_what_changed_is_told() {
    let (mut index, peer) = index();
    index.apply(
        record(peer, 5),
        vec![offer(peer, 1, "a"), offer(peer, 2, "b")],
        at(0),
    );
    let changes = index.apply(
        record(peer, 6),
        vec![offer(peer, 1, "a"), offer(peer, 3, "c")],
        at(1),
    );
    assert_eq!(names(&changes), ["beat", "+3", "-2"]);
    let changes = index.apply(record(peer, 7), vec![offer(peer, 4, "a")], at(2));
    assert_eq!(names(&changes), ["beat", "+4", "-3"]);
    assert!(!index.is_active(SnapshotId(1)));
    assert_eq!(
        index.active_offer(SnapshotId(4)).unwrap().protocol_payload,
        "4"
    );
}

#[test]
fn stale_announcements_are_known_as_such_also_after_a_restart() {
    let (mut index, peer) = index();
    let stored = Some(UnixSeconds(6));
    assert_eq!(
        index.assess(&peer, UnixSeconds(5), stored),
        Assessment::Stale
    );
    assert_eq!(
        index.assess(&peer, UnixSeconds(6), stored),
        Assessment::Changed
    );
    index.apply(record(peer, 6), Vec::new(), at(0));
    assert_eq!(index.assess(&peer, UnixSeconds(5), None), Assessment::Stale);
    assert_eq!(
        index.assess(&peer, UnixSeconds(6), None),
        Assessment::Unchanged
    );
    assert_eq!(
        index.assess(&peer, UnixSeconds(7), None),
        Assessment::Changed
    );
}

#[test]
fn silence_takes_offers_off_the_market_and_a_heartbeat_puts_them_back() {
    let (mut index, peer) = index();
    index.apply(record(peer, 5), vec![offer(peer, 1, "a")], at(0));
    assert!(index.expire(at(89)).is_empty());
    assert_eq!(index.active_providers(at(59)).count(), 1);
    assert_eq!(index.active_providers(at(61)).count(), 0);
    assert_eq!(names(&index.expire(at(90))), ["-1"]);
    assert!(index.expire(at(91)).is_empty(), "told once");
    assert_eq!(index.active_offers().count(), 0);
    assert!(!index.is_active(SnapshotId(1)));
    assert_eq!(names(&index.heard(&peer, at(100))), ["beat", "+1"]);
    assert!(index.is_active(SnapshotId(1)));
}

#[test]
fn a_provider_that_withdraws_is_taken_in_whole_again() {
    let (mut index, peer) = index();
    index.apply(record(peer, 5), vec![offer(peer, 1, "a")], at(0));
    assert_eq!(names(&index.withdraw(&peer)), ["-1"]);
    assert!(index.withdraw(&peer).is_empty());
    assert!(!index.is_active(SnapshotId(1)));
    let stored = Some(UnixSeconds(5));
    assert_eq!(
        index.assess(&peer, UnixSeconds(5), stored),
        Assessment::Changed
    );
}

#[test]
fn own_offers_never_expire() {
    let local = PeerId::random();
    let mut index = OfferIndex::new(local);
    index.apply(record(local, 5), vec![offer(local, 1, "a")], at(0));
    assert!(index.expire(at(10_000)).is_empty());
    assert_eq!(index.active_providers(at(10_000)).count(), 1);
    let name = (ProtocolId::new("p").unwrap(), OfferId::new("a").unwrap());
    assert_eq!(index.own_snapshot(&name, "1"), Some(SnapshotId(1)));
    assert_eq!(index.own_snapshot(&name, "other"), None);
}

#[test]
fn the_bytes_of_announcements_are_bounded() {
    let (mut index, _) = index();
    let large = |peer: PeerId, snapshot| OfferSnapshot {
        protocol_payload: "x".repeat(60_000),
        ..offer(peer, snapshot, "a")
    };
    let count = u64::try_from(MAX_TEXT_BYTES / 60_010).unwrap();
    for snapshot in 0..count {
        let peer = PeerId::random();
        let changes = index.apply(record(peer, 1), vec![large(peer, snapshot)], at(0));
        assert!(!changes.is_empty());
    }
    let late = PeerId::random();
    assert!(
        index
            .apply(record(late, 1), vec![large(late, count)], at(1))
            .is_empty()
    );
    assert!(index.text_bytes <= MAX_TEXT_BYTES);
    index.expire(at(200));
    assert!(
        !index
            .apply(record(late, 1), vec![large(late, count)], at(200))
            .is_empty()
    );
    // One that is known may announce again in place of what it had.
    assert!(
        !index
            .apply(record(late, 2), vec![large(late, count + 1)], at(201))
            .is_empty()
    );
    let counted: usize = index
        .providers
        .values()
        .map(|provider| provider.text_bytes)
        .sum();
    assert_eq!(counted, index.text_bytes);
}

#[test]
fn a_provider_whose_list_no_longer_fits_keeps_what_was_known_of_it() {
    let (mut index, peer) = index();
    let large = |peer: PeerId, snapshot, name: &str, bytes| OfferSnapshot {
        protocol_payload: "x".repeat(bytes),
        ..offer(peer, snapshot, name)
    };
    let known = vec![offer(peer, 1, "a"), offer(peer, 2, "b")];
    index.apply_heard(record(peer, 5), known, announced(1, 660), at(0));
    let other = PeerId::random();
    let most = large(other, 3, "a", MAX_TEXT_BYTES - 10_000);
    index.apply_heard(record(other, 1), vec![most], announced(2, 660), at(0));
    let grown = || vec![offer(peer, 1, "a"), large(peer, 4, "c", 20_000)];
    let changes = index.apply_heard(record(peer, 6), grown(), announced(3, 660), at(300));
    assert_eq!(names(&changes), ["beat", "-2"]);
    assert!(index.is_active(SnapshotId(1)) && index.is_announced(&peer));
    assert!(index.expire(at(700)).iter().all(|change| {
        !matches!(change, OfferChange::OfferRemoved(gone) if gone.provider_peer_id == peer)
    }));
    assert!(!index.holds(&peer, &OfferListHash([3; 32])), "tried again");
    // The other one is silent by now.
    let changes = index.apply_heard(record(peer, 6), grown(), announced(3, 660), at(700));
    assert_eq!(names(&changes), ["beat", "+4"]);
    assert!(index.holds(&peer, &OfferListHash([3; 32])));
    assert!(!index.knows(&other));
}

#[test]
fn those_that_are_silent_for_longest_make_room_first() {
    let (mut index, first) = index();
    let second = PeerId::random();
    index.apply(record(second, 1), vec![offer(second, 2, "a")], at(0));
    index.apply(record(first, 1), vec![offer(first, 1, "a")], at(0));
    index.expire(at(100));
    index.heard(&second, at(100));
    index.expire(at(200));
    for _ in 2..MAX_PROVIDERS {
        index.apply(record(PeerId::random(), 1), Vec::new(), at(200));
    }
    index.apply(record(PeerId::random(), 1), Vec::new(), at(201));
    assert!(!index.knows(&first) && index.knows(&second));
    assert_eq!(index.idle.len(), 1);
    index.heard(&second, at(202));
    assert!(index.idle.is_empty());
    let late = PeerId::random();
    assert!(index.apply(record(late, 1), Vec::new(), at(203)).is_empty());
    assert!(index.knows(&second), "an active one");
}

#[test]
fn a_wall_clock_that_is_set_changes_nothing() {
    let (mut index, peer) = index();
    let set_forward = |secs| Now {
        unix: UnixSeconds(1_000_000 + secs + 86_400),
        ..at(secs)
    };
    index.apply_heard(
        record(peer, 5),
        vec![offer(peer, 1, "a")],
        announced(1, 660),
        at(0),
    );
    assert!(index.expire(set_forward(10)).is_empty());
    assert!(index.expire(at(659)).is_empty(), "and back");
    assert_eq!(names(&index.expire(set_forward(660))), ["-1"]);
}

#[test]
fn the_number_of_providers_is_bounded_and_active_ones_are_never_pushed_out() {
    let (mut index, _) = index();
    for _ in 0..MAX_PROVIDERS {
        index.apply(record(PeerId::random(), 1), Vec::new(), at(0));
    }
    let late = PeerId::random();
    assert!(index.apply(record(late, 1), Vec::new(), at(1)).is_empty());
    assert!(!index.knows(&late));
    index.expire(at(200));
    assert!(!index.apply(record(late, 1), Vec::new(), at(200)).is_empty());
    assert!(index.knows(&late));
    assert_eq!(index.providers.len(), MAX_PROVIDERS);
}

fn announced(list: u8, lasting: u64) -> Heard {
    Heard::Announcement {
        list: OfferListHash([list; 32]),
        lasting: Duration::from_secs(lasting),
    }
}

#[test]
fn an_announced_provider_is_active_for_as_long_as_its_announcement_holds() {
    let (mut index, peer) = index();
    let offers = vec![offer(peer, 1, "a")];
    index.apply_heard(record(peer, 5), offers, announced(1, 660), at(0));
    assert!(index.holds(&peer, &OfferListHash([1; 32])));
    assert!(!index.holds(&peer, &OfferListHash([2; 32])));
    assert!(index.expire(at(659)).is_empty());
    assert_eq!(index.active_providers(at(659)).count(), 1);
    assert_eq!(
        names(&index.renew(&peer, announced(1, 660), at(659))),
        ["beat"]
    );
    assert!(index.expire(at(700)).is_empty());
    assert_eq!(names(&index.expire(at(1319))), ["-1"]);
    assert_eq!(
        names(&index.renew(&peer, announced(1, 660), at(1400))),
        ["beat", "+1"]
    );
}

#[test]
fn heartbeats_say_nothing_while_an_announcement_holds() {
    let (mut index, peer) = index();
    index.apply(record(peer, 5), vec![offer(peer, 1, "a")], at(0));
    assert!(!index.is_announced(&peer));
    let whole = vec![offer(peer, 1, "a"), offer(peer, 2, "b")];
    let changes = index.apply_heard(record(peer, 4), whole, announced(1, 660), at(1));
    assert_eq!(names(&changes), ["beat", "+2"]);
    assert!(index.is_announced(&peer));
    index.expire(at(661));
    assert!(!index.is_announced(&peer), "it may have gone back to 0.1");
}
