//! Providers, snapshots, our own clock.

use derouter_store::{AnnouncementClock, ProviderRow, StoreError, limits};
use derouter_wire::{OfferId, PeerId, ProtocolId, SnapshotId, UnixSeconds};

use crate::support::{Fixture, reopen};

fn announced(offer_id: &str, payload: &str) -> (ProtocolId, OfferId, String) {
    (
        ProtocolId::new("openai:0.1").unwrap(),
        OfferId::new(offer_id).unwrap(),
        payload.into(),
    )
}

fn provider(peer: PeerId, updated_at: u64) -> ProviderRow {
    ProviderRow {
        peer,
        name: Some("A provider".into()),
        teaser: None,
        description: Some("with a description".into()),
        updated_at: UnixSeconds(updated_at),
        heartbeat_timestamp: UnixSeconds(updated_at + 5),
        heard_at: UnixSeconds(updated_at + 6),
    }
}

#[tokio::test]
async fn a_snapshot_id_stands_for_one_payload_for_ever() {
    let fixture = Fixture::new().await;
    let (one, other) = (PeerId::random(), PeerId::random());
    let offers = vec![
        announced("a", "1"),
        announced("b", "1"),
        announced("a", "2"),
    ];
    let first = fixture
        .store
        .apply_announcement(provider(one, 10), offers.clone())
        .await
        .unwrap();
    let elsewhere = fixture.store.snapshot_ids(other, offers).await.unwrap();
    let mut distinct: Vec<_> = first.iter().chain(&elsewhere).collect();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 6);

    let again = vec![
        announced("a", "2"),
        announced("a", "1"),
        announced("a", "3"),
    ];
    let second = fixture
        .store
        .apply_announcement(provider(one, 20), again)
        .await
        .unwrap();
    assert_eq!(second[..2], [first[2], first[0]]);
    assert!(!distinct.contains(&&second[2]));

    let asked = vec![
        first[2],
        SnapshotId(99_999),
        SnapshotId(u64::MAX),
        elsewhere[1],
    ];
    let rows = fixture.store.snapshots(asked).await.unwrap();
    assert_eq!(rows.len(), 2, "unknown ones are left out");
    assert_eq!(
        (rows[0].id, rows[0].provider, rows[0].payload.as_str()),
        (first[2], one, "2")
    );
    assert_eq!((rows[1].offer_id.as_str(), rows[1].provider), ("b", other));
}

#[tokio::test]
async fn an_announcement_replaces_the_details_and_a_heartbeat_only_the_times() {
    let fixture = Fixture::new().await;
    let (peer, unknown) = (PeerId::random(), PeerId::random());
    fixture
        .store
        .apply_announcement(provider(peer, 10), vec![])
        .await
        .unwrap();
    let renamed = ProviderRow {
        name: Some("B".into()),
        description: None,
        ..provider(peer, 20)
    };
    fixture
        .store
        .apply_announcement(renamed.clone(), vec![])
        .await
        .unwrap();
    let times = |peer| (peer, UnixSeconds(100), UnixSeconds(101));
    fixture
        .store
        .touch_providers(vec![times(peer), times(unknown)])
        .await
        .unwrap();
    let rows = fixture.store.providers(vec![unknown, peer]).await.unwrap();
    let touched = ProviderRow {
        heartbeat_timestamp: UnixSeconds(100),
        heard_at: UnixSeconds(101),
        ..renamed
    };
    assert_eq!(rows, [touched]);
}

#[tokio::test]
async fn the_announcement_clock_outlives_a_restart() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.store.announcement_clock().await.unwrap(), None);
    let mut clock = AnnouncementClock {
        updated_at: UnixSeconds(10),
        digest: [1; 32],
        heartbeat_floor: UnixSeconds(20),
    };
    fixture.store.set_announcement_clock(clock).await.unwrap();
    clock.updated_at = UnixSeconds(11);
    clock.digest = [2; 32];
    fixture.store.set_announcement_clock(clock).await.unwrap();
    let path = fixture.store.path().to_path_buf();
    fixture.store.close().await.unwrap();
    let store = reopen(&path).await;
    assert_eq!(store.announcement_clock().await.unwrap(), Some(clock));
}

#[tokio::test]
async fn times_and_lists_out_of_range_are_refused() {
    let fixture = Fixture::new().await;
    let far = provider(PeerId::random(), u64::MAX - 10);
    let error = fixture
        .store
        .apply_announcement(far, vec![])
        .await
        .unwrap_err();
    assert_eq!(error, StoreError::OutOfRange(u64::MAX - 10));
    let ids = vec![SnapshotId(1); limits::IDS + 1];
    let error = fixture.store.snapshots(ids).await.unwrap_err();
    assert!(matches!(error, StoreError::TooMany { .. }), "{error}");
}
