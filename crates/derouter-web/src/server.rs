//! Serves HTTP/1.1: accepts connections up to a limit, closes those that stall, and ends in order.

use std::io;
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

/// Open connections. A browser opens six; more than this wait in the system's queue.
pub(crate) const MAX_CONNECTIONS: usize = 256;

/// How long a connection may take to send a request's head, or be idle: whoever stalls gives its
/// place back soon.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a request's head, and the headers in it. Ours are under 2 KiB.
const HEAD_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// How long running answers may take on a stop. Streams of events end at once.
const FINISH: Duration = Duration::from_secs(2);

/// The wait after a failed accept, which mostly means that the process is out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves until told to stop.
pub(crate) async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Some((stream, place)) => {
                let connection = serve_connection(stream, routes.clone(), stop.clone());
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
    drop(listener);
    connections.close();
    // What still runs is dropped with the runtime.
    let _ = tokio::time::timeout(FINISH, connections.wait()).await;
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
            tell(&error);
            None
        }
    }
}

fn tell(error: &io::Error) {
    tracing::warn!(%error, "the dashboard can't accept a connection");
}

async fn serve_connection(stream: TcpStream, routes: Router, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let mut connection = Box::pin(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a browser's connection ended");
    }
}
