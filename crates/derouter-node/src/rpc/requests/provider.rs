//! Offers and jobs of a provider module.

use std::sync::Arc;

use derouter_sdk::{
    OfferSpec, ProvideError, ProvideOptions, ProviderCompleteError, ProviderCompletion,
    ProviderService,
};
use derouter_wire::rpc::request::*;

use super::consumer::balance;
use super::{Failure, Session, job_key};

/// Offers that one connection may provide: more than a node can announce.
const MAX_PROVIDED: usize = 10_000;

impl Session {
    pub(super) async fn provide(&self, request: ProviderProvide) -> Result<ProvideReply, Failure> {
        if self.provided() >= MAX_PROVIDED {
            return Err(Failure::bad("this connection provides too many offers"));
        }
        let offer = OfferSpec {
            protocol_id: request.protocol_id,
            offer_id: request.offer_id,
            protocol_payload: request.protocol_payload,
        };
        let options = ProvideOptions {
            max_unsigned: request.max_unsigned,
        };
        let service: Arc<dyn ProviderService> = self.service.clone();
        match self.node.provide(vec![offer], options, service).await {
            Ok(provision) => {
                self.keep(provision);
                Ok(ProvideReply::Ok)
            }
            Err(ProvideError::Duplicate {
                protocol_id,
                offer_id,
            }) => Ok(ProvideReply::DuplicateOffer {
                protocol_id,
                offer_id,
            }),
            Err(ProvideError::Node(error)) => Err(error.into()),
            Err(other) => Err(Failure::internal(other)),
        }
    }

    pub(super) async fn withdraw(&self, _: ProviderWithdraw) -> Result<WithdrawReply, Failure> {
        self.take_back_offers();
        Ok(WithdrawReply::Ok)
    }

    pub(super) async fn provider_complete(
        &self,
        request: ProviderCompleteJob,
    ) -> Result<ProviderCompleteJobReply, Failure> {
        let key = job_key(&request.provider_peer_id, request.provider_job_id);
        let Some(key) = key else {
            return Ok(ProviderCompleteJobReply::InvalidJobId);
        };
        let Ok(balance_delta) = balance(request.balance_delta.as_deref()) else {
            return Ok(ProviderCompleteJobReply::InvalidBalanceDelta);
        };
        let completion = ProviderCompletion {
            balance_delta,
            public_payload: request.public_payload,
            private_payload: request.private_payload,
        };
        let reply = match self.node.provider_complete_job(&key, completion).await {
            Ok(completed_at_sync) => ProviderCompleteJobReply::Ok { completed_at_sync },
            Err(ProviderCompleteError::AlreadyCompleted { completed_at_sync }) => {
                ProviderCompleteJobReply::AlreadyCompleted { completed_at_sync }
            }
            Err(ProviderCompleteError::AlreadyFailed(why)) => {
                ProviderCompleteJobReply::AlreadyFailed(why)
            }
            Err(ProviderCompleteError::InvalidJobId) => {
                return Ok(ProviderCompleteJobReply::InvalidJobId);
            }
            Err(ProviderCompleteError::Node(error)) => return Err(error.into()),
            Err(other) => return Err(Failure::internal(other)),
        };
        self.job_connections.mark_over(key);
        Ok(reply)
    }
}
