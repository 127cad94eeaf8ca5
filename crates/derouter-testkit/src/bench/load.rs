//! The load: requests, checked answers, times.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, Request, Uri, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::proxy::PlainClient;

/// The model that the bench sells.
pub const MODEL: &str = "bench-model";

/// Content chunks of every answer.
pub const CHUNKS: usize = 100;

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
}

impl Shape {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Plain => "plain",
            Shape::Streamed => "streamed",
        }
    }

    fn body(self) -> Value {
        let stream = self == Shape::Streamed;
        let mut body = json!({
            "model": MODEL,
            "stream": stream,
            "max_tokens": 1_000,
            "messages": [{"role": "user", "content": "Tell me a story in a hundred words."}],
            "derouter_test": {"chunks": CHUNKS},
        });
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
        let last = format!("word{} ", CHUNKS - 1);
        let whole = has("word0 ") && has(&last);
        match self {
            Shape::Plain => whole && has("\"usage\""),
            Shape::Streamed => whole && has("data: [DONE]"),
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

async fn ask(client: &PlainClient, url: &Uri, shape: Shape) -> Result<Times, String> {
    let asking = ask_unbounded(client, url, shape);
    match tokio::time::timeout(ANSWER_DEADLINE, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no whole answer within {ANSWER_DEADLINE:?}")),
    }
}

async fn ask_unbounded(client: &PlainClient, url: &Uri, shape: Shape) -> Result<Times, String> {
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
    let mut first_byte = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the body broke: {error}"))?;
        if let Some(data) = frame.data_ref() {
            first_byte.get_or_insert_with(|| begin.elapsed());
            bytes.extend_from_slice(data);
        }
    }
    let whole = begin.elapsed();
    if !status.is_success() || !shape.is_complete(&bytes) {
        let text = String::from_utf8_lossy(&bytes);
        let shown: String = text.chars().take(300).collect();
        return Err(format!("{status}: {shown}"));
    }
    Ok(Times {
        first_byte: first_byte.unwrap_or(whole),
        whole,
    })
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
                    Ok(times) => batch.times.push(times),
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
