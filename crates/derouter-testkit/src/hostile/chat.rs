//! A chat whose tokens are timed.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::http;
use crate::sim::usage::percentile;

/// Between two tokens of the backend.
const PACE: Duration = Duration::from_millis(20);
/// Tokens of one chat.
const TOKENS: usize = 250;

/// How late tokens came: the time from one to the next, less the backend's pace.
#[derive(Clone, Copy, Debug)]
pub struct Lateness {
    /// Half of the gaps were no longer.
    pub median: Duration,
    /// 99 of 100 gaps were no longer.
    pub p99: Duration,
    /// The longest gap.
    pub longest: Duration,
    /// Tokens that came, of those of all chats.
    pub tokens: usize,
}

/// Gaps between the tokens of one chat.
async fn gaps(url: &str, model: &str) -> Result<Vec<Duration>, String> {
    let body = json!({
        "model": model,
        "stream": true,
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": "Talk while others make noise."}],
        "derouter_test": {"chunks": TOKENS, "pace_ms": PACE.as_millis()},
    });
    let url = format!("{url}/chat/completions");
    let stream = http::stream(&url, &body).await;
    let mut stream = stream.map_err(|error| error.to_string())?;
    let mut last: Option<Instant> = None;
    let mut gaps = Vec::new();
    while let Some(piece) = stream.next().await? {
        let now = Instant::now();
        let tokens = piece.matches("\"content\":\"word").count();
        if tokens == 0 {
            continue;
        }
        if let Some(last) = last {
            gaps.push(now - last);
            // Those that came together had no gap of their own.
            gaps.extend(std::iter::repeat_n(Duration::ZERO, tokens - 1));
        }
        last = Some(now);
    }
    Ok(gaps)
}

/// So many chats, one after the other.
pub async fn measure(url: &str, model: &str, chats: usize) -> Lateness {
    let mut all = Vec::new();
    for _ in 0..chats {
        match gaps(url, model).await {
            Ok(gaps) => all.extend(gaps),
            Err(error) => eprintln!("a chat failed: {error}"),
        }
    }
    let [median, p99, longest] = [50, 99, 100].map(|percent| percentile(&mut all, percent));
    Lateness {
        median,
        p99,
        longest,
        tokens: all.len() + chats,
    }
}

/// Tokens that so many chats have.
pub fn tokens_of(chats: usize) -> usize {
    chats * TOKENS
}
