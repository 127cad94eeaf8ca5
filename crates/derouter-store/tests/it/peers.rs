//! Remembered peers: addresses, scores and bans, and how they come from schema 1.

use derouter_store::{KnownAddress, KnownPeer, Store, limits};
use derouter_wire::{PeerId, UnixSeconds};

use crate::support::{Fixture, reopen};

fn known(peer: PeerId, connected_at: u64, addresses: &[&str]) -> KnownPeer {
    let address = |address: &&str| KnownAddress {
        address: (*address).to_owned(),
        last_success: Some(UnixSeconds(connected_at)),
    };
    KnownPeer {
        peer,
        addresses: addresses.iter().map(address).collect(),
        connected_at: Some(UnixSeconds(connected_at)),
        agent: None,
        relays: false,
        score: 0.0,
        score_at: UnixSeconds(0),
        banned_until: None,
        bans: 0,
    }
}

#[tokio::test]
async fn the_latest_peers_come_first_with_their_best_addresses() {
    let fixture = Fixture::new().await;
    let (one, other) = (PeerId::random(), PeerId::random());
    let remember = |peer| fixture.store.remember_peers(vec![peer]);
    remember(known(
        one,
        1,
        &["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2"],
    ))
    .await
    .unwrap();
    remember(known(other, 2, &["/ip4/127.0.0.1/tcp/3"]))
        .await
        .unwrap();
    let replaced = known(one, 3, &["/ip4/127.0.0.1/tcp/4"]);
    remember(replaced.clone()).await.unwrap();
    let peers = fixture.store.peers(10).await.unwrap();
    assert_eq!(
        peers,
        [replaced.clone(), known(other, 2, &["/ip4/127.0.0.1/tcp/3"])]
    );
    assert_eq!(fixture.store.peers(1).await.unwrap(), [replaced]);
    let many = vec!["/ip4/127.0.0.1/tcp/1"; limits::PEER_ADDRESSES + 1];
    assert!(remember(known(one, 4, &many)).await.is_err());
    let batch = vec![known(one, 4, &[]); limits::PEER_BATCH + 1];
    assert!(fixture.store.remember_peers(batch).await.is_err());
}

#[tokio::test]
async fn scores_and_bans_survive_a_restart_also_of_peers_that_were_never_connected() {
    let fixture = Fixture::new().await;
    let path = fixture.store.path().to_path_buf();
    let mut banned = known(PeerId::random(), 0, &[]);
    banned.connected_at = None;
    banned.score = -100.0;
    banned.score_at = UnixSeconds(7);
    banned.banned_until = Some(UnixSeconds(607));
    banned.bans = 3;
    let mut relay = known(PeerId::random(), 9, &["/ip4/203.0.113.1/tcp/4"]);
    relay.agent = Some("derouter/0.2.0".into());
    relay.relays = true;
    let both = vec![relay.clone(), banned.clone()];
    fixture.store.remember_peers(both).await.unwrap();
    fixture.store.close().await.unwrap();
    let store = reopen(&path).await;
    assert_eq!(store.peers(10).await.unwrap(), [banned, relay]);
}

#[tokio::test]
async fn a_score_that_is_no_score_is_kept_as_one() {
    let fixture = Fixture::new().await;
    for (score, kept) in [(f64::NAN, 0.0), (-1000.0, -100.0), (50.0, 0.0)] {
        let mut peer = known(PeerId::random(), 5, &[]);
        peer.score = score;
        let id = peer.peer;
        fixture.store.remember_peers(vec![peer]).await.unwrap();
        let peers = fixture.store.peers(10).await.unwrap();
        let found = peers.iter().find(|peer| peer.peer == id).unwrap();
        assert!((found.score - kept).abs() < f64::EPSILON, "{score}");
    }
}

#[tokio::test]
async fn the_peers_longest_unseen_are_forgotten_at_the_limit() {
    let fixture = Fixture::new().await;
    let most = u64::from(limits::PEERS);
    let peers: Vec<_> = (1..=most + 5)
        .map(|at| known(PeerId::random(), at, &["/ip4/127.0.0.1/tcp/1"]))
        .collect();
    for batch in peers.chunks(limits::PEER_BATCH) {
        fixture.store.remember_peers(batch.to_vec()).await.unwrap();
    }
    let peers = fixture.store.peers(usize::MAX).await.unwrap();
    assert_eq!(peers.len() as u64, most);
    assert_eq!(peers.last().unwrap().connected_at, Some(UnixSeconds(6)));
}

#[tokio::test]
async fn peers_of_schema_1_are_known_after_the_migration_with_nothing_held_against_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("derouter.sqlite");
    let peer = PeerId::random();
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(include_str!("../../src/schema/1.sql"))
        .unwrap();
    old.execute(
        "INSERT INTO peers (peer_id, connected_at) VALUES (?1, 77)",
        [peer.to_bytes()],
    )
    .unwrap();
    old.execute(
        "INSERT INTO peer_addresses (peer_id, rank, address) VALUES (?1, 0, ?2)",
        rusqlite::params![peer.to_bytes(), "/ip4/203.0.113.1/tcp/4"],
    )
    .unwrap();
    old.pragma_update(None, "application_id", 0x4465_526f)
        .unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    old.close().unwrap();

    let store = Store::open(&path).unwrap();
    let mut expected = known(peer, 77, &["/ip4/203.0.113.1/tcp/4"]);
    expected.addresses[0].last_success = None;
    assert_eq!(store.peers(10).await.unwrap(), [expected]);
    let added = known(PeerId::random(), 80, &["/ip4/203.0.113.1/tcp/4"]);
    store.remember_peers(vec![added]).await.unwrap();
    assert_eq!(store.peers(10).await.unwrap().len(), 2);
    store.close().await.unwrap();
}
