//! What strangers announced and nobody needs goes again.

use std::collections::HashSet;

use derouter_market::Role;
use derouter_store::{Forgotten, Idle, ProviderRow};
use derouter_wire::{OfferId, PeerId, ProtocolId, SnapshotId, UnixSeconds};

use crate::support::Fixture;

fn heard(peer: PeerId, at: u64) -> ProviderRow {
    ProviderRow {
        peer,
        name: None,
        teaser: None,
        description: None,
        updated_at: UnixSeconds(1),
        heartbeat_timestamp: UnixSeconds(1),
        heard_at: UnixSeconds(at),
    }
}

async fn announce(fixture: &Fixture, peer: PeerId, at: u64, payloads: usize) -> Vec<SnapshotId> {
    let offers = (0..payloads).map(|number| {
        let (protocol, offer) = (ProtocolId::new("p").unwrap(), OfferId::new("o").unwrap());
        (protocol, offer, number.to_string())
    });
    fixture
        .store
        .apply_announcement(heard(peer, at), offers.collect())
        .await
        .unwrap()
}

#[tokio::test]
async fn snapshots_stay_while_they_are_new_on_offer_or_bought() {
    let mut fixture = Fixture::new().await;
    let bought = fixture.snapshot;
    fixture.insert(Role::Consumer, "a").await;
    fixture.provider = PeerId::random();
    let old = announce(&fixture, fixture.provider, 100, 3).await;
    let active = HashSet::from([old[1]]);
    let idle = Idle {
        active,
        ..Idle::default()
    };

    let first = fixture.store.forget_idle(idle.clone()).await.unwrap();
    assert_eq!(
        first,
        Forgotten {
            snapshots: 0,
            providers: 0,
            newest: old[2]
        }
    );
    let newer = announce(&fixture, PeerId::random(), 100, 1).await;
    let idle = Idle {
        up_to: first.newest,
        ..idle
    };
    let second = fixture.store.forget_idle(idle).await.unwrap();
    assert_eq!(
        second,
        Forgotten {
            snapshots: 2,
            providers: 0,
            newest: newer[0]
        }
    );
    let asked = [&[bought], &*old, &*newer].concat();
    let left = fixture.store.snapshots(asked).await.unwrap();
    let left: Vec<_> = left.iter().map(|row| row.id).collect();
    assert_eq!(left, [bought, old[1], newer[0]]);

    // The same offer again is another snapshot: an id is never given twice.
    let again = announce(&fixture, fixture.provider, 100, 3).await;
    assert_eq!(again[1], old[1]);
    assert!(again[0] > newer[0] && again[2] > newer[0]);
}

#[tokio::test]
async fn providers_stay_while_they_are_heard_or_have_sold_something() {
    let mut fixture = Fixture::new().await;
    let (seller, silent, loud) = (fixture.provider, PeerId::random(), PeerId::random());
    fixture.insert(Role::Consumer, "a").await;
    for (peer, at) in [(seller, 1), (silent, 1), (loud, 200)] {
        fixture.provider = peer;
        announce(&fixture, peer, at, 2).await;
    }
    let idle = Idle {
        up_to: SnapshotId(u64::MAX),
        heard_before: UnixSeconds(100),
        ..Idle::default()
    };
    let forgotten = fixture.store.forget_idle(idle).await.unwrap();
    assert_eq!((forgotten.snapshots, forgotten.providers), (6, 1));
    let left = fixture
        .store
        .providers(vec![seller, silent, loud])
        .await
        .unwrap();
    assert_eq!(
        left.iter().map(|row| row.peer).collect::<Vec<_>>(),
        [seller, loud]
    );
}

#[tokio::test]
async fn one_call_forgets_a_thousand_at_most() {
    let fixture = Fixture::new().await;
    announce(&fixture, PeerId::random(), 1, 1500).await;
    let idle = Idle {
        up_to: SnapshotId(u64::MAX),
        ..Idle::default()
    };
    let first = fixture.store.forget_idle(idle.clone()).await.unwrap();
    let second = fixture.store.forget_idle(idle).await.unwrap();
    // The fixture's own offer is idle too.
    assert_eq!((first.snapshots, second.snapshots), (1000, 501));
}
