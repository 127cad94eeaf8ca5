//! The bytes of a streamed OpenAI answer as Anthropic's events. Pure.

use super::Context;
use super::stream::{Event, Translation};
use crate::sse::Splitter;

/// What a client is told when the answer ends before its end.
const BROKE_OFF: &str = "The answer broke off.";

/// What a client is told when the answer makes no sense.
const UNREADABLE: &str = "The provider's answer can't be read.";

/// Reads an answer, however its bytes are split.
pub(crate) struct Reader {
    events: Splitter,
    translation: Translation,
    /// There is nothing more to read.
    over: bool,
}

impl Reader {
    pub(crate) fn new(context: Context) -> Self {
        Self {
            events: Splitter::default(),
            translation: Translation::new(context),
            over: false,
        }
    }

    /// Whether the last event was given.
    pub(crate) fn ended(&self) -> bool {
        self.translation.ended()
    }

    /// Whether there is nothing more to read, or no use in it.
    pub(crate) fn over(&self) -> bool {
        self.over
    }

    /// The events that tell the client that the answer still comes, before which it must have begun.
    pub(crate) fn ping(&mut self) -> Vec<Event> {
        self.translation.ping()
    }

    /// The events for more bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        if self.over {
            return events;
        }
        self.events.push(bytes);
        while !self.over {
            match self.events.next() {
                Ok(Some(event)) => {
                    events.extend(self.read(&event.data()));
                    self.over = self.translation.failed();
                }
                Ok(None) => break,
                Err(_) => {
                    events.extend(self.translation.fail(UNREADABLE));
                    self.over = true;
                }
            }
        }
        events
    }

    fn read(&mut self, data: &[u8]) -> Vec<Event> {
        if self.translation.ended() {
            return Vec::new();
        }
        if data == b"[DONE]" {
            return self.translation.end();
        }
        match serde_json::from_slice(data) {
            Ok(chunk) => self.translation.chunk(&chunk),
            Err(_) => self.translation.fail(UNREADABLE),
        }
    }

    /// The events for the end of the bytes. A whole answer has had its last event before.
    pub(crate) fn finish(&mut self) -> Vec<Event> {
        self.over = true;
        self.translation.fail(BROKE_OFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], size: usize) -> String {
        let mut reader = Reader::new(Context::default());
        let mut out = Vec::new();
        let pieces = bytes.chunks(size);
        let mut events: Vec<Event> = pieces.flat_map(|piece| reader.push(piece)).collect();
        events.extend(reader.finish());
        assert!(reader.ended());
        events.iter().for_each(|event| event.write(&mut out));
        String::from_utf8(out).unwrap()
    }

    const CHUNK: &str =
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"h\u{e9}\"}}]}\n\n";

    #[test]
    fn an_answer_is_the_same_however_it_is_split() {
        let text = format!(": keep-alive\n\n{CHUNK}{CHUNK}data: [DONE]\n\n{CHUNK}");
        let whole = read(text.as_bytes(), text.len());
        assert!(whole.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"));
        assert_eq!(whole.matches("text_delta").count(), 2);
        for size in 1..text.len() {
            assert_eq!(read(text.as_bytes(), size), whole);
        }
    }

    #[test]
    fn what_ends_early_or_makes_no_sense_is_an_error() {
        let endless = format!("data: {}", "x".repeat(3 << 20));
        for (text, message) in [
            (CHUNK, BROKE_OFF),
            ("", BROKE_OFF),
            ("data: {\n\n", UNREADABLE),
            (endless.as_str(), UNREADABLE),
        ] {
            let read = read(text.as_bytes(), 1 << 16);
            let (_, last) = read.rsplit_once("event: ").unwrap();
            assert!(
                last.starts_with("error\n") && last.contains(message),
                "{last}"
            );
        }
    }

    #[test]
    fn nothing_is_read_behind_an_error() {
        let mut reader = Reader::new(Context::default());
        reader.push(CHUNK.as_bytes());
        assert!(!reader.over());
        assert_eq!(reader.push(b"data: {\n\ndata: [DONE]\n\n").len(), 1);
        assert!(reader.over());
        assert!(reader.push(CHUNK.as_bytes()).is_empty());
    }
}
