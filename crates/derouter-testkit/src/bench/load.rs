//! The load: requests, checked answers, times.

use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::http::{Method, Request, Uri, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::proxy::PlainClient;
use crate::backend::answer::STAMP;

/// The model that the bench sells.
pub const MODEL: &str = "bench-model";

/// Content chunks of every answer.
pub const CHUNKS: usize = 100;

/// Content chunks of a paced answer, and milliseconds before each.
const PACED_CHUNKS: usize = 30;
const PACE_MS: u64 = 10;

/// The longest that an answer may take; a hanging gateway is a failure, not a hanging bench.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// Failures of a batch that are kept in words.
const KEPT_FAILURES: usize = 3;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One JSON body.
    Plain,
    /// Server-sent events, one for each of 100 words.
    Streamed,
    /// Server-sent events at the pace of a quick model: how late each comes is what counts.
    Paced,
}

impl Shape {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Plain => "plain",
            Shape::Streamed => "streamed",
            Shape::Paced => "paced",
        }
    }

    /// Content chunks of an answer.
    fn chunks(self) -> usize {
        match self {
            Shape::Plain | Shape::Streamed => CHUNKS,
            Shape::Paced => PACED_CHUNKS,
        }
    }

    fn body(self) -> Value {
        let stream = self != Shape::Plain;
        let mut body = json!({
            "model": MODEL,
            "stream": stream,
            "max_tokens": 1_000,
            "messages": [{"role": "user", "content": "Tell me a story in a hundred words."}],
            "derouter_test": {"chunks": self.chunks()},
        });
        if self == Shape::Paced {
            body["derouter_test"]["pace_ms"] = PACE_MS.into();
            body["derouter_test"]["stamp"] = true.into();
        }
        if stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        body
    }

    /// Whether a body is complete: the first and the last word, and the end of the stream.
    fn is_complete(self, body: &[u8]) -> bool {
        let has = |needle: &str| {
            body.windows(needle.len())
                .any(|part| part == needle.as_bytes())
        };
        let last = format!("word{} ", self.chunks() - 1);
        let whole = has("word0 ") && has(&last);
        match self {
            Shape::Plain => whole && has("\"usage\""),
            Shape::Streamed | Shape::Paced => whole && has("data: [DONE]"),
        }
    }
}

/// The times of one good answer.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// To the first byte of the body.
    pub first_byte: Duration,
    /// To the last.
    pub whole: Duration,
}

/// What came of a batch of requests.
#[derive(Debug, Default)]
pub struct Batch {
    /// The good answers.
    pub times: Vec<Times>,
    /// How late the chunks of paced answers came.
    pub late: Vec<Duration>,
    /// How many requests failed.
    pub failed: usize,
    /// The first failures, in words.
    pub failures: Vec<String>,
    /// How long all of it took.
    pub elapsed: Duration,
}

impl Batch {
    /// Adds another batch of the same kind.
    pub fn add(&mut self, other: Batch) {
        self.times.extend(other.times);
        self.late.extend(other.late);
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.failures.truncate(KEPT_FAILURES);
        self.elapsed += other.elapsed;
    }

    fn fail(&mut self, failure: String) {
        self.failed += 1;
        if self.failures.len() < KEPT_FAILURES {
            self.failures.push(failure);
        }
    }
}

/// A good answer's times, and how late each of its chunks came.
type Measured = (Times, Vec<Duration>);

/// Finds in a body that comes in pieces when its words were sent.
#[derive(Debug, Default)]
struct Stamps {
    searched: usize,
    late: Vec<Duration>,
}

impl Stamps {
    /// Looks at what has come.
    fn look(&mut self, body: &[u8]) {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        loop {
            let rest = body.get(self.searched..).unwrap_or_default();
            let Some(place) = rest.iter().position(|byte| *byte == b'@') else {
                self.searched = body.len();
                return;
            };
            let Some(stamp) = rest.get(place + 1..place + STAMP.len()) else {
                // The rest of it comes with the next piece.
                self.searched += place;
                return;
            };
            self.searched += place + STAMP.len();
            let sent = std::str::from_utf8(stamp)
                .ok()
                .and_then(|text| text.parse().ok());
            if let Some(sent) = sent {
                self.late
                    .push(now.saturating_sub(Duration::from_nanos(sent)));
            }
        }
    }
}

async fn ask(client: &PlainClient, url: &Uri, shape: Shape) -> Result<Measured, String> {
    let asking = ask_unbounded(client, url, shape);
    match tokio::time::timeout(ANSWER_DEADLINE, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no whole answer within {ANSWER_DEADLINE:?}")),
    }
}

async fn ask_unbounded(client: &PlainClient, url: &Uri, shape: Shape) -> Result<Measured, String> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(url)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, "Bearer bench")
        .body(Body::from(shape.body().to_string()))
        .map_err(|error| error.to_string())?;
    let begin = Instant::now();
    let response = client
        .request(request)
        .await
        .map_err(|error| format!("{error:?}"))?;
    let status = response.status();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    let mut stamps = Stamps::default();
    let mut first_byte = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the body broke: {error}"))?;
        if let Some(data) = frame.data_ref() {
            first_byte.get_or_insert_with(|| begin.elapsed());
            bytes.extend_from_slice(data);
            if shape == Shape::Paced {
                stamps.look(&bytes);
            }
        }
    }
    let whole = begin.elapsed();
    if !status.is_success() || !shape.is_complete(&bytes) {
        let text = String::from_utf8_lossy(&bytes);
        let shown: String = text.chars().take(300).collect();
        return Err(format!("{status}: {shown}"));
    }
    let times = Times {
        first_byte: first_byte.unwrap_or(whole),
        whole,
    };
    Ok((times, stamps.late))
}

/// Makes `requests` requests, `concurrency` at a time.
pub async fn run(
    client: &PlainClient,
    base_url: &str,
    shape: Shape,
    concurrency: usize,
    requests: usize,
) -> Batch {
    let url = format!("{base_url}/chat/completions");
    let url: Uri = url.parse().expect("a base URL is a URL");
    let begin = Instant::now();
    let mut workers = JoinSet::new();
    for index in 0..concurrency {
        let share = requests / concurrency + usize::from(index < requests % concurrency);
        let (client, url) = (client.clone(), url.clone());
        workers.spawn(async move {
            let mut batch = Batch::default();
            for _ in 0..share {
                match ask(&client, &url, shape).await {
                    Ok((times, late)) => {
                        batch.times.push(times);
                        batch.late.extend(late);
                    }
                    Err(failure) => batch.fail(failure),
                }
            }
            batch
        });
    }
    let mut all = Batch::default();
    while let Some(done) = workers.join_next().await {
        all.add(done.expect("a worker does not panic"));
    }
    all.elapsed = begin.elapsed();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_found_however_a_body_is_split() {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let sent = now.saturating_sub(Duration::from_secs(5));
        let body = format!("word0 @{0:019}\n\nword1 @{0:019}", sent.as_nanos());
        for size in [1, 7, 1000] {
            let (mut stamps, mut come) = (Stamps::default(), Vec::new());
            for piece in body.as_bytes().chunks(size) {
                come.extend_from_slice(piece);
                stamps.look(&come);
            }
            assert_eq!(stamps.late.len(), 2);
            let right = Duration::from_secs(5)..Duration::from_secs(600);
            assert!(
                stamps.late.iter().all(|late| right.contains(late)),
                "{stamps:?}"
            );
        }
    }
}
