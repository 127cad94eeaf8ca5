//! One streamed chat through the OpenAI endpoint, with a plain HTTP client.

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use super::screen::{Screen, printable};
use crate::failure::Failure;

/// Bytes of one event of the answer at most. An event is a few words.
const EVENT_BYTES: usize = 1024 * 1024;

/// How long an answer may stay silent. A server may load its model first.
const SILENCE: Duration = Duration::from_secs(300);

/// A client for this machine: what is set for the internet (proxies) is not for it.
pub(super) fn client() -> Result<reqwest::Client, Failure> {
    reqwest::Client::builder()
        .no_proxy()
        .tcp_nodelay(true)
        .read_timeout(SILENCE)
        .build()
        .map_err(|error| Failure::failed(format_args!("can't make an HTTP client: {error}")))
}

/// Asks, and prints the answer as it comes.
pub(super) async fn stream(
    url: &str,
    model: &str,
    prompt: &str,
    screen: &Screen,
) -> Result<(), Failure> {
    screen.line("");
    screen.item("you", &printable(prompt));
    screen.raw(&screen.label("answer"));
    let request = json!({
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": true,
    });
    let response = client()?
        .post(format!("{url}/chat/completions"))
        .header("content-type", "application/json")
        .body(request.to_string())
        .send()
        .await
        .map_err(failed)?;
    let status = response.status();
    if !status.is_success() {
        let body = response.text().await.unwrap_or_default();
        screen.line("");
        return Err(failed(format_args!("{status}: {}", error_message(&body))));
    }
    let mut body = response.bytes_stream();
    let mut events = Events::default();
    let mut printer = Printer {
        screen,
        reasoning: false,
    };
    while let Some(bytes) = body.next().await {
        for event in events.push(&bytes.map_err(failed)?)? {
            if !printer.print(&event)? {
                screen.line("");
                return Ok(());
            }
        }
    }
    screen.line("");
    Err(failed("the answer ended before it was complete"))
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::failed(format_args!(
        "the chat failed: {error}. Run it again with RUST_LOG=info to see more"
    ))
}

/// What an OpenAI error body says.
fn error_message(body: &str) -> String {
    let json: Option<Value> = serde_json::from_str(body).ok();
    let message = json
        .as_ref()
        .and_then(|json| json.pointer("/error/message")?.as_str());
    printable(
        &message
            .unwrap_or(body)
            .chars()
            .take(500)
            .collect::<String>(),
    )
}

/// Cuts server-sent events out of the bytes as they come.
#[derive(Default)]
struct Events {
    buffer: Vec<u8>,
}

impl Events {
    /// The `data` of each event that is now complete.
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, Failure> {
        self.buffer.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some(data) = line.trim_end().strip_prefix("data:") {
                events.push(data.trim_start().to_owned());
            }
        }
        if self.buffer.len() > EVENT_BYTES {
            return Err(failed("an event of the answer is over 1 MiB"));
        }
        Ok(events)
    }
}

/// Prints the words of an answer; those of a model that thinks aloud are set apart.
struct Printer<'a> {
    screen: &'a Screen,
    reasoning: bool,
}

impl Printer<'_> {
    /// Prints an event; false when it was the last.
    fn print(&mut self, event: &str) -> Result<bool, Failure> {
        if event == "[DONE]" {
            return Ok(false);
        }
        let chunk: Value = serde_json::from_str(event).map_err(failed)?;
        if chunk.get("error").is_some() {
            self.screen.line("");
            return Err(failed(error_message(event)));
        }
        let text = |key: &str| {
            let delta = chunk.pointer("/choices/0/delta")?;
            delta.get(key)?.as_str().filter(|text| !text.is_empty())
        };
        let thought = text("reasoning_content").or_else(|| text("reasoning"));
        if let Some(thought) = thought {
            self.reasoning = true;
            self.screen.raw(&self.screen.faint(&printable(thought)));
        }
        if let Some(words) = text("content") {
            if std::mem::take(&mut self.reasoning) {
                self.screen.raw("\n\n");
            }
            self.screen.raw(&printable(words));
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Output;

    #[test]
    fn events_are_whole_however_the_bytes_are_cut() {
        let text = ": comment\r\ndata: {\"a\":\"é\"}\r\n\r\ndata:[DONE]\n\n";
        for size in 1..text.len() {
            let mut events = Events::default();
            let mut seen = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                seen.extend(events.push(piece).unwrap());
            }
            assert_eq!(seen, ["{\"a\":\"é\"}", "[DONE]"], "pieces of {size}");
        }
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut events = Events::default();
        assert!(events.push(&vec![b'x'; EVENT_BYTES + 1]).is_err());
    }

    #[test]
    fn an_error_event_is_an_error() {
        let screen = Screen::stderr(Output::default());
        let mut printer = Printer {
            screen: &screen,
            reasoning: false,
        };
        let error = printer
            .print(r#"{"error":{"message":"gone"}}"#)
            .unwrap_err();
        assert!(format!("{error:?}").contains("gone"));
        assert!(!printer.print("[DONE]").unwrap());
        assert!(printer.print(r#"{"choices":[]}"#).unwrap());
    }
}
