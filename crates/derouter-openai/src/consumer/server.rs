//! Serves HTTP/1.1: accepts connections up to a limit, closes those that stall, and ends in order.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rand::Rng;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::stall::StallGuard;

/// Open connections. Clients keep idle ones in pools; more than this wait in the system's queue
/// until one closes.
const MAX_CONNECTIONS: usize = 1024;

/// How long a connection may be idle or take to send a request's head. Above the 60 s of common
/// client pools, so that the client closes first.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// The wait after a failed accept, which mostly means that the process is out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// When to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    /// Take no new requests, finish those that run.
    pub(crate) gently: CancellationToken,
    /// Drop what still runs.
    pub(crate) now: CancellationToken,
}

/// Serves until told to stop, and returns once the last connection is closed.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Router,
    client_stall: Duration,
    stop: Stop,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.gently.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Some((stream, place)) => {
                let io = StallGuard::new(stream, client_stall);
                let connection = serve_connection(io, routes.clone(), stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            None => {
                let jitter = rand::rng().random_range(0.5..1.5);
                tokio::time::sleep(ACCEPT_RETRY.mul_f64(jitter)).await;
            }
        }
    }
    // Closes the port before the running requests are done.
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    // Never closed, so this only waits for a place.
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Events must leave at once. A connection that can't be set so is gone anyway.
            let _ = stream.set_nodelay(true);
            Some((stream, place))
        }
        Err(error) => {
            tracing::warn!(%error, "can't accept a connection");
            None
        }
    }
}

async fn serve_connection(io: StallGuard<TcpStream>, routes: Router, stop: Stop) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(routes));
    let mut connection = Box::pin(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.gently.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => finish(connection.as_mut(), &stop).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection ended");
    }
}

type Connection = http1::Connection<TokioIo<StallGuard<TcpStream>>, TowerToHyperService<Router>>;

async fn finish(mut connection: Pin<&mut Connection>, stop: &Stop) -> hyper::Result<()> {
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => ended,
        () = stop.now.cancelled() => Ok(()),
    }
}
