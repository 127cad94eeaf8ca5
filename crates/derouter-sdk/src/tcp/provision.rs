//! Offers over the RPC: each provision has its own connection, because a node takes the offers
//! back when the connection ends that provided them.

use std::fmt;
use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use derouter_wire::rpc::record::FailureReason;
use derouter_wire::rpc::request::{ProvideReply, ProviderProvide};
use derouter_wire::{JobKey, UnixSeconds};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::watch;
use tokio::time::sleep;
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

/// Offers on the market as long as this lives and the node does.
pub(super) struct Provider {
    node: Arc<Inner>,
    offers: Vec<OfferSpec>,
    options: ProvideOptions,
    service: Arc<dyn ProviderService>,
    current: Mutex<Option<Arc<Connection>>>,
    dropped: CancellationToken,
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
        self.provider.close();
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
        lock(&self.current)
            .clone()
            .filter(|connection| !connection.is_closed())
    }

    fn close(&self) {
        if let Some(connection) = lock(&self.current).take() {
            connection.close();
        }
    }

    async fn provide_once(self: &Arc<Self>) -> Result<Arc<Connection>, ProvideError> {
        let (all_provided, ready) = watch::channel(false);
        let desk = Arc::new(TcpDesk {
            node: Arc::clone(&self.node),
            provider: Arc::downgrade(self),
        });
        let service = Service::new(Arc::clone(&self.service), desk, ready);
        let role = Role::Provider(Arc::new(service));
        let connection = self.node.open(role).await?;
        let offers = self.offers.iter();
        let provided: Vec<_> = offers
            .map(|offer| self.provide_offer(&connection, offer))
            .collect();
        stream::iter(provided)
            .buffer_unordered(PROVIDED_AT_ONCE)
            .try_collect::<()>()
            .await?;
        *lock(&self.current) = Some(Arc::clone(&connection));
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
