//! Each request of a module, as a call of the [`Node`](derouter_sdk::Node) trait.

mod consumer;
mod network;
mod provider;
mod queries;

use std::future::Future;

use derouter_sdk::tcp::link::CallError;
use derouter_sdk::{JobId, JobKey};
use derouter_wire::cbor::{self, PeerIdArg};
use derouter_wire::rpc::request::*;
use derouter_wire::rpc::{Call, Frame};
use serde::Serialize;

use super::connection::Session;
use super::failure::Failure;

/// How much of an unknown request's name is repeated.
const SHOWN_NAME_CHARS: usize = 64;

impl Session {
    /// Answers one request.
    pub(super) async fn handle(&self, body: &[u8]) {
        // It was decoded before.
        let Ok(frame) = Frame::decode(body) else {
            return;
        };
        match frame.type_name.as_ref() {
            QuerySystem::TYPE => self.answer(&frame, Self::query_system).await,
            QueryActiveOffers::TYPE => self.answer(&frame, Self::query_active_offers).await,
            QueryActiveProviders::TYPE => self.answer(&frame, Self::query_active_providers).await,
            QueryOfferSnapshots::TYPE => self.answer(&frame, Self::query_offer_snapshots).await,
            QueryProviders::TYPE => self.answer(&frame, Self::query_providers).await,
            QueryJobs::TYPE => self.answer(&frame, Self::query_jobs).await,
            SubscribeToActiveOffers::TYPE => self.subscribe_to_offers(&frame).await,
            SubscribeToActiveProviders::TYPE => self.subscribe_to_providers(&frame).await,
            SubscribeToJobs::TYPE => self.subscribe_to_jobs(&frame).await,
            SubscribeToNodeState::TYPE => self.subscribe_to_state(&frame).await,
            CancelSubscription::TYPE => self.answer(&frame, Self::cancel_subscription).await,
            ProviderProvide::TYPE => self.answer(&frame, Self::provide).await,
            ProviderWithdraw::TYPE => self.answer(&frame, Self::withdraw).await,
            ProviderCompleteJob::TYPE => self.answer(&frame, Self::provider_complete).await,
            ConsumerCreateJob::TYPE => self.answer(&frame, Self::create_job).await,
            ConsumerOpenJobConnection::TYPE => self.answer(&frame, Self::open_job).await,
            ConsumerGetJob::TYPE => self.answer(&frame, Self::get_job).await,
            ConsumerCompleteJob::TYPE => self.answer(&frame, Self::complete_job).await,
            FailJob::TYPE => self.answer(&frame, Self::fail_job).await,
            QueryNetwork::TYPE => self.answer(&frame, Self::query_network).await,
            QueryPeers::TYPE => self.answer(&frame, Self::query_peers).await,
            PingPeer::TYPE => self.answer(&frame, Self::ping_peer).await,
            unknown => {
                let name: String = unknown.chars().take(SHOWN_NAME_CHARS).collect();
                tracing::info!(request = name, "a module sent an unknown request");
                let failure = Failure::UnknownRequest(format!("no request is called {name:?}"));
                self.respond(&frame, &failure).await;
            }
        }
    }

    async fn answer<'a, C, Work, Working>(&'a self, frame: &Frame<'_>, work: Work)
    where
        C: Call + Send,
        C::Reply: Sync,
        Work: FnOnce(&'a Self, C) -> Working,
        Working: Future<Output = Result<C::Reply, Failure>>,
    {
        let request = match cbor::from_slice(frame.data) {
            Ok(request) => request,
            Err(error) => return self.refuse(frame, error.into()).await,
        };
        match work(self, request).await {
            Ok(reply) => self.respond(frame, &reply).await,
            Err(failure) => self.refuse(frame, failure).await,
        }
    }

    async fn refuse(&self, frame: &Frame<'_>, failure: Failure) {
        let request = frame.type_name.as_ref();
        match &failure {
            Failure::BadRequest(reason) | Failure::UnknownRequest(reason) => {
                tracing::info!(request, reason, "a module's request is refused");
            }
            Failure::InternalError(reason) => {
                tracing::warn!(request, reason, "a module's request failed");
            }
            Failure::ShuttingDown(_) => {}
        }
        self.respond(frame, &failure).await;
    }

    async fn respond<T: Serialize + Sync>(&self, frame: &Frame<'_>, data: &T) {
        let sent = self.caller.respond(frame.id, &frame.type_name, data).await;
        let request = frame.type_name.as_ref();
        match sent {
            Ok(()) => {}
            Err(error @ CallError::Refused(_)) => {
                tracing::warn!(request, %error, "an error is sent in place of an answer");
            }
            Err(error) => tracing::debug!(request, %error, "an answer is not sent"),
        }
    }
}

/// A job as a module names it; nonsense names no job.
fn job_key(provider: &PeerIdArg, job_id: String) -> Option<JobKey> {
    Some(JobKey {
        provider: provider.get().ok()?,
        job_id: JobId::new(job_id).ok()?,
    })
}
