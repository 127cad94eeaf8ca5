//! The provider's side: offers, the service behind them, and the desk where jobs end.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use derouter_wire::rpc::record::FailureReason;
use derouter_wire::{JobKey, OfferId, PeerId, ProtocolId, UnixSeconds, Wei};

use crate::error::{FailJobError, ProviderCompleteError};
use crate::node::{JobStream, Node};

/// An offer to put on the market.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferSpec {
    /// Its protocol.
    pub protocol_id: ProtocolId,
    /// Its name, unique on this node for its protocol.
    pub offer_id: OfferId,
    /// What the protocol says of it. At most 64,000 bytes, or it can't be announced.
    pub protocol_payload: String,
}

/// Terms that the node enforces for a provision's offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProvideOptions {
    /// What one consumer may owe this node without having signed; above it new jobs are answered
    /// Busy. `None`: no limit. A 0.1 node ignores it.
    pub max_unsigned: Option<Wei>,
}

/// A job that a consumer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderJob {
    /// The job.
    pub key: JobKey,
    /// The offer's protocol.
    pub protocol_id: ProtocolId,
    /// The offer.
    pub offer_id: OfferId,
    /// When it is created.
    pub created_at_sync: UnixSeconds,
    /// What the protocol needs to begin, as the consumer sent it: hostile until checked.
    pub job_args: Option<String>,
    /// Who asks for it, known by its connection. `None` when the node speaks RPC 0.1, which does not
    /// tell.
    pub consumer: Option<PeerId>,
}

/// Why a service does not take a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobRefusal {
    /// No room now.
    Busy,
    /// The arguments can't be served; the consumer sees the text.
    InvalidJobArgs(String),
}

/// Why a service does not take a connection to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionRefusal {
    /// The service knows no such job.
    JobNotFound,
    /// No room now.
    Busy,
}

/// What a provider says of a job that it served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderCompletion {
    /// What the consumer owes; `None` for a free job.
    pub balance_delta: Option<Wei>,
    /// What both sides sign.
    pub public_payload: String,
    /// What this side keeps for itself.
    pub private_payload: Option<String>,
}

/// Serves the jobs of a provision. Calls come concurrently.
#[async_trait]
pub trait ProviderService: Send + Sync + 'static {
    /// Takes or refuses a job. Answer within 8 s, or the consumer is told Busy.
    async fn accept(&self, job: ProviderJob) -> Result<(), JobRefusal>;

    /// Takes or refuses a connection to a job. Answer within 8 s.
    async fn prepare(&self, job: &JobKey) -> Result<(), ConnectionRefusal>;

    /// Serves a connection that was taken. The job may have been connected to before, and may
    /// have ended. A read of zero bytes or an error means that the consumer went away.
    async fn serve(&self, job: JobKey, desk: Arc<dyn ProviderDesk>, stream: JobStream);
}

/// Where a provider ends its jobs.
#[async_trait]
pub trait ProviderDesk: Send + Sync + 'static {
    /// Completes a job. Returns, once it is durable, when it was completed, for the consumer to
    /// sign.
    async fn complete(
        &self,
        job: &JobKey,
        completion: ProviderCompletion,
    ) -> Result<UnixSeconds, ProviderCompleteError>;

    /// Fails a job: nothing is owed.
    async fn fail(&self, job: &JobKey, failure: FailureReason) -> Result<(), FailJobError>;
}

/// The desk of a node that is at hand as a [`Node`].
pub struct NodeDesk(pub Arc<dyn Node>);

#[async_trait]
impl ProviderDesk for NodeDesk {
    async fn complete(
        &self,
        job: &JobKey,
        completion: ProviderCompletion,
    ) -> Result<UnixSeconds, ProviderCompleteError> {
        self.0.provider_complete_job(job, completion).await
    }

    async fn fail(&self, job: &JobKey, failure: FailureReason) -> Result<(), FailJobError> {
        self.0.provider_fail_job(job, failure).await
    }
}

/// Keeps offers on the market; dropping it takes them back.
pub struct Provision {
    _guard: Box<dyn Any + Send + Sync>,
}

impl Provision {
    /// Wraps what takes the offers back when it is dropped.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self {
            _guard: Box::new(guard),
        }
    }
}

impl fmt::Debug for Provision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provision")
    }
}
