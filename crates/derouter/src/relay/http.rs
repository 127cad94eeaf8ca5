//! `/metrics` and `/healthz`.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use derouter_net::Net;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics;
use crate::failure::Failure;

/// How long `--health` waits: shorter than any service manager does.
const HEALTH_WAIT: Duration = Duration::from_secs(5);

/// How often the relay looks at itself, and how often in a row it must be unwell to be given up:
/// one miss may be a machine that slept.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const UNWELL: u32 = 3;

/// A port, taken before anything starts.
pub(super) struct Listener {
    listener: TcpListener,
    /// Where it is.
    pub(super) address: SocketAddr,
}

/// Takes the port.
pub(super) async fn bind(address: SocketAddr) -> Result<Listener, Failure> {
    let taken = |error: std::io::Error| {
        Failure::environment(format_args!(
            "can't serve metrics at {address}: {error}. Choose another place with --http"
        ))
    };
    let listener = TcpListener::bind(address).await.map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    Ok(Listener { listener, address })
}

/// Serves until told to stop.
pub(super) async fn serve(listener: Listener, net: Net, stop: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(health))
        .with_state(net);
    let serving = axum::serve(listener.listener, router)
        .with_graceful_shutdown(async move { stop.cancelled().await });
    if let Err(error) = serving.await {
        tracing::warn!(%error, "metrics and health are not served any more");
    }
}

async fn scrape(State(net): State<Net>) -> Response {
    let Some(report) = net.network_report().await else {
        return unwell();
    };
    match metrics::text(&report, net.counters()) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Well is a network side that answers and listens.
async fn health(State(net): State<Net>) -> Response {
    match is_well(&net).await {
        true => "ok\n".into_response(),
        false => unwell(),
    }
}

async fn is_well(net: &Net) -> bool {
    let report = net.network_report().await;
    report.is_some_and(|report| !report.listen.is_empty())
}

fn unwell() -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "the network does not answer\n",
    )
        .into_response()
}

/// Resolves when the network side has not answered for a while: it has ended.
pub(super) async fn until_unwell(net: &Net) {
    let mut missed = 0;
    while missed < UNWELL {
        tokio::time::sleep(LOOK_EVERY).await;
        missed = match net.network_report().await {
            Some(_) => 0,
            None => missed + 1,
        };
    }
}

/// Asks a running relay.
pub(super) async fn ask_health(address: SocketAddr) -> Result<(), Failure> {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(HEALTH_WAIT)
        .build()
        .map_err(Failure::failed)?;
    let asked = client.get(format!("http://{address}/healthz")).send().await;
    match asked {
        Ok(answer) if answer.status().is_success() => {
            crate::output::line("ok");
            Ok(())
        }
        Ok(answer) => Err(Failure::failed(format_args!(
            "the relay at {address} is not well: {}",
            answer.status()
        ))),
        Err(error) => Err(Failure::failed(format_args!(
            "no relay answers at {address}: {error}"
        ))),
    }
}
