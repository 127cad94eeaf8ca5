//! Jobs of a consumer module.

use derouter_sdk::{
    CompleteJobError, ConsumerCompletion, CreateJobError, FailJobError, FailureReason, JobKey,
    OpenJobError, RemoteJobError, Wei,
};
use derouter_wire::cbor::truncate_to_char;
use derouter_wire::limits::REASON_BYTES;
use derouter_wire::rpc::request::*;

use super::{Failure, Session, job_key};

impl Session {
    pub(super) async fn create_job(
        &self,
        request: ConsumerCreateJob,
    ) -> Result<CreateJobReply, Failure> {
        let created = self
            .node
            .create_job(request.offer_snapshot_id, request.job_args);
        let error = match created.await {
            Ok(key) => {
                if self.node.peer_id().await? == key.provider {
                    self.job_connections.mark_created(key.clone());
                }
                return Ok(CreateJobReply::Ok {
                    provider_peer_id: key.provider,
                    provider_job_id: key.job_id,
                });
            }
            Err(error) => error,
        };
        Ok(match error {
            CreateJobError::LocalOfferNotFound => CreateJobReply::LocalOfferNotFound,
            CreateJobError::ProviderUnreachable => CreateJobReply::ProviderUnreachable,
            CreateJobError::ProviderInvalidResponse => CreateJobReply::ProviderInvalidResponse,
            CreateJobError::ProviderOfferNotFound => CreateJobReply::ProviderOfferNotFound,
            CreateJobError::ProviderOfferPayloadMismatch => {
                CreateJobReply::ProviderOfferPayloadMismatch
            }
            CreateJobError::InvalidJobArgs(reason) => CreateJobReply::InvalidJobArgs(reason),
            CreateJobError::ProviderBusy => CreateJobReply::ProviderBusy,
            CreateJobError::Node(error) => return Err(error.into()),
            other => return Err(Failure::internal(other)),
        })
    }

    pub(super) async fn open_job(
        &self,
        request: ConsumerOpenJobConnection,
    ) -> Result<OpenJobConnectionReply, Failure> {
        let key = job_key(&request.provider_peer_id, request.provider_job_id);
        let Some(key) = key else {
            return Ok(OpenJobConnectionReply::LocalJobNotFound);
        };
        let error = match self.node.open_job(&key).await {
            Ok(stream) => {
                let opened = self.job_connections.open(key, stream);
                return Ok(opened.map_or_else(too_many_unclaimed, |opened| {
                    OpenJobConnectionReply::Ok {
                        connection_id: opened.ticket,
                    }
                }));
            }
            Err(error) => error,
        };
        Ok(match error {
            OpenJobError::LocalJobNotFound => OpenJobConnectionReply::LocalJobNotFound,
            OpenJobError::ProviderUnreachable => OpenJobConnectionReply::ProviderUnreachable,
            OpenJobError::ProviderJobNotFound => OpenJobConnectionReply::ProviderJobNotFound,
            OpenJobError::ProviderJobExpired => OpenJobConnectionReply::ProviderJobExpired,
            OpenJobError::ProviderBusy => OpenJobConnectionReply::ProviderBusy,
            OpenJobError::OtherRemote(reason) => OpenJobConnectionReply::OtherRemoteError(reason),
            other => OpenJobConnectionReply::OtherLocalError(other.to_string()),
        })
    }

    pub(super) async fn get_job(&self, request: ConsumerGetJob) -> Result<GetJobReply, Failure> {
        let key = job_key(&request.provider_peer_id, request.provider_job_id);
        let Some(key) = key else {
            return Ok(GetJobReply::JobNotFound);
        };
        match self.node.remote_job(&key).await {
            Ok(job) => Ok(GetJobReply::Ok {
                public_payload: job.public_payload,
                balance_delta: job.balance_delta.map(|balance| balance.to_string()),
                created_at_sync: job.created_at_sync,
                completed_at_sync: job.completed_at_sync,
            }),
            Err(RemoteJobError::ProviderUnreachable) => Ok(GetJobReply::ProviderUnreachable),
            Err(RemoteJobError::JobNotFound) => Ok(GetJobReply::JobNotFound),
            Err(RemoteJobError::Node(error)) => Err(error.into()),
            Err(other) => Err(Failure::internal(other)),
        }
    }

    pub(super) async fn complete_job(
        &self,
        request: ConsumerCompleteJob,
    ) -> Result<ConsumerCompleteJobReply, Failure> {
        let key = job_key(&request.provider_peer_id, request.provider_job_id);
        let Some(key) = key else {
            return Ok(ConsumerCompleteJobReply::InvalidJobId);
        };
        let Ok(balance_delta) = balance(request.balance_delta.as_deref()) else {
            return Ok(ConsumerCompleteJobReply::InvalidBalanceDelta);
        };
        let completion = ConsumerCompletion {
            public_payload: request.public_payload,
            private_payload: request.private_payload,
            balance_delta,
            completed_at_sync: request.completed_at_sync,
        };
        let reply = match self.node.complete_job(&key, completion).await {
            Ok(()) => ConsumerCompleteJobReply::Ok,
            Err(CompleteJobError::AlreadyCompleted) => ConsumerCompleteJobReply::AlreadyCompleted,
            Err(CompleteJobError::AlreadyFailed(why)) => {
                ConsumerCompleteJobReply::AlreadyFailed(why)
            }
            Err(CompleteJobError::InvalidJobId) => {
                return Ok(ConsumerCompleteJobReply::InvalidJobId);
            }
            Err(CompleteJobError::InvalidConsumerPeerId) => {
                return Ok(ConsumerCompleteJobReply::InvalidConsumerPeerId);
            }
            Err(CompleteJobError::Node(error)) => return Err(error.into()),
            Err(other) => return Err(Failure::internal(other)),
        };
        self.job_connections.mark_over(key);
        Ok(reply)
    }

    pub(super) async fn fail_job(&self, request: FailJob) -> Result<FailJobReply, Failure> {
        let key = job_key(&request.provider_peer_id, request.provider_job_id);
        let Some(key) = key else {
            return Ok(FailJobReply::InvalidJobId);
        };
        let mut failure = FailureReason {
            reason: request.reason,
            reason_class: request.reason_class,
        };
        truncate_to_char(&mut failure.reason, REASON_BYTES);
        let reply = match self.fail_in_its_role(&key, failure).await {
            Ok(()) => FailJobReply::Ok,
            Err(FailJobError::AlreadyCompleted) => FailJobReply::AlreadyCompleted,
            Err(FailJobError::AlreadyFailed(why)) => FailJobReply::AlreadyFailed(why),
            Err(FailJobError::InvalidJobId) => return Ok(FailJobReply::InvalidJobId),
            Err(FailJobError::Node(error)) => return Err(error.into()),
            Err(other) => return Err(Failure::internal(other)),
        };
        self.job_connections.mark_over(key);
        Ok(reply)
    }

    /// The wire does not say whether provider or consumer gives up, and on a job for the node's
    /// own offer it may be both. A connection that provides offers speaks as the provider of
    /// each job that has one here, and beyond that row's end as the consumer only of jobs that it
    /// created itself; others speak as the consumer first.
    async fn fail_in_its_role(
        &self,
        key: &JobKey,
        failure: FailureReason,
    ) -> Result<(), FailJobError> {
        let node = &self.node;
        if node.peer_id().await? != key.provider {
            return node.fail_job(key, failure).await;
        }
        if self.provided() == 0 {
            let as_consumer = node.fail_job(key, failure.clone()).await;
            return match as_consumer {
                Err(FailJobError::InvalidJobId) => node.provider_fail_job(key, failure).await,
                result => result,
            };
        }
        let as_provider = match node.provider_fail_job(key, failure.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let is_elsewhere = matches!(as_provider, FailJobError::InvalidJobId);
        if !is_elsewhere && !self.job_connections.has_created(key) {
            return Err(as_provider);
        }
        match node.fail_job(key, failure).await {
            Err(FailJobError::InvalidJobId) => Err(as_provider),
            result => result,
        }
    }
}

pub(super) fn balance(
    text: Option<&str>,
) -> Result<Option<Wei>, derouter_wire::wei::ParseWeiError> {
    text.map(str::parse).transpose()
}

fn too_many_unclaimed() -> OpenJobConnectionReply {
    let reason = "too many job connections wait for their stream";
    OpenJobConnectionReply::OtherLocalError(reason.into())
}
