//! A chat whose tokens are timed.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::http;
use crate::sim::usage::percentile;

/// Between two tokens of the backend.
const PACE: Duration = Duration::from_millis(20);
/// Tokens of one chat.
const TOKENS: usize = 250;

/// The times from one token to the next of some chats.
#[derive(Clone, Debug, Default)]
pub struct Gaps {
    gaps: Vec<Duration>,
    /// Tokens that did not come.
    pub lost: usize,
}

impl Gaps {
    /// So many of a hundred gaps were no longer.
    pub fn percentile(&self, percent: usize) -> Duration {
        percentile(&mut self.gaps.clone(), percent)
    }

    /// Those of both.
    pub fn with(&self, other: &Gaps) -> Gaps {
        Gaps {
            gaps: [&self.gaps[..], &other.gaps[..]].concat(),
            lost: self.lost + other.lost,
        }
    }
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
pub async fn measure(url: &str, model: &str, chats: usize) -> Gaps {
    let mut all = Gaps::default();
    for _ in 0..chats {
        match gaps(url, model).await {
            Ok(gaps) => {
                all.lost += (TOKENS - 1).saturating_sub(gaps.len());
                all.gaps.extend(gaps);
            }
            Err(error) => {
                eprintln!("a chat failed: {error}");
                all.lost += TOKENS;
            }
        }
    }
    all
}
