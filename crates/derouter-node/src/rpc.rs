//! The RPC server: modules on this machine, over TCP. It only translates frames into the
//! [`Node`] trait, so that a module behaves alike in process and out of it.
//!
//! | File | What |
//! |---|---|
//! | `connection` | one module's connection: streams, frames, how it ends |
//! | `requests` | each request of a module, as a call of the trait |
//! | `fitting` | what of a long list fits into one answer |
//! | `provider` | the module as a [`ProviderService`](derouter_sdk::ProviderService) |
//! | `subscriptions`, `told` | watches, as the events of one connection in one order |
//! | `job_connections`, `pipe`, `values` | job streams, joined to streams of the module |

mod connection;
mod failure;
mod fitting;
mod job_connections;
mod pipe;
mod provider;
mod requests;
mod subscriptions;
mod told;
mod values;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::Node;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Modules at once. A thousand idle ones are fine; more are a leak in some module, and would eat
/// the file descriptors that peers need.
pub const MAX_CONNECTIONS: usize = 2048;

/// How long the accept loop rests when the system has no room for a connection.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// How long a stop waits for connections to end.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// The RPC port can't be used.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on 127.0.0.1:{port} for modules: {source}")]
pub struct BindError {
    /// The port.
    pub port: u16,
    /// Why.
    pub source: io::Error,
}

/// Listens for modules, on loopback only.
#[derive(Debug)]
pub struct RpcServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl RpcServer {
    /// Listens on `127.0.0.1:port`; port 0 takes a free one.
    pub async fn bind(port: u16) -> Result<Self, BindError> {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.map_err(|source| BindError { port, source })?;
        Ok(Self { listener, address })
    }

    /// Where modules connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves modules until `cancel`, then closes their connections.
    pub async fn run(self, node: Arc<dyn Node>, cancel: CancellationToken) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let connections = TaskTracker::new();
        tracing::info!(address = %self.address, "listening for modules");
        while let Some(accepted) = cancel.run_until_cancelled(self.listener.accept()).await {
            let (socket, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "can't accept a module's connection");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            };
            let Some(slot) = admit(&room, &socket, address) else {
                continue;
            };
            let (node, cancel) = (Arc::clone(&node), cancel.child_token());
            connections.spawn(async move {
                connection::serve(socket, address, node, cancel).await;
                drop(slot);
            });
        }
        connections.close();
        if tokio::time::timeout(STOP_WAIT, connections.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                open = connections.len(),
                "some modules' connections do not end"
            );
        }
    }
}

/// See [`crate::fuzz::job_bytes`].
pub(crate) fn fuzz_values(data: &[u8]) {
    values::fuzz(data);
}

fn admit(
    room: &Arc<Semaphore>,
    socket: &TcpStream,
    address: SocketAddr,
) -> Option<OwnedSemaphorePermit> {
    let Ok(slot) = Arc::clone(room).try_acquire_owned() else {
        tracing::warn!(%address, limit = MAX_CONNECTIONS, "refused a module: too many connections");
        return None;
    };
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%address, %error, "a module's connection has gone at once");
        return None;
    }
    Some(slot)
}
