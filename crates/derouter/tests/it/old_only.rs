//! A node whose modules offer with `openai:0.1` alone.

use std::sync::Arc;

use derouter_openai::protocol;
use derouter_openai::provider::{
    BackendCheck, BackendConfig, BackendOptions, OfferConfig, ProviderConfig, RunningProvider,
    start,
};
use derouter_sdk::{
    CompleteJobError, ConsumerCompletion, CreateJobError, FailJobError, FailureReason, JobEvent,
    JobFilter, JobKey, JobQuery, JobRecord, JobStream, Node, NodeError, OfferEvent, OfferFilter,
    OfferSnapshot, OfferSpec, OpenJobError, PeerId, ProvideError, ProvideOptions,
    ProviderCompleteError, ProviderCompletion, ProviderEvent, ProviderRecord, ProviderService,
    Provision, RemoteJob, RemoteJobError, SnapshotId, TcpNode, UnixSeconds, Watch, Wei,
    async_trait,
};
use derouter_testkit::Pair;
use derouter_testkit::ledger::node;

/// A node whose modules offer with `openai:0.1` alone.
#[derive(Debug)]
pub(crate) struct OldOnly(pub(crate) TcpNode);

/// Sells a model of the pair's backend by `openai:0.1` alone.
pub(crate) async fn sell(pair: &Pair, model: &str) -> RunningProvider {
    let offer = OfferConfig {
        model_id: model.to_owned(),
        context_size: 131_072,
        description: None,
        input_token_price: Wei::from_wei(1_000_000_000_000_000_000),
        output_token_price: Wei::from_wei(2_000_000_000_000_000_000),
        max_concurrency: Some(64),
        backend_model: None,
        terms: Default::default(),
    };
    let config = ProviderConfig {
        backends: vec![BackendConfig {
            base_url: pair.backend.url().parse().unwrap(),
            api_key: None,
            offers: [(model.to_owned(), offer)].into(),
            options: BackendOptions {
                check: BackendCheck::Off,
                ..BackendOptions::default()
            },
        }],
        ..ProviderConfig::default()
    };
    let node = Arc::new(OldOnly(node(&pair.provider.ready)));
    start(node, config).await.unwrap()
}

#[async_trait]
impl Node for OldOnly {
    async fn provide(
        &self,
        mut offers: Vec<OfferSpec>,
        options: ProvideOptions,
        service: Arc<dyn ProviderService>,
    ) -> Result<Provision, ProvideError> {
        offers.retain(|offer| offer.protocol_id == protocol::protocol_id());
        self.0.provide(offers, options, service).await
    }

    async fn peer_id(&self) -> Result<PeerId, NodeError> {
        self.0.peer_id().await
    }

    async fn active_offers(&self, filter: &OfferFilter) -> Result<Vec<OfferSnapshot>, NodeError> {
        self.0.active_offers(filter).await
    }

    async fn active_providers(&self) -> Result<Vec<PeerId>, NodeError> {
        self.0.active_providers().await
    }

    async fn offer_snapshots(&self, ids: &[SnapshotId]) -> Result<Vec<OfferSnapshot>, NodeError> {
        self.0.offer_snapshots(ids).await
    }

    async fn providers(&self, ids: &[PeerId]) -> Result<Vec<ProviderRecord>, NodeError> {
        self.0.providers(ids).await
    }

    async fn jobs(&self, query: &JobQuery) -> Result<Vec<JobRecord>, NodeError> {
        self.0.jobs(query).await
    }

    async fn watch_offers(&self, filter: OfferFilter) -> Result<Watch<OfferEvent>, NodeError> {
        self.0.watch_offers(filter).await
    }

    async fn watch_providers(&self) -> Result<Watch<ProviderEvent>, NodeError> {
        self.0.watch_providers().await
    }

    async fn watch_jobs(&self, filter: JobFilter) -> Result<Watch<JobEvent>, NodeError> {
        self.0.watch_jobs(filter).await
    }

    async fn create_job(
        &self,
        offer: SnapshotId,
        job_args: Option<String>,
    ) -> Result<JobKey, CreateJobError> {
        self.0.create_job(offer, job_args).await
    }

    async fn open_job(&self, job: &JobKey) -> Result<JobStream, OpenJobError> {
        self.0.open_job(job).await
    }

    async fn remote_job(&self, job: &JobKey) -> Result<RemoteJob, RemoteJobError> {
        self.0.remote_job(job).await
    }

    async fn complete_job(
        &self,
        job: &JobKey,
        completion: ConsumerCompletion,
    ) -> Result<(), CompleteJobError> {
        self.0.complete_job(job, completion).await
    }

    async fn fail_job(&self, job: &JobKey, failure: FailureReason) -> Result<(), FailJobError> {
        self.0.fail_job(job, failure).await
    }

    async fn provider_complete_job(
        &self,
        job: &JobKey,
        completion: ProviderCompletion,
    ) -> Result<UnixSeconds, ProviderCompleteError> {
        self.0.provider_complete_job(job, completion).await
    }

    async fn provider_fail_job(
        &self,
        job: &JobKey,
        failure: FailureReason,
    ) -> Result<(), FailJobError> {
        self.0.provider_fail_job(job, failure).await
    }
}
