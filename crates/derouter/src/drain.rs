//! What a network side without a node answers: it sells nothing and has no jobs.

use derouter_net::{InboundRequest, NetEvents};
use derouter_sdk::wire::reqres::{
    ConfirmJobResult, CreateJobResult, GetJobResult, Request, Response,
};
use derouter_sdk::wire::stream::JobConnectionResult;

/// Takes everything in, so that gossip is forwarded and nobody waits. Ends with the network.
pub(crate) async fn drain(events: NetEvents) {
    let NetEvents {
        mut heartbeats,
        mut requests,
        mut streams,
        mut peers,
        ..
    } = events;
    let forget_heartbeats = async { while heartbeats.recv().await.is_some() {} };
    let forget_peers = async { while peers.recv().await.is_some() {} };
    let answer_requests = async {
        while let Some(inbound) = requests.recv().await {
            answer(inbound);
        }
    };
    let refuse_streams = async {
        while let Some(inbound) = streams.recv().await {
            // A task of its own: it waits for the peer, within a deadline.
            tokio::spawn(inbound.refuse(JobConnectionResult::JobNotFound));
        }
    };
    tokio::join!(
        forget_heartbeats,
        forget_peers,
        answer_requests,
        refuse_streams
    );
}

fn answer(inbound: InboundRequest) {
    let response = match inbound.request {
        Request::CreateJob { .. } => Response::CreateJob(CreateJobResult::OfferNotFound),
        Request::GetJob { .. } => Response::GetJob(GetJobResult::JobNotFound),
        Request::ConfirmJob { .. } => Response::ConfirmJob(ConfirmJobResult::JobNotFound),
    };
    // Whether the peer still waits makes no difference.
    let _ = inbound.reply.send(response);
}
