//! The RPC server: modules on this machine, over TCP or a Unix socket. It only translates frames
//! into the [`Node`] trait, so that a module behaves alike in process and out of it. docs/rpc.md
//! describes it for authors of modules.
//!
//! | File | What |
//! |---|---|
//! | `access`, `socket` | who may connect: the cookie file, the Unix socket |
//! | `connection`, `greeting` | one module's connection: streams, frames, how it begins and ends |
//! | `asked` | one request in work: its deadline, its cancellation, its one answer |
//! | `requests` | each request of a module, as a call of the trait |
//! | `fitting` | what of a long list fits into one answer |
//! | `provider` | the module as a [`ProviderService`](derouter_sdk::ProviderService) |
//! | `subscriptions`, `told` | watches, as the events of one connection in one order |
//! | `job_connections`, `pipe`, `values` | job streams, joined to streams of the module |

mod access;
mod asked;
mod connection;
mod failure;
mod fitting;
mod greeting;
mod job_connections;
mod pipe;
mod provider;
mod requests;
#[cfg(unix)]
mod socket;
mod subscriptions;
mod told;
mod values;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::Node;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::access::{Cookie, Token};
use self::greeting::Door;

/// Modules at once over TCP, and as many over the Unix socket, so that strangers on this machine
/// can't keep out this user's. A thousand idle ones are fine; more are a leak in some module, and
/// would eat the file descriptors that peers need.
pub const MAX_CONNECTIONS: usize = 2048;

/// How long the accept loop rests when the system has no room for a connection.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// How long a stop waits for connections to end.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// How modules connect.
#[derive(Clone, Debug)]
pub struct RpcOptions {
    /// The port on 127.0.0.1; 0 chooses one.
    pub port: u16,
    /// Where the cookie file and the Unix socket are made: the data directory. Without one there is
    /// neither, and modules of 0.2 have no way in.
    pub directory: Option<PathBuf>,
    /// Whether modules of 0.1, which prove nothing, may connect over TCP.
    pub allow_legacy: bool,
}

impl Default for RpcOptions {
    fn default() -> Self {
        Self {
            port: 0,
            directory: None,
            allow_legacy: true,
        }
    }
}

/// Modules can't be listened for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The port can't be used.
    #[error("can't listen on 127.0.0.1:{port} for modules: {source}")]
    Port {
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The Unix socket can't be made.
    #[error(
        "can't make the socket {} for modules: {source}. Make the directory writable for the user \
         that runs the node, move away what is there, or set another `data_dir`",
        .path.display()
    )]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another node lives in the data directory.
    #[error(
        "another node answers at {}. Stop it, or set another `data_dir`",
        .0.display()
    )]
    Living(PathBuf),
    /// The cookie file can't be written.
    #[error(
        "can't write the cookie file {}: {source}. Make the directory writable for the user that \
         runs the node, or set another `data_dir`",
        .path.display()
    )]
    Cookie {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Listens for modules: on loopback, and on a Unix socket.
pub struct RpcServer {
    listener: TcpListener,
    address: SocketAddr,
    #[cfg(unix)]
    socket: Option<socket::Socket>,
    token: Token,
    cookie: Option<Cookie>,
    options: RpcOptions,
}

impl RpcServer {
    /// Listens on 127.0.0.1, and on the Unix socket where there is a directory for it.
    pub async fn bind(options: RpcOptions) -> Result<Self, BindError> {
        let port = options.port;
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.map_err(|source| BindError::Port { port, source })?;
        #[cfg(unix)]
        let socket = match &options.directory {
            Some(directory) => socket::Socket::bind(directory)?,
            None => None,
        };
        Ok(Self {
            listener,
            address,
            #[cfg(unix)]
            socket,
            token: Token::random(),
            cookie: None,
            options,
        })
    }

    /// Where modules connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Writes the cookie file, once it is sure that this node starts: another one's must stay.
    pub fn publish(&mut self) -> Result<(), BindError> {
        if let Some(directory) = &self.options.directory {
            let written = Cookie::write(directory, &self.token);
            let failed = |(path, source)| BindError::Cookie { path, source };
            self.cookie = Some(written.map_err(failed)?);
        }
        Ok(())
    }

    /// Serves modules until `cancel`, then closes their connections.
    pub async fn run(self, node: Arc<dyn Node>, cancel: CancellationToken) {
        tracing::info!(address = %self.address, "listening for modules");
        let instance: Arc<str> = format!("{:032x}", rand::random::<u128>()).into();
        let serving = Serving {
            node,
            cancel,
            connections: TaskTracker::new(),
        };
        let door = Arc::new(Door {
            token: Some(self.token),
            allow_legacy: self.options.allow_legacy,
            instance: Arc::clone(&instance),
        });
        let tcp = serving.tcp(&self.listener, &door);
        #[cfg(unix)]
        let unix = async {
            let Some(socket) = &self.socket else { return };
            tracing::info!(path = %socket.path().display(), "listening for modules of this user");
            let door = Door {
                token: None,
                allow_legacy: false,
                instance,
            };
            serving.unix(socket, &Arc::new(door)).await;
        };
        #[cfg(not(unix))]
        let unix = async {};
        tokio::join!(tcp, unix);
        serving.end().await;
    }
}

/// What connections are served with.
struct Serving {
    node: Arc<dyn Node>,
    cancel: CancellationToken,
    connections: TaskTracker,
}

impl Serving {
    async fn tcp(&self, listener: &TcpListener, door: &Arc<Door>) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Some(accepted) = self.cancel.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((socket, address)) => match socket.set_nodelay(true) {
                    Ok(()) => self.serve(socket, address.to_string(), door, &room),
                    Err(error) => {
                        tracing::debug!(%address, %error, "a module's connection has gone at once");
                    }
                },
                Err(error) => rest(&error).await,
            }
        }
    }

    #[cfg(unix)]
    async fn unix(&self, socket: &socket::Socket, door: &Arc<Door>) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Some(accepted) = self.cancel.run_until_cancelled(socket.accept()).await {
            match accepted {
                Ok(stream) if socket.admits(&stream) => {
                    self.serve(stream, "unix".into(), door, &room);
                }
                Ok(_) => tracing::warn!("refused a module of another user on the Unix socket"),
                Err(error) => rest(&error).await,
            }
        }
    }

    fn serve<S>(&self, socket: S, from: String, door: &Arc<Door>, room: &Arc<Semaphore>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Ok(slot) = Arc::clone(room).try_acquire_owned() else {
            tracing::warn!(
                from,
                limit = MAX_CONNECTIONS,
                "refused a module: too many connections"
            );
            return;
        };
        let (node, door) = (Arc::clone(&self.node), Arc::clone(door));
        let cancel = self.cancel.child_token();
        self.connections.spawn(async move {
            connection::serve(socket, from, node, door, cancel).await;
            drop(slot);
        });
    }

    async fn end(self) {
        self.connections.close();
        if tokio::time::timeout(STOP_WAIT, self.connections.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                open = self.connections.len(),
                "some modules' connections do not end"
            );
        }
    }
}

/// See [`crate::fuzz::job_bytes`].
pub(crate) fn fuzz_values(data: &[u8]) {
    values::fuzz(data);
}

async fn rest(error: &io::Error) {
    tracing::warn!(%error, "can't accept a module's connection");
    tokio::time::sleep(ACCEPT_REST).await;
}
