//! Clients of every kind.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::world::{MODEL, Troubles};

/// Longer than the timers of all attempts together.
const HANGS: Duration = Duration::from_secs(90);

/// Failures that are kept.
const KEPT: usize = 10_000;

/// A pause of a client between two requests, in milliseconds.
const PAUSE: std::ops::Range<u64> = 50..350;

/// The share of requests that want a provider first that gets into trouble.
const ASKED_FIRST: f64 = 0.4;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Plain,
    Streamed,
    Embeddings,
    Messages,
    MessagesStreamed,
    Cancelled,
    Large,
}

impl Kind {
    fn any(random: &mut StdRng) -> Self {
        match random.random_range(0..20) {
            0..5 => Self::Plain,
            5..11 => Self::Streamed,
            11..13 => Self::Embeddings,
            13..15 => Self::Messages,
            15..17 => Self::MessagesStreamed,
            17..19 => Self::Cancelled,
            _ => Self::Large,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::Messages | Self::MessagesStreamed => "messages",
            _ => "chat/completions",
        }
    }

    fn request(self, random: &mut StdRng) -> Value {
        let user = |content: Value| json!([{"role": "user", "content": content}]);
        let chunks = random.random_range(4..40);
        let field = json!({"chunks": chunks});
        let stream = matches!(
            self,
            Self::Streamed | Self::MessagesStreamed | Self::Cancelled
        );
        match self {
            Self::Embeddings => json!({"model": MODEL, "input": "some words"}),
            Self::Large => {
                let bytes = random.random_range(1..4) << 20;
                let image = format!("data:image/png;base64,{}", "A".repeat(bytes));
                let parts = json!([{"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": image}}]);
                json!({"model": MODEL, "max_tokens": 64, "messages": user(parts)})
            }
            _ => json!({"model": MODEL, "max_tokens": 64, "stream": stream,
                "messages": user(json!("Say some words")), "derouter_test": field}),
        }
    }
}

/// How a request ended.
enum Ended {
    Answered,
    Cancelled,
    /// With an error event, in the middle.
    BrokeOff(String),
    Failed(String),
}

/// What came of all requests.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) answered: u64,
    pub(super) cancelled: u64,
    pub(super) broke_off: u64,
    pub(super) failures: Vec<String>,
    pub(super) kinds: BTreeMap<String, u64>,
}

impl Counts {
    pub(super) fn total(&self) -> u64 {
        let failed = u64::try_from(self.failures.len()).unwrap_or(u64::MAX);
        self.answered + self.cancelled + self.broke_off + failed
    }
}

/// All clients.
pub(super) struct Load {
    url: String,
    client: reqwest::Client,
    troubles: Arc<Troubles>,
    /// Providers that get into trouble.
    restless: Vec<String>,
    pub(super) stop: AtomicBool,
    /// No new requests for now.
    pub(super) rest: AtomicBool,
    pub(super) counts: Mutex<Counts>,
}

impl Load {
    pub(super) fn new(url: String, troubles: Arc<Troubles>, restless: Vec<String>) -> Self {
        Self {
            url,
            restless,
            client: reqwest::Client::new(),
            troubles,
            stop: AtomicBool::new(false),
            rest: AtomicBool::new(false),
            counts: Mutex::default(),
        }
    }

    /// One client, until all are stopped.
    pub(super) async fn run(self: Arc<Self>, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        while !self.stop.load(Ordering::Relaxed) {
            if self.rest.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(PAUSE.end)).await;
                continue;
            }
            let kind = Kind::any(&mut random);
            let request = kind.request(&mut random);
            let after = random.random_range(1..4);
            // Who failed is asked last for up to 8 minutes, unless a request says otherwise.
            let first = match random.random_bool(ASKED_FIRST) {
                true => self.restless.choose(&mut random),
                false => None,
            };
            let asking = self.ask(kind, &request, after, first);
            let ended = match timeout(HANGS, asking).await {
                Ok(ended) => ended,
                Err(_) => Ended::Failed(format!("nothing for {HANGS:?}")),
            };
            self.note(kind, ended);
            sleep(Duration::from_millis(random.random_range(PAUSE))).await;
        }
    }

    fn note(&self, kind: Kind, ended: Ended) {
        let mut counts = self.counts.lock().unwrap();
        *counts.kinds.entry(format!("{kind:?}")).or_default() += 1;
        match ended {
            Ended::Answered => counts.answered += 1,
            Ended::Cancelled => counts.cancelled += 1,
            Ended::BrokeOff(_) => counts.broke_off += 1,
            Ended::Failed(why) if counts.failures.len() < KEPT => {
                counts.failures.push(format!("{kind:?}: {why}"));
            }
            Ended::Failed(_) => {}
        }
    }

    async fn ask(
        &self,
        kind: Kind,
        request: &Value,
        cancel_after: usize,
        first: Option<&String>,
    ) -> Ended {
        let since = Instant::now();
        let url = format!("{}/{}", self.url, kind.path());
        let mut post = self.client.post(url).body(request.to_string());
        if let Some(first) = first {
            post = post.header("x-derouter-order", first);
        }
        let sent = post
            .header("content-type", "application/json")
            .header("anthropic-version", "2023-06-01")
            .send()
            .await;
        let mut response = match sent {
            Ok(response) => response,
            Err(error) => return Ended::Failed(format!("{error:?}")),
        };
        let status = response.status().as_u16();
        let provider = response.headers().get("x-derouter-provider");
        let provider = provider.and_then(|it| it.to_str().ok()).unwrap_or("nobody");
        let provider = provider.to_owned();
        let (mut text, mut pieces) = (Vec::new(), 0);
        loop {
            match response.chunk().await {
                Ok(Some(bytes)) => text.extend_from_slice(&bytes),
                Ok(None) => break,
                Err(error) => {
                    return Ended::Failed(format!("a body from {provider} broke: {error}"));
                }
            }
            pieces += 1;
            if kind == Kind::Cancelled && status == 200 && pieces >= cancel_after {
                return Ended::Cancelled;
            }
        }
        let text = String::from_utf8_lossy(&text);
        match ended(kind, status, &text) {
            Ended::BrokeOff(why) if !self.troubles.since(&provider, since) => {
                Ended::Failed(format!("{provider} broke off without trouble: {why}"))
            }
            ended => ended,
        }
    }
}

fn ended(kind: Kind, status: u16, text: &str) -> Ended {
    let end: String = text
        .chars()
        .skip(text.chars().count().saturating_sub(300))
        .collect();
    if status != 200 {
        return Ended::Failed(format!("status {status}: {end}"));
    }
    let whole = match kind {
        Kind::Streamed | Kind::Cancelled => text.ends_with("data: [DONE]\n\n"),
        Kind::MessagesStreamed => text.contains("event: message_stop"),
        Kind::Embeddings => text.contains("\"embedding\""),
        Kind::Plain | Kind::Large => text.contains("\"finish_reason\":\"stop\""),
        Kind::Messages => text.contains("\"stop_reason\":\"end_turn\""),
    };
    let breaks = text.contains("provider_failed") || text.contains("event: error");
    match (whole, breaks) {
        (true, false) if text.matches("word0 ").count() <= 1 => Ended::Answered,
        (false, true) if text.contains("broke off") => Ended::BrokeOff(end),
        _ => Ended::Failed(format!("half an answer, or two: {end}")),
    }
}
