//! Gives each inbound substream a task of its own.

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::discovery::{DISCOVERY, DiscoveryServer};
use crate::job_calls::JobCallServer;
use crate::job_stream::JobStreamServer;
use crate::reqres::RequestServer;
use crate::streams::{InboundStream, JOB_CALLS, JOBS};

/// Runs until the swarm is gone. The number of tasks is bounded by the permits that substreams
/// carry.
pub(crate) async fn serve_inbound(
    mut inbound: mpsc::Receiver<InboundStream>,
    requests: RequestServer,
    calls: JobCallServer,
    jobs: JobStreamServer,
    discovery: DiscoveryServer,
) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            next = inbound.recv() => {
                let Some(stream) = next else { break };
                if stream.protocol == JOB_CALLS {
                    tasks.spawn(calls.clone().serve(stream));
                } else if stream.protocol == JOBS {
                    tasks.spawn(jobs.clone().serve(stream));
                } else if stream.protocol == DISCOVERY {
                    tasks.spawn(discovery.clone().serve(stream));
                } else {
                    tasks.spawn(requests.clone().serve(stream));
                }
            }
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
        }
    }
}
