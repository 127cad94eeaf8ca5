//! Serves HTTP/1.1: accepts connections up to a limit, closes those that stall, and ends in order.

mod stall;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rand::Rng;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use stall::StallGuard;

/// The wait after a failed accept, which mostly means that the process is out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Open connections. More than these wait in the system's queue until one closes.
    pub connections: usize,
    /// How long a connection may be idle, or take to send a request's head.
    pub head_time: Duration,
    /// How long a client may take none of what is sent to it. Then its connection breaks.
    pub stall: Duration,
    /// Bytes of a request's head, and headers in it; `None` for what hyper takes.
    pub head: Option<HeadBounds>,
}

/// How large a request's head may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadBounds {
    /// Its bytes.
    pub bytes: usize,
    /// Its headers.
    pub headers: usize,
}

/// When to end.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Take no new requests, finish those that run.
    pub gently: CancellationToken,
    /// Drop what still runs.
    pub now: CancellationToken,
}

/// Serves until told to stop, and returns once the last connection is closed. Requests carry where they
/// come from as [`ConnectInfo`].
pub async fn serve(listener: TcpListener, routes: Router, bounds: Bounds, stop: Stop) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.gently.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Some(accepted) => {
                let connection = serve_connection(accepted, routes.clone(), bounds, stop.clone());
                connections.spawn(connection);
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

/// A connection, and its place among those that are open.
struct Accepted {
    stream: TcpStream,
    from: SocketAddr,
    _place: OwnedSemaphorePermit,
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<Accepted> {
    // Never closed, so this only waits for a place.
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, from)) => {
            // Events must leave at once. A connection that can't be set so is gone anyway.
            let _ = stream.set_nodelay(true);
            Some(Accepted {
                stream,
                from,
                _place: place,
            })
        }
        Err(error) => {
            tracing::warn!(%error, "can't accept a connection");
            None
        }
    }
}

async fn serve_connection(accepted: Accepted, routes: Router, bounds: Bounds, stop: Stop) {
    let Accepted {
        stream,
        from,
        _place,
    } = accepted;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_time);
    if let Some(head) = bounds.head {
        builder.max_buf_size(head.bytes).max_headers(head.headers);
    }
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(from));
        routes.call(request)
    });
    let stream = StallGuard::new(stream, bounds.stall);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.gently.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = stop.now.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection ended");
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// The longest that an answer may take: it detects hangs alone.
    const PATIENCE: Duration = Duration::from_secs(60);

    const BOUNDS: Bounds = Bounds {
        connections: 1,
        head_time: Duration::from_secs(300),
        stall: Duration::from_millis(200),
        head: None,
    };

    async fn start(routes: Router) -> (SocketAddr, Stop, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Stop::default();
        let serving = tokio::spawn(serve(listener, routes, BOUNDS, stop.clone()));
        (address, stop, serving)
    }

    async fn ask(address: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    async fn answer(mut stream: TcpStream) -> String {
        let mut text = String::new();
        let read = stream.read_to_string(&mut text);
        tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        text
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_gives_its_place_to_the_next() {
        let endless = || async {
            let chunk = Ok::<_, Infallible>(Bytes::from(vec![b'x'; 64 * 1024]));
            Body::from_stream(futures::stream::repeat(chunk))
        };
        let from = |ConnectInfo(from): ConnectInfo<SocketAddr>| async move { from.to_string() };
        let routes = Router::new()
            .route("/endless", get(endless))
            .route("/from", get(from));
        let (address, stop, serving) = start(routes).await;
        let _stuck = ask(address, "/endless").await;
        let next = ask(address, "/from").await;
        let own = next.local_addr().unwrap().to_string();
        assert!(answer(next).await.ends_with(&own), "who asks is known");
        stop.gently.cancel();
        tokio::time::timeout(PATIENCE, serving)
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn what_runs_finishes_on_a_gentle_stop_and_is_dropped_at_once_on_another() {
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "done"
        };
        let never = || std::future::pending::<&'static str>();
        let routes = Router::new()
            .route("/slow", get(slow))
            .route("/never", get(never));
        for (path, end) in [("/slow", "done"), ("/never", "")] {
            let (address, stop, serving) = start(routes.clone()).await;
            let stream = ask(address, path).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            stop.gently.cancel();
            if path == "/never" {
                stop.now.cancel();
            }
            assert!(answer(stream).await.ends_with(end));
            tokio::time::timeout(PATIENCE, serving)
                .await
                .unwrap()
                .unwrap();
        }
    }
}
