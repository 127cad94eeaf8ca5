//! Offers over the RPC: each provision has its own connection, because a node takes the offers
//! back when the connection ends that provided them.

use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use derouter_wire::rpc::record::FailureReason;
use derouter_wire::rpc::request::{ProvideReply, ProviderProvide, ProviderWithdraw, WithdrawReply};
use derouter_wire::{JobKey, UnixSeconds};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::backoff::Backoff;
use super::connection::{Connection, Role};
use super::service::Service;
use super::{Inner, lock};
use crate::error::{FailJobError, NodeError, ProvideError, ProviderCompleteError};
use crate::provider::{
    OfferSpec, ProvideOptions, ProviderCompletion, ProviderDesk, ProviderService, Provision,
};

/// Offers that are provided at once, so that thousands do not take a round trip each.
const PROVIDED_AT_ONCE: usize = 16;

/// How long nothing may be in work until a connection whose offers were taken back is closed. A
/// consumer connects to its new job within a few round trips.
const QUIET: Duration = Duration::from_secs(5);

/// How often it is looked whether something is in work.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The longest that jobs of offers that were taken back may go on.
const FINISH_LIMIT: Duration = Duration::from_secs(3600);

/// Offers on the market as long as this lives and the node does.
pub(super) struct Provider {
    node: Arc<Inner>,
    offers: Vec<OfferSpec>,
    options: ProvideOptions,
    service: Arc<dyn ProviderService>,
    current: Mutex<Option<Live>>,
    dropped: CancellationToken,
}

/// A connection that provides, and what serves on it.
#[derive(Clone)]
struct Live {
    connection: Arc<Connection>,
    service: Arc<Service>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("offers", &self.offers.len())
            .finish()
    }
}

/// Held by the [`Provision`]: takes the offers back.
struct Guard {
    provider: Arc<Provider>,
    _dropped: DropGuard,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let provider = Arc::clone(&self.provider);
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(provider.withdraw())),
            Err(_) => provider.close(),
        }
    }
}

/// Provides once, and again whenever the connection breaks.
pub(super) async fn provide(
    node: &Arc<Inner>,
    offers: Vec<OfferSpec>,
    options: ProvideOptions,
    service: Arc<dyn ProviderService>,
) -> Result<Provision, ProvideError> {
    let dropped = CancellationToken::new();
    let provider = Arc::new(Provider {
        node: Arc::clone(node),
        offers,
        options,
        service,
        current: Mutex::default(),
        dropped: dropped.clone(),
    });
    let guard = Guard {
        provider: Arc::clone(&provider),
        _dropped: dropped.drop_guard(),
    };
    let connection = provider.provide_once().await?;
    lock(&node.providers).push(Arc::downgrade(&provider));
    tokio::spawn(provider.keep_providing(connection));
    Ok(Provision::new(guard))
}

impl Provider {
    /// The live connection of this provision.
    pub(super) fn connection(&self) -> Option<Arc<Connection>> {
        let live = lock(&self.current).clone()?;
        (!live.connection.is_closed()).then_some(live.connection)
    }

    fn close(&self) {
        if let Some(live) = lock(&self.current).take() {
            live.connection.close();
        }
    }

    /// Takes the offers back, and closes the connection once its jobs have ended. A 0.1 node takes
    /// them back with the connection only.
    async fn withdraw(self: Arc<Self>) {
        let live = lock(&self.current).clone();
        if let Some(live) = live
            && !live.connection.is_0_1()
            && self.take_back(&live.connection).await
        {
            let finished = timeout(FINISH_LIMIT, quiet(&live)).await;
            if finished.is_err() {
                tracing::warn!("jobs of offers that were taken back do not end");
            }
        }
        self.close();
    }

    async fn take_back(&self, connection: &Connection) -> bool {
        let wait = self.node.options.query_wait;
        let reply = connection.caller.call(&ProviderWithdraw {}, wait).await;
        matches!(reply, Ok(WithdrawReply::Ok))
    }

    async fn provide_once(self: &Arc<Self>) -> Result<Arc<Connection>, ProvideError> {
        let (all_provided, ready) = watch::channel(false);
        let desk = Arc::new(TcpDesk {
            node: Arc::clone(&self.node),
            provider: Arc::downgrade(self),
        });
        let service = Service::new(Arc::clone(&self.service), desk, ready);
        let service = Arc::new(service);
        let role = Role::Provider(Arc::clone(&service));
        let connection = self.node.open(role).await?;
        let offers = self.offers.iter();
        let provided: Vec<_> = offers
            .map(|offer| self.provide_offer(&connection, offer))
            .collect();
        stream::iter(provided)
            .buffer_unordered(PROVIDED_AT_ONCE)
            .try_collect::<()>()
            .await?;
        *lock(&self.current) = Some(Live {
            connection: Arc::clone(&connection),
            service,
        });
        if self.dropped.is_cancelled() {
            self.close();
        }
        all_provided.send_replace(true);
        Ok(connection)
    }

    async fn provide_offer(
        &self,
        connection: &Connection,
        offer: &OfferSpec,
    ) -> Result<(), ProvideError> {
        let request = ProviderProvide {
            protocol_id: offer.protocol_id.clone(),
            offer_id: offer.offer_id.clone(),
            protocol_payload: offer.protocol_payload.clone(),
            max_unsigned: self.options.max_unsigned,
        };
        let wait = self.node.options.query_wait;
        match self.node.ask(&connection.caller, &request, wait).await? {
            ProvideReply::Ok => Ok(()),
            ProvideReply::DuplicateOffer {
                protocol_id,
                offer_id,
            } => Err(ProvideError::Duplicate {
                protocol_id,
                offer_id,
            }),
        }
    }

    async fn keep_providing(self: Arc<Self>, mut connection: Arc<Connection>) {
        loop {
            connection.caller.closed().await;
            if self.dropped.is_cancelled() {
                return;
            }
            let offers = self.offers.len();
            tracing::warn!(offers, "the connection to the node broke; providing again");
            let again = self.provide_again();
            let Some(Some(next)) = self.dropped.run_until_cancelled(again).await else {
                return;
            };
            tracing::info!(offers, "the offers are on the market again");
            connection = next;
        }
    }

    async fn provide_again(self: &Arc<Self>) -> Option<Arc<Connection>> {
        let mut backoff = Backoff::default();
        loop {
            sleep(backoff.next()).await;
            match self.provide_once().await {
                Ok(connection) => return Some(connection),
                Err(ProvideError::Node(NodeError::Unreachable(reason))) => {
                    tracing::debug!(reason, "the node can't be reached yet");
                }
                Err(error) => tracing::warn!(%error, "the offers can't be provided yet"),
            }
        }
    }
}

/// Resolves when nothing was in work for a while, or the connection has gone.
async fn quiet(live: &Live) {
    let mut since = Instant::now();
    while since.elapsed() < QUIET && !live.connection.is_closed() {
        sleep(LOOK_EVERY).await;
        if !live.service.is_idle() {
            since = Instant::now();
        }
    }
}

/// Ends jobs over the provision's connection, and over the shared one while that is down.
struct TcpDesk {
    node: Arc<Inner>,
    provider: Weak<Provider>,
}

impl TcpDesk {
    async fn connection(&self) -> Result<Arc<Connection>, NodeError> {
        let own = self
            .provider
            .upgrade()
            .and_then(|provider| provider.connection());
        match own {
            Some(connection) => Ok(connection),
            None => self.node.provider_connection().await,
        }
    }
}

#[async_trait]
impl ProviderDesk for TcpDesk {
    async fn complete(
        &self,
        job: &JobKey,
        completion: ProviderCompletion,
    ) -> Result<UnixSeconds, ProviderCompleteError> {
        let connection = self.connection().await?;
        let wait = self.node.options.query_wait;
        connection
            .provider_complete_job(job, completion, wait)
            .await
    }

    async fn fail(&self, job: &JobKey, failure: FailureReason) -> Result<(), FailJobError> {
        let connection = self.connection().await?;
        let wait = self.node.options.query_wait;
        connection.fail_job(job, failure, wait).await
    }
}
