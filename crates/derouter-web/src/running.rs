//! Starts the dashboard, and ends it.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use derouter_http::{Bounds, HeadBounds, Stop};
use derouter_sdk::{Node, NodeError, PeerId};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::board::Board;
use crate::events::Streams;
use crate::hosts::Hosts;
use crate::metrics::Refusals;
use crate::modules::Modules;
use crate::options::{DEFAULT_PORT, WebOptions};
use crate::routes;
use crate::sessions::{Sessions, secret};
use crate::state::{App, Inner};

/// Characters of a token for other machines, at least.
const TOKEN_CHARACTERS: usize = 16;

/// What browsers may take. One opens six connections; whoever stalls gives a place back soon. Heads of
/// our own pages are under 2 KiB. Streams of events say that they live every 15 s, which is read by
/// whoever still looks.
const BOUNDS: Bounds = Bounds {
    connections: 256,
    head_time: Duration::from_secs(10),
    stall: Duration::from_secs(20),
    head: Some(HeadBounds {
        bytes: 16 * 1024,
        headers: 64,
    }),
};

/// How long running answers may take on a stop. Streams of events end at once.
const FINISH: Duration = Duration::from_secs(2);

/// How long the end of the server is waited for.
const END: Duration = Duration::from_secs(3);

/// Why there is no dashboard.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address can't be listened on.
    #[error("the dashboard can't listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// It would be open to other machines, which was not asked for.
    #[error(
        "the dashboard would listen on {0}, where other machines reach it. Set `web.allow_remote` to true \
         and `web.token` to a secret of at least {TOKEN_CHARACTERS} characters, or listen on 127.0.0.1"
    )]
    Remote(std::net::IpAddr),
    /// The token is too short.
    #[error("`web.token` must have at least {TOKEN_CHARACTERS} characters")]
    Token,
    /// The file for `derouter open` can't be written.
    #[error("{path} can't be written: {source}")]
    LaunchFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
    /// The node does not say who it is.
    #[error("the node does not answer: {0}")]
    Node(#[from] NodeError),
}

/// A dashboard that runs. Dropping it ends it at once.
#[derive(Debug)]
pub struct RunningWeb {
    address: SocketAddr,
    stop: CancellationToken,
    server: Option<JoinHandle<()>>,
    launch_file: PathBuf,
    _following: [AbortOnDropHandle<()>; 6],
}

/// Starts the dashboard. It serves when this returns.
pub async fn start(
    node: Arc<dyn Node>,
    options: WebOptions,
    modules: Modules,
) -> Result<RunningWeb, StartError> {
    check(&options)?;
    let own = node.peer_id().await?;
    let listener = listen(&options).await?;
    let bound = listener.local_addr();
    let address = bound.map_err(|source| StartError::Bind {
        address: SocketAddr::new(options.host, options.port.unwrap_or(DEFAULT_PORT)),
        source,
    })?;
    let launch_secret = secret().map_err(|_| StartError::NoRandom)?;
    write_launch_file(&options.launch_file, address, &launch_secret).map_err(|source| {
        StartError::LaunchFile {
            path: options.launch_file.clone(),
            source,
        }
    })?;
    let board = Arc::new(Board::new(Arc::clone(&node), own, modules.clone()));
    let stop = CancellationToken::new();
    let app = App::new(Inner {
        node,
        own,
        modules,
        board: Arc::clone(&board),
        hosts: Hosts::new(address, &options.allowed_hosts),
        sessions: Mutex::new(Sessions::default()),
        streams: Streams::default(),
        refusals: Refusals::default(),
        stop: stop.clone(),
        launch_secret,
        token: options.token,
        cookie: cookie(address, own),
        remote: !address.ip().is_loopback(),
        version: options.version,
        started: Instant::now(),
    });
    let serving = serve(listener, routes::routes(app), stop.clone());
    tracing::info!(url = %url(address), "the dashboard listens; `derouter open` opens it");
    Ok(RunningWeb {
        address,
        stop,
        server: Some(tokio::spawn(serving)),
        launch_file: options.launch_file,
        _following: [
            AbortOnDropHandle::new(tokio::spawn(Arc::clone(&board).follow_jobs())),
            AbortOnDropHandle::new(tokio::spawn(Arc::clone(&board).follow_providers())),
            AbortOnDropHandle::new(tokio::spawn(Arc::clone(&board).follow_state())),
            AbortOnDropHandle::new(tokio::spawn(Arc::clone(&board).look())),
            AbortOnDropHandle::new(tokio::spawn(Arc::clone(&board).beat())),
            AbortOnDropHandle::new(tokio::spawn(board.wait_counted())),
        ],
    })
}

/// Serves until told to stop, and drops what still runs a while later.
async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) {
    let now = CancellationToken::new();
    let both = Stop {
        gently: stop.clone(),
        now: now.clone(),
    };
    let mut serving = std::pin::pin!(derouter_http::serve(listener, routes, BOUNDS, both));
    tokio::select! {
        () = serving.as_mut() => return,
        () = stop.cancelled() => {}
    }
    if tokio::time::timeout(FINISH, serving.as_mut())
        .await
        .is_err()
    {
        now.cancel();
        serving.await;
    }
}

/// The name of the session's cookie: browsers send a host's cookies to all of its ports, and a port of
/// this machine may lead to another one's node, so that it names both.
fn cookie(address: SocketAddr, own: PeerId) -> String {
    let digest = hex::encode(Sha256::digest(own.to_bytes()));
    let node = digest.get(..8).unwrap_or_default();
    format!("derouter_{}_{node}", address.port())
}

fn check(options: &WebOptions) -> Result<(), StartError> {
    let short = |token: &String| token.chars().count() < TOKEN_CHARACTERS;
    if options.token.as_ref().is_some_and(short) {
        return Err(StartError::Token);
    }
    let guarded = options.allow_remote && options.token.is_some();
    if !options.host.is_loopback() && !guarded {
        return Err(StartError::Remote(options.host));
    }
    Ok(())
}

/// Takes the port. One that was not asked for by name is not insisted on.
async fn listen(options: &WebOptions) -> Result<TcpListener, StartError> {
    let address = SocketAddr::new(options.host, options.port.unwrap_or(DEFAULT_PORT));
    let bound = TcpListener::bind(address).await;
    let source = match bound {
        Ok(listener) => return Ok(listener),
        Err(source) => source,
    };
    if options.port.is_none() && source.kind() == io::ErrorKind::AddrInUse {
        tracing::info!(%address, "the dashboard's port is in use, a free one is taken");
        let free = TcpListener::bind(SocketAddr::new(options.host, 0)).await;
        return free.map_err(|source| StartError::Bind { address, source });
    }
    Err(StartError::Bind { address, source })
}

/// Where a browser on this machine finds it.
fn url(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}")
}

/// Writes the file as a whole, for the user that runs the node.
fn write_launch_file(path: &Path, address: SocketAddr, secret: &str) -> io::Result<()> {
    let text = json!({"url": url(address), "secret": secret, "pid": std::process::id()});
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(&new)?;
    file.write_all(text.to_string().as_bytes())?;
    drop(file);
    std::fs::rename(&new, path)
}

impl RunningWeb {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where a browser on this machine finds it.
    pub fn url(&self) -> String {
        url(self.address)
    }

    /// Ends it: streams at once, answers within 2 s.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(server) = self.server.take() {
            let _ = tokio::time::timeout(END, server).await;
        }
    }
}

impl Drop for RunningWeb {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(server) = &self.server {
            server.abort();
        }
        // The next start writes another one; one that is left leads nowhere.
        let _ = std::fs::remove_file(&self.launch_file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_behind_one_port_have_cookies_of_their_own() {
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let (one, other) = (PeerId::random(), PeerId::random());
        // Such as one of this machine, and one to whose port 4280 another port here is forwarded.
        assert_ne!(cookie(address(4280), one), cookie(address(4280), other));
        assert_ne!(cookie(address(4280), one), cookie(address(4281), one));
        assert_eq!(cookie(address(4280), one), cookie(address(4280), one));
    }
}
