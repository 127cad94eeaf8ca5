//! A plain reverse proxy as good as hyper makes it: bodies stream, connections are kept,
//! TCP_NODELAY on both sides. What two of these add is the measure for what two nodes add.

use std::future::Future;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::uri::{Authority, Scheme};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;

/// An HTTP/1.1 client that keeps its connections and does not delay packets.
pub type PlainClient = Client<HttpConnector, Body>;

/// Headers that belong to one connection and are not passed on.
const HOP_BY_HOP: [header::HeaderName; 4] = [
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A client for the load and for the proxy alike.
pub fn client() -> PlainClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

#[derive(Clone, Debug)]
struct Upstream {
    client: PlainClient,
    authority: Authority,
}

/// Listens on a free port of 127.0.0.1; the future serves for ever.
pub async fn bind(upstream: SocketAddr) -> (SocketAddr, impl Future<Output = ()>) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("there is a free port");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let authority = upstream
        .to_string()
        .parse()
        .expect("an address is an authority");
    let state = Upstream {
        client: client(),
        authority,
    };
    let app = Router::new().fallback(forward).with_state(state);
    let serve = async move {
        let _ = axum::serve(listener, app).await;
    };
    (address, serve)
}

async fn forward(State(upstream): State<Upstream>, mut request: Request) -> Response {
    let mut uri = request.uri().clone().into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(upstream.authority.clone());
    let Ok(uri) = Uri::from_parts(uri) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    *request.uri_mut() = uri;
    request.headers_mut().remove(header::HOST);
    for name in HOP_BY_HOP {
        request.headers_mut().remove(name);
    }
    match upstream.client.request(request).await {
        Ok(mut response) => {
            for name in HOP_BY_HOP {
                response.headers_mut().remove(name);
            }
            response.map(Body::new)
        }
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}
