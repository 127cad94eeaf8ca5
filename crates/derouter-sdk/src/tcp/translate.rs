//! Answers on the wire, as results of the [`Node`](crate::Node) trait.

use std::time::Duration;

use derouter_wire::cbor::PeerIdArg;
use derouter_wire::rpc::error::ErrorCode;
use derouter_wire::rpc::network::{PeerReport, PingReport};
use derouter_wire::rpc::request::*;
use derouter_wire::rpc::ticket::Ticket;
use derouter_wire::{JobKey, PeerId, ProtocolId, UnixSeconds, Wei};

use super::link::CallError;
use crate::error::{
    CompleteJobError, CreateJobError, FailJobError, NodeError, OpenJobError, PingError,
    ProviderCompleteError, RemoteJobError,
};
use crate::node::RemoteJob;

pub(super) fn call_error(error: CallError, waited: Duration) -> NodeError {
    match error {
        CallError::Closed => NodeError::Unreachable("the connection broke".into()),
        CallError::Timeout => NodeError::Timeout(waited.as_secs()),
        CallError::Refused(reason) => NodeError::Invalid(reason.into()),
        CallError::Answer(reason) => NodeError::Protocol(reason),
        CallError::Error { tag, text } => error_of(&tag, text, waited),
    }
}

fn error_of(tag: &str, text: String, waited: Duration) -> NodeError {
    match ErrorCode::of(tag) {
        Some(ErrorCode::BadRequest | ErrorCode::InvalidCursor | ErrorCode::InvalidLimit) => {
            NodeError::Invalid(text)
        }
        Some(ErrorCode::InternalError) => NodeError::Internal(text),
        Some(ErrorCode::ShuttingDown) => NodeError::ShuttingDown,
        Some(ErrorCode::DeadlineExceeded) => NodeError::Timeout(waited.as_secs()),
        Some(
            ErrorCode::Unauthorized
            | ErrorCode::HelloRequired
            | ErrorCode::VersionMismatch
            | ErrorCode::Forbidden,
        ) => NodeError::Refused(text),
        _ => NodeError::Protocol(format!("{tag}: {text}")),
    }
}

/// For calls that not every node knows.
pub(super) fn new_call_error(error: CallError, waited: Duration, what: &'static str) -> NodeError {
    match error {
        CallError::Error { tag, .. } if tag == "UnknownRequest" => NodeError::Unsupported(what),
        error => call_error(error, waited),
    }
}

pub(super) fn peer_reports(reply: QueryPeersReply) -> Result<Vec<PeerReport>, NodeError> {
    match reply {
        QueryPeersReply::Ok(page) => Ok(page),
        QueryPeersReply::InvalidPeerId(text) => {
            Err(NodeError::Invalid(format!("not a peer id: {text}")))
        }
        QueryPeersReply::InvalidLimit => {
            Err(NodeError::Invalid("the limit is not 1 to 100".into()))
        }
    }
}

pub(super) fn pinged(reply: PingPeerReply) -> Result<PingReport, PingError> {
    let invalid = |text: String| PingError::Node(NodeError::Invalid(text));
    Err(match reply {
        PingPeerReply::Ok(report) => return Ok(*report),
        PingPeerReply::Unreachable(reason) => PingError::Unreachable(reason),
        PingPeerReply::Timeout => PingError::Timeout,
        PingPeerReply::InvalidPeerId(text) => invalid(format!("not a peer id: {text}")),
        PingPeerReply::InvalidAddress(text) => invalid(format!("not a multiaddr: {text}")),
        PingPeerReply::InvalidTimeout => invalid("the timeout is not 1 ms to 60 s".into()),
    })
}

pub(super) fn texts(ids: Option<&Vec<ProtocolId>>) -> Option<Vec<String>> {
    ids.map(|ids| ids.iter().map(ProtocolId::to_string).collect())
}

pub(super) fn peers(ids: Option<&Vec<PeerId>>) -> Option<Vec<PeerIdArg>> {
    ids.map(|ids| ids.iter().copied().map(PeerIdArg::from).collect())
}

pub(super) fn filtered<T>(reply: FilteredReply<T>) -> Result<T, NodeError> {
    match reply {
        FilteredReply::Ok(value) => Ok(value),
        FilteredReply::InvalidPeerId(text) => {
            Err(NodeError::Invalid(format!("not a peer id: {text}")))
        }
    }
}

pub(super) fn list<T>(reply: ListReply<T>) -> Result<Vec<T>, NodeError> {
    match reply {
        ListReply::Ok(list) => Ok(list),
        ListReply::Length => Err(NodeError::Invalid("more than 100 ids".into())),
    }
}

pub(super) fn created(reply: CreateJobReply) -> Result<JobKey, CreateJobError> {
    Err(match reply {
        CreateJobReply::Ok {
            provider_peer_id,
            provider_job_id,
        } => {
            return Ok(JobKey {
                provider: provider_peer_id,
                job_id: provider_job_id,
            });
        }
        CreateJobReply::LocalOfferNotFound => CreateJobError::LocalOfferNotFound,
        CreateJobReply::ProviderUnreachable => CreateJobError::ProviderUnreachable,
        CreateJobReply::ProviderInvalidResponse => CreateJobError::ProviderInvalidResponse,
        CreateJobReply::ProviderOfferNotFound => CreateJobError::ProviderOfferNotFound,
        CreateJobReply::ProviderOfferPayloadMismatch => {
            CreateJobError::ProviderOfferPayloadMismatch
        }
        CreateJobReply::InvalidJobArgs(reason) => CreateJobError::InvalidJobArgs(reason),
        CreateJobReply::ProviderBusy => CreateJobError::ProviderBusy,
    })
}

pub(super) fn opened(reply: OpenJobConnectionReply) -> Result<Ticket, OpenJobError> {
    Err(match reply {
        OpenJobConnectionReply::Ok { connection_id } => return Ok(connection_id),
        OpenJobConnectionReply::LocalJobNotFound => OpenJobError::LocalJobNotFound,
        OpenJobConnectionReply::ProviderUnreachable => OpenJobError::ProviderUnreachable,
        OpenJobConnectionReply::ProviderJobNotFound => OpenJobError::ProviderJobNotFound,
        OpenJobConnectionReply::ProviderJobExpired => OpenJobError::ProviderJobExpired,
        OpenJobConnectionReply::ProviderBusy => OpenJobError::ProviderBusy,
        OpenJobConnectionReply::OtherRemoteError(reason) => OpenJobError::OtherRemote(reason),
        OpenJobConnectionReply::OtherLocalError(reason) => {
            OpenJobError::Node(NodeError::Internal(reason))
        }
    })
}

pub(super) fn remote_job(reply: GetJobReply) -> Result<RemoteJob, RemoteJobError> {
    match reply {
        GetJobReply::Ok {
            public_payload,
            balance_delta,
            created_at_sync,
            completed_at_sync,
        } => Ok(RemoteJob {
            public_payload,
            balance_delta: balance_delta.as_deref().map(balance).transpose()?,
            created_at_sync,
            completed_at_sync,
        }),
        GetJobReply::ProviderUnreachable => Err(RemoteJobError::ProviderUnreachable),
        GetJobReply::JobNotFound => Err(RemoteJobError::JobNotFound),
    }
}

fn balance(text: &str) -> Result<Wei, NodeError> {
    let parsed: Result<Wei, _> = text.parse();
    parsed.map_err(|error| NodeError::Protocol(error.to_string()))
}

fn invalid_balance() -> NodeError {
    NodeError::Protocol("the node does not read our decimal balance".into())
}

pub(super) fn completed(reply: ConsumerCompleteJobReply) -> Result<(), CompleteJobError> {
    Err(match reply {
        ConsumerCompleteJobReply::Ok => return Ok(()),
        ConsumerCompleteJobReply::InvalidJobId => CompleteJobError::InvalidJobId,
        ConsumerCompleteJobReply::InvalidConsumerPeerId => CompleteJobError::InvalidConsumerPeerId,
        ConsumerCompleteJobReply::AlreadyFailed(why) => CompleteJobError::AlreadyFailed(why),
        ConsumerCompleteJobReply::AlreadyCompleted => CompleteJobError::AlreadyCompleted,
        ConsumerCompleteJobReply::InvalidBalanceDelta => invalid_balance().into(),
    })
}

pub(super) fn provider_completed(
    reply: ProviderCompleteJobReply,
) -> Result<UnixSeconds, ProviderCompleteError> {
    Err(match reply {
        ProviderCompleteJobReply::Ok { completed_at_sync } => return Ok(completed_at_sync),
        ProviderCompleteJobReply::InvalidJobId => ProviderCompleteError::InvalidJobId,
        ProviderCompleteJobReply::AlreadyCompleted { completed_at_sync } => {
            ProviderCompleteError::AlreadyCompleted { completed_at_sync }
        }
        ProviderCompleteJobReply::AlreadyFailed(why) => ProviderCompleteError::AlreadyFailed(why),
        ProviderCompleteJobReply::InvalidBalanceDelta => invalid_balance().into(),
    })
}

pub(super) fn failed(reply: FailJobReply) -> Result<(), FailJobError> {
    Err(match reply {
        FailJobReply::Ok => return Ok(()),
        FailJobReply::InvalidJobId => FailJobError::InvalidJobId,
        FailJobReply::AlreadyCompleted => FailJobError::AlreadyCompleted,
        FailJobReply::AlreadyFailed(why) => FailJobError::AlreadyFailed(why),
    })
}
