//! What several tests need.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use derouter_market::job::{Delivery, Outcome, SignatureState, Stage};
use derouter_market::{JobChange, JobState, Role};
use derouter_store::{Durability, NewJob, OpenError, Store};
use derouter_wire::job::JobWire;
use derouter_wire::reqres::ConfirmJobResult;
use derouter_wire::{
    Currency, JobId, JobKey, OfferId, PeerId, ProtocolId, SnapshotId, UnixSeconds, Wei,
};
use libp2p_identity::Keypair;
use tempfile::TempDir;

/// A store in a directory of its own.
pub(crate) struct Fixture {
    pub(crate) directory: TempDir,
    pub(crate) store: Store,
    pub(crate) provider: PeerId,
    pub(crate) consumer: PeerId,
    /// The consumer's.
    pub(crate) keypair: Keypair,
    pub(crate) snapshot: SnapshotId,
}

impl Fixture {
    /// An open store that knows one offer.
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("derouter.sqlite")).unwrap();
        let provider = PeerId::random();
        let snapshot = offer(&store, provider, "openai:0.1").await;
        let keypair = Keypair::generate_ed25519();
        Self {
            directory,
            store,
            provider,
            consumer: keypair.public().to_peer_id(),
            keypair,
            snapshot,
        }
    }

    pub(crate) fn key(&self, job_id: &str) -> JobKey {
        JobKey {
            provider: self.provider,
            job_id: JobId::new(job_id).unwrap(),
        }
    }

    pub(crate) fn new_job(&self, role: Role, job_id: &str) -> NewJob {
        NewJob {
            wire: JobWire::V0_2,
            stage: Stage::Accepted,
            role,
            key: self.key(job_id),
            consumer: self.consumer,
            snapshot_id: self.snapshot,
            currency: Currency::Pol,
            job_args: None,
            created_at_sync: UnixSeconds(1000),
            created_at_local: UnixSeconds(1001),
        }
    }

    pub(crate) async fn insert(&self, role: Role, job_id: &str) -> derouter_market::Job {
        self.store
            .insert_job(self.new_job(role, job_id), Durability::Wal)
            .await
            .unwrap()
    }

    /// A consumer's job that is signed, and with the provider or not yet.
    pub(crate) async fn signed(&self, job_id: &str, wei: u128, delivered: bool) {
        let key = self.insert(Role::Consumer, job_id).await.key;
        let keypair = self.keypair.clone();
        let sign = move |job: &derouter_market::Job| {
            let outcome = outcome(wei);
            let hash = job.outcome_to_hash(&outcome).hash();
            let signature = hash.sign(&keypair).unwrap();
            job.sign_as_consumer(outcome, signature, Some("private".into()))
                .ok()
        };
        self.step(Role::Consumer, &key, sign).await;
        if delivered {
            let deliver = |job: &derouter_market::Job| {
                job.delivered(Delivery::Answered(ConfirmJobResult::Ok), UnixSeconds(3000))
            };
            self.step(Role::Consumer, &key, deliver).await;
        }
    }

    pub(crate) async fn step(
        &self,
        role: Role,
        key: &JobKey,
        decide: impl FnOnce(&derouter_market::Job) -> Option<JobChange> + Send + 'static,
    ) {
        let changed = self.store.update_job(role, key, Durability::Wal, decide);
        changed.await.unwrap().unwrap();
    }

    /// Keeps the store's thread from working until the guard is dropped: what is asked meanwhile
    /// ends up in one batch.
    pub(crate) async fn hold(&self) -> Hold {
        self.insert(Role::Consumer, "held").await;
        self.hold_by("held").await
    }

    /// [`Fixture::hold`] by a consumer's job that is there already.
    pub(crate) async fn hold_by(&self, job_id: &str) -> Hold {
        let (release, released) = mpsc::channel::<()>();
        let (entered, inside) = tokio::sync::oneshot::channel();
        let store = self.store.clone();
        let key = self.key(job_id);
        let held = tokio::spawn(async move {
            let decide = move |_: &_| {
                entered.send(()).unwrap();
                let _ = released.recv();
                None
            };
            store
                .update_job(Role::Consumer, &key, Durability::Wal, decide)
                .await
                .unwrap();
        });
        inside.await.unwrap();
        Hold {
            _release: release,
            _held: held,
        }
    }

    /// Waits until so many commands wait.
    pub(crate) async fn until_queued(&self, commands: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.store.counters().queued < commands {
            assert!(Instant::now() < deadline, "{:?}", self.store.counters());
            tokio::task::yield_now().await;
        }
    }
}

/// See [`Fixture::hold`].
pub(crate) struct Hold {
    _release: mpsc::Sender<()>,
    _held: tokio::task::JoinHandle<()>,
}

/// A snapshot of an offer.
pub(crate) async fn offer(store: &Store, provider: PeerId, protocol: &str) -> SnapshotId {
    let protocol_id = ProtocolId::new(protocol).unwrap();
    let offers = vec![(protocol_id, OfferId::new("m").unwrap(), "{}".to_owned())];
    store.snapshot_ids(provider, offers).await.unwrap()[0]
}

/// Opens a store whose last handle was dropped a moment ago.
pub(crate) async fn reopen(path: &Path) -> Store {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match Store::open(path) {
            Ok(store) => return store,
            Err(OpenError::InUse { .. }) => assert!(Instant::now() < deadline),
            Err(error) => panic!("{error}"),
        }
        tokio::task::yield_now().await;
    }
}

pub(crate) fn outcome(wei: u128) -> Outcome {
    Outcome {
        public_payload: r#"{"request":{}}"#.into(),
        balance_delta: Some(Wei::from_wei(wei)),
        completed_at_sync: UnixSeconds(2000),
        completed_at_local: UnixSeconds(2001),
    }
}

pub(crate) fn completed(wei: u128, signature: SignatureState) -> JobChange {
    let state = JobState::Completed {
        outcome: outcome(wei),
        signature,
        provider_signature: None,
    };
    JobChange {
        created_at_sync: None,
        state,
        private_payload: None,
    }
}

pub(crate) fn undelivered() -> SignatureState {
    SignatureState::Undelivered {
        signature: vec![7; 64],
        attempts: 0,
        last_error: None,
    }
}
