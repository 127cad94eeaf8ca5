//! Starting and stopping a node. Either everything runs, or nothing was started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use derouter_market::CreditBook;
use derouter_net::{Multiaddr, Net, NetConfig};
use derouter_sdk::{Node, PeerId};
use derouter_store::{AnnouncementClock, ImportOutcome, Store, StoreError};
use derouter_wire::UnixSeconds;
use libp2p_identity::Keypair;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, unix_now};
use crate::config::NodeConfig;
use crate::confirm::Confirmer;
use crate::drain::Left;
use crate::handle::LocalNode;
use crate::identity::{self, KeyFileError};
use crate::market_task::MarketTask;
use crate::open_jobs::Recovered;
use crate::peer_keeper;
use crate::pulse::Pulse;
use crate::rpc::{BindError, RpcServer};
use crate::shared::Shared;
use crate::{disk_watch, inbound, listen_ports, open_jobs, retention, wanted};

/// How long a stop waits for streams and requests that are under way.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// Why a node did not start. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The key file.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The database.
    #[error(transparent)]
    Database(#[from] derouter_store::OpenError),
    /// Using the database after it was opened.
    #[error("can't use {}: {source}", .path.display())]
    Read {
        /// The database.
        path: PathBuf,
        /// Why not.
        source: StoreError,
    },
    /// The 0.1.0 database.
    #[error("{0}. It was not changed. To start without its jobs, move it away")]
    Import(#[from] derouter_store::ImportError),
    /// The RPC's port, socket or cookie file.
    #[error(transparent)]
    Rpc(#[from] BindError),
    /// The network.
    #[error(transparent)]
    Net(#[from] derouter_net::StartError),
}

/// A node that runs. Call [`RunningNode::shutdown`] to stop it cleanly; when it is dropped without,
/// its tasks end, but peers learn of it only by silence.
pub struct RunningNode {
    shared: Arc<Shared>,
    rpc_addr: Option<SocketAddr>,
    rpc: Option<JoinHandle<()>>,
    rpc_stop: CancellationToken,
    market: Option<JoinHandle<()>>,
    market_stop: CancellationToken,
}

/// A node's database.
#[derive(Clone, Debug)]
pub struct Database(Store);

impl Database {
    /// Finishes what is queued, and releases the file. Bounded: 10 s at the most. Whatever the
    /// node still does fails from now on.
    pub async fn close(&self) {
        if let Err(error) = self.0.close().await {
            tracing::warn!(%error, "the database did not close in time");
        }
    }
}

/// Starts a node. When this returns it listens, and peers and modules can connect.
pub async fn start(config: NodeConfig) -> Result<RunningNode, StartError> {
    let keypair = identity::load_or_create(&config.keypair_path)?;
    let rpc = match &config.rpc {
        Some(options) => Some(RpcServer::bind(options.clone()).await?),
        None => None,
    };
    let store = open_store(&config, &keypair).await?;
    match start_on(config, keypair, store.clone(), rpc).await {
        Ok(node) => Ok(node),
        Err(error) => {
            // Released before the error is told, so that the next start finds it free.
            let _ = store.close().await;
            Err(error)
        }
    }
}

async fn open_store(config: &NodeConfig, keypair: &Keypair) -> Result<Store, StartError> {
    let path = config.database_path.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&path)).await;
    let store = opened.map_err(|_| StartError::Read {
        path: config.database_path.clone(),
        source: StoreError::Panicked,
    })??;
    let Some(legacy) = &config.legacy_database_path else {
        return Ok(store);
    };
    let local = keypair.public().to_peer_id();
    match store.import_legacy(legacy, local, unix_now()).await {
        Ok(ImportOutcome::AlreadyImported) => Ok(store),
        Ok(ImportOutcome::Imported(report)) => {
            tracing::info!(path = %legacy.display(), ?report, "imported the 0.1.0 database; it is not used from now on and was not changed");
            Ok(store)
        }
        Err(error) => {
            let _ = store.close().await;
            Err(error.into())
        }
    }
}

async fn start_on(
    config: NodeConfig,
    keypair: Keypair,
    store: Store,
    mut rpc: Option<RpcServer>,
) -> Result<RunningNode, StartError> {
    // The database is locked by now: no other node uses this directory.
    rpc.as_mut().map_or(Ok(()), RpcServer::publish)?;
    // Nothing from outside comes in before this: the network is not up, and neither the RPC nor
    // any module is served.
    let recovered = recover(&store).await?;
    let (announced, credit) = recall(&store).await?;
    let stop = CancellationToken::new();
    let ports = listen_ports::path(&config.database_path);
    let net_config = NetConfig {
        options: config.net,
        last_timestamp: announced.heartbeat_floor,
        last_updated_at: announced.updated_at,
        known_peers: peer_keeper::recall(&store).await,
        kept_listen: listen_ports::load(ports.clone()).await,
        ..NetConfig::new(keypair.clone())
    };
    let (net, events) = derouter_net::start(net_config, CancellationToken::new()).await?;
    listen_ports::save(ports, &net).await;
    let clock = Clock::start();
    let (shared, receivers) = Shared::new(
        keypair,
        store,
        net,
        clock,
        credit,
        config.store_payloads,
        stop.clone(),
    );

    for job in &recovered.open {
        shared.look_after(job);
    }
    let tasks = &shared.tasks;
    tasks.spawn(inbound::calls::serve_calls(
        Arc::clone(&shared),
        events.calls,
    ));
    tasks.spawn(inbound::serve_requests(
        Arc::clone(&shared),
        events.requests,
    ));
    tasks.spawn(inbound::streams::serve_streams(
        Arc::clone(&shared),
        events.streams,
    ));
    tasks.spawn(peer_keeper::keep(shared.store.clone(), events.known_peers));
    let store = shared.store.clone();
    tasks.spawn(disk_watch::run(store.clone(), stop.clone()));
    tasks.spawn(retention::run(store, config.retention, stop.clone()));
    tasks.spawn(wanted::run(Arc::clone(&shared), receivers.wanted));
    let confirmer = Confirmer::new(Arc::clone(&shared));
    tasks.spawn(confirmer.run(receivers.news, events.peers, receivers.settle, stop));
    tasks.spawn(open_jobs::end_overdue(Arc::clone(&shared)));

    let market_stop = CancellationToken::new();
    let market = MarketTask::new(Arc::clone(&shared), config.provider, announced);
    let market = market.run(
        receivers.refresh,
        events.heartbeats,
        events.offers,
        events.sent,
        market_stop.clone(),
    );
    let market = tokio::spawn(market);

    let rpc_stop = CancellationToken::new();
    let rpc_addr = rpc.as_ref().map(RpcServer::local_addr);
    let node: Arc<dyn Node> = Arc::new(LocalNode::of_modules(Arc::clone(&shared)));
    let rpc = rpc.map(|server| tokio::spawn(server.run(node, rpc_stop.clone())));
    Ok(RunningNode {
        shared,
        rpc_addr,
        rpc,
        rpc_stop,
        market: Some(market),
        market_stop,
    })
}

/// What an earlier run left: the clock of its announcements, and who owes.
async fn recall(store: &Store) -> Result<(AnnouncementClock, CreditBook), StartError> {
    let unreadable = |source| StartError::Read {
        path: store.path().to_path_buf(),
        source,
    };
    let nothing = AnnouncementClock {
        updated_at: UnixSeconds(0),
        digest: [0; 32],
        heartbeat_floor: UnixSeconds(0),
    };
    let announced = store
        .announcement_clock()
        .await
        .map_err(unreadable)?
        .unwrap_or(nothing);
    let mut credit = CreditBook::default();
    for (consumer, owed) in store.unsigned_debts().await.map_err(unreadable)? {
        credit.owes(consumer, owed);
    }
    Ok((announced, credit))
}

/// Every job that was open when the node stopped is looked at before any is accepted.
async fn recover(store: &Store) -> Result<Recovered, StartError> {
    let path = store.path().to_path_buf();
    let recovered = open_jobs::recover(store).await;
    let recovered = recovered.map_err(|source| StartError::Read { path, source })?;
    if recovered.ended > 0 {
        tracing::info!(
            jobs = recovered.ended,
            "gave up jobs that were open when the node stopped"
        );
    }
    Ok(recovered)
}

impl RunningNode {
    /// The node, for modules in this process.
    pub fn handle(&self) -> Arc<dyn Node> {
        Arc::new(LocalNode::new(Arc::clone(&self.shared)))
    }

    /// Its peer id.
    pub fn peer_id(&self) -> PeerId {
        self.shared.local
    }

    /// Where it listens for peers, with real ports.
    pub async fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.shared.net.listen_addresses().await
    }

    /// Where it listens for modules.
    pub fn rpc_addr(&self) -> Option<SocketAddr> {
        self.rpc_addr
    }

    /// The network side, for inspection.
    pub fn net(&self) -> &Net {
        &self.shared.net
    }

    /// Begins to stop: the offers leave the market at once, peers and modules get no new job, and
    /// what runs goes on, as do the connections of modules. Returns within 2 s, once that is so;
    /// `limit` is what modules are told. Modules in this process must stop to take new work
    /// themselves.
    pub async fn begin_drain(&self, limit: Duration) {
        self.shared.begin_drain(limit).await;
    }

    /// Waits, without a limit, until no job runs and each signature was offered to its provider.
    pub async fn drained(&self) {
        self.shared.drained().await;
    }

    /// What is left to do before a stop harms nobody.
    pub fn left(&self) -> Left {
        self.shared.left()
    }

    /// Whether it lives.
    pub fn pulse(&self) -> Pulse {
        Pulse {
            shared: Arc::clone(&self.shared),
        }
    }

    /// The database, to be closed where there is no time for [`RunningNode::shutdown`].
    pub fn database(&self) -> Database {
        Database(self.shared.store.clone())
    }

    /// Stops cleanly: takes the offers back, ends what is under way within 5 s, leaves the network
    /// and closes the database. Bounded: about 20 s at the most.
    pub async fn shutdown(mut self) {
        // Modules first: with their connections their offers go, and peers are told so.
        self.rpc_stop.cancel();
        if let Some(rpc) = self.rpc.take() {
            let _ = tokio::time::timeout(DRAIN_DEADLINE, rpc).await;
        }
        let sent = self.shared.net.shutdown().await;
        self.shared.stop.cancel();
        self.shared.tasks.close();
        let _ = tokio::time::timeout(DRAIN_DEADLINE, self.shared.tasks.wait()).await;
        self.market_stop.cancel();
        if let Some(market) = self.market.take() {
            let _ = tokio::time::timeout(DRAIN_DEADLINE, market).await;
        }
        self.remember(sent).await;
        if let Err(error) = self.shared.store.close().await {
            tracing::warn!(%error, "the database did not close in time");
        }
    }

    /// Keeps the times of the last heartbeat, which took the offers back: the next start must not
    /// look older.
    async fn remember(&self, sent: derouter_net::SentHeartbeat) {
        let clock = AnnouncementClock {
            updated_at: sent.updated_at,
            // Of nothing: the next announcement is a change, whatever it says.
            digest: [0; 32],
            heartbeat_floor: sent.timestamp,
        };
        if let Err(error) = self.shared.store.set_announcement_clock(clock).await {
            tracing::warn!(%error, "could not store the time of the last heartbeat");
        }
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        self.rpc_stop.cancel();
        self.market_stop.cancel();
        self.shared.stop.cancel();
    }
}
