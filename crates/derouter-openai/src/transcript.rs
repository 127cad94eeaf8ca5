//! What was asked and answered in a job of `openai:0.2`, for the records of whoever wants to keep it: the
//! private payload, which no other node sees.

use bytes::{Bytes, BytesMut};
use derouter_sdk::wire::limits::PRIVATE_PAYLOAD_BYTES;
use serde_json::{Value, json};

/// Bytes of a request, and of an answer, that are kept. Both fit, unless nearly all of it must be escaped.
const KEPT_BYTES: usize = PRIVATE_PAYLOAD_BYTES / 2 - 1024;

/// A request and what was answered so far.
#[derive(Debug)]
pub(crate) struct Transcript {
    request: Bytes,
    answer: BytesMut,
    /// Something did not fit.
    cut: bool,
}

impl Transcript {
    /// The beginning of one.
    pub(crate) fn of(request: &Bytes) -> Self {
        let fits = request.len() <= KEPT_BYTES;
        Self {
            request: if fits { request.clone() } else { Bytes::new() },
            answer: BytesMut::new(),
            cut: !fits,
        }
    }

    /// Adds a part of the answer's body.
    pub(crate) fn add(&mut self, part: &[u8]) {
        let room = KEPT_BYTES.saturating_sub(self.answer.len());
        let kept = part.get(..room).unwrap_or(part);
        self.cut |= kept.len() < part.len();
        self.answer.extend_from_slice(kept);
    }

    /// The private payload: JSON with both, as values where they are JSON, and as text otherwise. What is no
    /// text, such as sound, is left out.
    pub(crate) fn payload(&self) -> String {
        let mut answer = self.answer.as_ref();
        let mut cut = self.cut;
        loop {
            let payload = json!({
                "request": shown(&self.request),
                "response": shown(answer),
                "cut": cut,
            });
            let payload = payload.to_string();
            if payload.len() <= PRIVATE_PAYLOAD_BYTES {
                return payload;
            }
            if answer.is_empty() {
                return json!({"request": null, "response": null, "cut": true}).to_string();
            }
            // Escapes made it too long.
            cut = true;
            answer = answer.get(..answer.len() / 2).unwrap_or_default();
        }
    }
}

fn shown(body: &[u8]) -> Value {
    if let Ok(value) = serde_json::from_slice(body) {
        return value;
    }
    let valid = match std::str::from_utf8(body) {
        Ok(text) => text,
        // A part of a letter is cut off.
        Err(error) if error.error_len().is_none() => {
            let whole = body.get(..error.valid_up_to()).unwrap_or_default();
            std::str::from_utf8(whole).unwrap_or_default()
        }
        Err(_) => "",
    };
    match valid {
        "" => Value::Null,
        text => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(transcript: &Transcript) -> Value {
        let payload = transcript.payload();
        assert!(payload.len() <= PRIVATE_PAYLOAD_BYTES);
        serde_json::from_str(&payload).unwrap()
    }

    #[test]
    fn what_was_said_is_kept_and_says_when_it_is_cut() {
        let mut streamed = Transcript::of(&Bytes::from_static(b"{\"a\":1}"));
        streamed.add(b"data: {\"b\":2}\n\nda");
        streamed.add(b"ta: [DONE]\n\n");
        let expected = json!({"request": {"a": 1}, "response": "data: {\"b\":2}\n\ndata: [DONE]\n\n", "cut": false});
        assert_eq!(read(&streamed), expected);

        let mut plain = Transcript::of(&Bytes::from_static(b"{}"));
        plain.add(b"{\"b\":");
        plain.add(b"2}");
        let expected = json!({"request": {}, "response": {"b": 2}, "cut": false});
        assert_eq!(read(&plain), expected);

        let mut sound = Transcript::of(&Bytes::from_static(b"--boundary"));
        sound.add(&[0xff, 0xfb, 0x90]);
        let expected = json!({"request": "--boundary", "response": null, "cut": false});
        assert_eq!(read(&sound), expected);
    }

    #[test]
    fn it_is_bounded_whatever_is_said() {
        let large = Bytes::from(vec![b'x'; 8 << 20]);
        let mut long = Transcript::of(&large);
        long.add(&large);
        let read_back = read(&long);
        assert_eq!(read_back["request"], Value::Null);
        assert_eq!(read_back["response"].as_str().unwrap().len(), KEPT_BYTES);
        assert_eq!(read_back["cut"], true);

        let quotes = Bytes::from(vec![1_u8; KEPT_BYTES]);
        let mut escaped = Transcript::of(&quotes);
        escaped.add(&quotes);
        assert_eq!(read(&escaped)["cut"], true);
        let mut umlauts = Transcript::of(&Bytes::new());
        umlauts.add("\u{e4}".repeat(KEPT_BYTES).as_bytes());
        assert!(
            read(&umlauts)["response"]
                .as_str()
                .unwrap()
                .ends_with('\u{e4}')
        );
    }
}
