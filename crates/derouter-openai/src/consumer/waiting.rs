//! A streamed answer that is long in coming: its response begins without it, with comments, so that no client
//! or proxy takes the silence for the end. Providers are asked as before behind it; when all have failed, the
//! error is an event.

use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::response::Response;
use futures::StreamExt;
use tokio::time::timeout;

use super::api::event_stream;
use super::config::Deadlines;
use super::error::ApiError;
use super::relay::{KEEP_ALIVE, data};
use super::request::Asked;
use super::v0_2::is_structured;

/// What a request comes to.
pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Response, ApiError>> + Send>>;

/// A response that began without its answer.
struct Waiting {
    /// The first comment was sent, with the headers: some proxies hold those back until more comes.
    greeted: bool,
    keep_alive: Duration,
    state: State,
}

enum State {
    /// Providers are being asked. Dropped, that ends.
    Asking(Answering),
    /// The answer's own body.
    Passing(BodyDataStream),
    Over,
}

/// Whether a request's answer is a stream of events, whoever gives it.
pub(super) fn is_event_stream(asked: &Asked) -> bool {
    asked.stream && is_structured(asked.endpoint)
}

/// The response to a request whose answer is a stream of events: as it comes, or, when that takes long, one
/// that begins without it.
pub(super) async fn respond(
    mut answering: Answering,
    deadlines: &Deadlines,
) -> Result<Response, ApiError> {
    if let Ok(response) = timeout(deadlines.begin_stream, &mut answering).await {
        return response;
    }
    let waiting = Waiting {
        greeted: false,
        keep_alive: deadlines.keep_alive,
        state: State::Asking(answering),
    };
    let bytes = futures::stream::unfold(waiting, |mut waiting| async {
        let bytes = waiting.next().await?;
        Some((bytes, waiting))
    });
    let mut response = event_stream();
    *response.body_mut() = Body::from_stream(bytes);
    Ok(response)
}

impl Waiting {
    /// The next bytes for the client; `None` at the end.
    async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        loop {
            let answering = match &mut self.state {
                State::Asking(answering) => answering,
                State::Passing(body) => return body.next().await,
                State::Over => return None,
            };
            if !std::mem::replace(&mut self.greeted, true) {
                return Some(Ok(KEEP_ALIVE));
            }
            match timeout(self.keep_alive, answering).await {
                Err(_) => return Some(Ok(KEEP_ALIVE)),
                Ok(Ok(response)) => {
                    self.state = State::Passing(response.into_body().into_data_stream());
                }
                Ok(Err(error)) => {
                    self.state = State::Over;
                    return Some(Ok(data(&error.to_json())));
                }
            }
        }
    }
}
