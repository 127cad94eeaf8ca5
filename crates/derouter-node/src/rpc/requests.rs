//! Each request of a module, as a call of the [`Node`](derouter_sdk::Node) trait.

mod consumer;
mod lists;
mod network;
mod provider;
mod queries;

use std::future::Future;

use derouter_sdk::tcp::link::CallError;
use derouter_sdk::{JobId, JobKey};
use derouter_wire::cbor::{self, PeerIdArg};
use derouter_wire::rpc::Call;
use derouter_wire::rpc::error::ErrorCode;
use derouter_wire::rpc::hello::{Capability, Hello};
use derouter_wire::rpc::list::*;
use derouter_wire::rpc::module::QueryModules;
use derouter_wire::rpc::request::*;
use serde::Serialize;

use super::asked::{Asked, needs, replaced};
use super::connection::Session;
use super::failure::Failure;
use super::greeting::Dialect;

/// How much of an unknown request's name is repeated.
const SHOWN_NAME_CHARS: usize = 64;

impl Session {
    /// Answers one request.
    pub(super) async fn handle(&self, asked: &Asked<'_>) {
        if self.dialect().is_some_and(Dialect::is_0_2) {
            self.handle_modern(asked).await;
        } else {
            self.handle_common(asked).await;
        }
    }

    /// What only 0.2 has, and what it does not have any more.
    async fn handle_modern(&self, asked: &Asked<'_>) {
        let name = asked.name();
        if let Some(instead) = replaced(name) {
            let text = format!("0.2 has {instead} in place of {name}");
            return self
                .refuse(asked, Failure::new(ErrorCode::UnknownRequest, text))
                .await;
        }
        let may = |one: &Capability| self.dialect().is_some_and(|dialect| dialect.may(*one));
        if needs(name).is_some_and(|needed| !needed.iter().any(may)) {
            return self.refuse(asked, Failure::of(ErrorCode::Forbidden)).await;
        }
        match name {
            ListOffers::TYPE => self.answer(asked, Self::list_offers).await,
            ListProviders::TYPE => self.answer(asked, Self::list_providers).await,
            ListJobs::TYPE => self.answer(asked, Self::list_jobs).await,
            ListPeers::TYPE => self.answer(asked, Self::list_peers).await,
            QueryModules::TYPE => self.answer(asked, Self::query_modules).await,
            _ => self.handle_common(asked).await,
        }
    }

    async fn handle_common(&self, asked: &Asked<'_>) {
        match asked.name() {
            QuerySystem::TYPE => self.answer(asked, Self::query_system).await,
            QueryActiveOffers::TYPE => self.answer(asked, Self::query_active_offers).await,
            QueryActiveProviders::TYPE => self.answer(asked, Self::query_active_providers).await,
            QueryOfferSnapshots::TYPE => self.answer(asked, Self::query_offer_snapshots).await,
            QueryProviders::TYPE => self.answer(asked, Self::query_providers).await,
            QueryJobs::TYPE => self.answer(asked, Self::query_jobs).await,
            SubscribeToActiveOffers::TYPE => self.subscribe_to_offers(asked).await,
            SubscribeToActiveProviders::TYPE => self.subscribe_to_providers(asked).await,
            SubscribeToJobs::TYPE => self.subscribe_to_jobs(asked).await,
            SubscribeToNodeState::TYPE => self.subscribe_to_state(asked).await,
            CancelSubscription::TYPE => self.answer(asked, Self::cancel_subscription).await,
            ProviderProvide::TYPE => self.answer(asked, Self::provide).await,
            ProviderWithdraw::TYPE => self.answer(asked, Self::withdraw).await,
            ProviderCompleteJob::TYPE => self.answer(asked, Self::provider_complete).await,
            ConsumerCreateJob::TYPE => self.answer(asked, Self::create_job).await,
            ConsumerOpenJobConnection::TYPE => self.answer(asked, Self::open_job).await,
            ConsumerGetJob::TYPE => self.answer(asked, Self::get_job).await,
            ConsumerCompleteJob::TYPE => self.answer(asked, Self::complete_job).await,
            FailJob::TYPE => self.answer(asked, Self::fail_job).await,
            QueryNetwork::TYPE => self.answer(asked, Self::query_network).await,
            QueryPeers::TYPE => self.answer(asked, Self::query_peers).await,
            PingPeer::TYPE => self.answer(asked, Self::ping_peer).await,
            Hello::TYPE => {
                let failure = Failure::of(ErrorCode::HelloTooLate);
                self.refuse(asked, failure).await;
            }
            unknown => {
                let name: String = unknown.chars().take(SHOWN_NAME_CHARS).collect();
                let text = format!("no request is called {name:?}");
                self.refuse(asked, Failure::new(ErrorCode::UnknownRequest, text))
                    .await;
            }
        }
    }

    async fn answer<'a, C, Work, Working>(&'a self, asked: &Asked<'_>, work: Work)
    where
        C: Call + Send,
        C::Reply: Sync,
        Work: FnOnce(&'a Self, C) -> Working,
        Working: Future<Output = Result<C::Reply, Failure>>,
    {
        let request = match cbor::from_slice(asked.frame.data) {
            Ok(request) => request,
            Err(error) => return self.refuse(asked, error.into()).await,
        };
        match work(self, request).await {
            Ok(reply) => self.respond(asked, &reply).await,
            Err(failure) => self.refuse(asked, failure).await,
        }
    }

    pub(super) async fn refuse(&self, asked: &Asked<'_>, failure: Failure) {
        let request: String = asked.name().chars().take(SHOWN_NAME_CHARS).collect();
        let (code, reason) = (failure.code.as_str(), failure.text.as_str());
        match failure.code {
            ErrorCode::InternalError => {
                tracing::warn!(request, reason, "a module's request failed");
            }
            ErrorCode::ShuttingDown | ErrorCode::Cancelled => {}
            _ => tracing::info!(request, code, reason, "a module's request is refused"),
        }
        self.respond(asked, &failure).await;
    }

    async fn respond<T: Serialize + Sync>(&self, asked: &Asked<'_>, data: &T) {
        if !asked.take_answer() {
            return;
        }
        let frame = &asked.frame;
        let sent = self.caller.respond(frame.id, &frame.type_name, data).await;
        let request = asked.name();
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
