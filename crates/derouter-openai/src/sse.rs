//! Server-sent events, cut out of bytes as they come, split anywhere. The bytes of an event are kept as
//! they are, so that it can be passed on untouched.
//!
//! Tolerates what servers do: `\r\n`, comments, no space behind the colon, several `data` lines, and no
//! empty line behind the last event.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use crate::meter::json_items;
use crate::terms::Endpoint;

/// The longest event, where nothing else is said: a chunk holds a token or a few, seldom a whole tool
/// call; 1 MiB is far above all of them.
pub(crate) const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// The longest event that holds an image in base64: as much as a whole answer with images may have.
const MAX_IMAGE_EVENT_BYTES: usize = 64 * 1024 * 1024;

/// Values in the JSON of an event beyond [`MAX_EVENT_BYTES`]. An image is one; each value takes
/// memory.
const MAX_LONG_EVENT_ITEMS: usize = 100_000;

/// An event, or only comments, with the empty line that ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its bytes.
    pub(crate) raw: Bytes,
}

/// An event is over the limit, or one of an image is no image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is too long")]
pub(crate) struct EventTooLong;

/// The bytes that are no whole event yet.
#[derive(Debug)]
pub(crate) struct Splitter {
    longest: usize,
    buffer: BytesMut,
    /// Where the current line begins in the buffer.
    line_start: usize,
    /// Up to where the current line was searched for its end.
    searched: usize,
}

impl Default for Splitter {
    fn default() -> Self {
        Self {
            longest: MAX_EVENT_BYTES,
            buffer: BytesMut::new(),
            line_start: 0,
            searched: 0,
        }
    }
}

/// The longest event of an endpoint's streams, in bytes.
pub(crate) fn longest_event(endpoint: Endpoint) -> usize {
    match endpoint {
        Endpoint::ImageGenerations | Endpoint::ImageEdits => MAX_IMAGE_EVENT_BYTES,
        _ => MAX_EVENT_BYTES,
    }
}

impl Splitter {
    /// Splits what an endpoint streams.
    pub(crate) fn of(endpoint: Endpoint) -> Self {
        Self {
            longest: longest_event(endpoint),
            ..Self::default()
        }
    }

    /// Takes bytes as they came. Call [`Splitter::next`] until it has nothing more before the next
    /// push, so that the buffer holds one unfinished event at most.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event that has data.
    pub(crate) fn next(&mut self) -> Result<Option<Event>, EventTooLong> {
        while let Some(end) = self.next_end() {
            let event = self.take(end);
            if event.raw.len() > MAX_EVENT_BYTES && json_items(&event.raw) > MAX_LONG_EVENT_ITEMS {
                return Err(EventTooLong);
            }
            if event.has_data() {
                return Ok(Some(event));
            }
        }
        if self.buffer.len() > self.longest {
            return Err(EventTooLong);
        }
        Ok(None)
    }

    /// The event that the end of the body completes.
    pub(crate) fn finish(&mut self) -> Option<Event> {
        let event = self.take(self.buffer.len());
        event.has_data().then_some(event)
    }

    /// Where the next event ends: behind an empty line.
    fn next_end(&mut self) -> Option<usize> {
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(offset) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                return None;
            };
            let end = self.searched.saturating_add(offset);
            let line = self.buffer.get(self.line_start..end).unwrap_or_default();
            let is_empty = matches!(line, [] | [b'\r']);
            self.searched = end.saturating_add(1);
            self.line_start = self.searched;
            if is_empty {
                return Some(self.searched);
            }
        }
    }

    fn take(&mut self, end: usize) -> Event {
        let raw = self.buffer.split_to(end.min(self.buffer.len())).freeze();
        self.line_start = 0;
        self.searched = 0;
        Event { raw }
    }
}

impl Event {
    /// Its data lines, joined.
    pub(crate) fn data(&self) -> Cow<'_, [u8]> {
        let mut lines = self.fields().filter(|(name, _)| *name == b"data");
        let first = lines.next().map_or(&b""[..], |(_, value)| value);
        let mut joined = Cow::Borrowed(first);
        for (_, value) in lines {
            let text = joined.to_mut();
            text.push(b'\n');
            text.extend_from_slice(value);
        }
        joined
    }

    /// Whether it is one line, `data: ` and a text: what programs can read that do not know all of the
    /// format.
    pub(crate) fn is_one_line(&self) -> bool {
        let text = self.raw.trim_ascii_end();
        text.starts_with(b"data: ") && !text.contains(&b'\n')
    }

    /// Whether its type is `error`.
    pub(crate) fn is_error(&self) -> bool {
        let mut types = self.fields().filter(|(name, _)| *name == b"event");
        types
            .next_back()
            .is_some_and(|(_, value)| value == b"error")
    }

    /// Whether it is the end of an answer: `[DONE]`.
    pub(crate) fn is_done(&self) -> bool {
        self.data().trim_ascii() == b"[DONE]"
    }

    /// Whether there is a carriage return that ends no line here, and does elsewhere.
    pub(crate) fn has_bare_return(&self) -> bool {
        let mut pairs = self.raw.windows(2);
        pairs.any(|pair| matches!(pair, [b'\r', next] if *next != b'\n'))
    }

    fn has_data(&self) -> bool {
        self.fields().any(|(name, _)| name == b"data")
    }

    /// Names and values of its lines, without comments.
    fn fields(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        self.raw.split(|byte| *byte == b'\n').filter_map(|line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let colon = line.iter().position(|byte| *byte == b':');
            let (name, value) = match colon {
                Some(0) => return None,
                Some(colon) => line.split_at(colon),
                None => (line, &b""[..]),
            };
            let value = value.strip_prefix(b":").unwrap_or(value);
            Some((name, value.strip_prefix(b" ").unwrap_or(value)))
        })
    }
}

/// What comes out of a body in pieces of `size` bytes, until it is refused.
pub(crate) fn fuzz(body: &[u8], size: usize) -> Vec<(Vec<u8>, bool)> {
    let (mut splitter, mut events) = (Splitter::default(), Vec::new());
    let seen = |event: &Event| (event.data().into_owned(), event.is_error());
    for piece in body.chunks(size) {
        splitter.push(piece);
        loop {
            match splitter.next() {
                Ok(Some(event)) => events.push(seen(&event)),
                Ok(None) => break,
                Err(EventTooLong) => return events,
            }
        }
        assert!(splitter.buffer.len() <= MAX_EVENT_BYTES.saturating_add(size));
    }
    events.extend(splitter.finish().iter().map(seen));
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(text: &str) -> (Vec<u8>, bool) {
        (text.as_bytes().to_vec(), false)
    }

    #[test]
    fn events_are_the_same_however_their_bytes_are_split() {
        let text = "\u{feff}: hello\n: a comment\n\nid: 1\ndata: {\"é\":1}\n\ndata:x\r\ndata: y\r\n\r\nevent: error\ndata: bad\n\n\nretry: 3\n\ndata: [DONE]";
        let error = (b"bad".to_vec(), true);
        let expected = [data("{\"é\":1}"), data("x\ny"), error, data("[DONE]")];
        for size in 1..=text.len() {
            assert_eq!(
                fuzz(text.as_bytes(), size),
                expected,
                "pieces of {size} bytes"
            );
        }
    }

    #[test]
    fn an_event_keeps_its_bytes() {
        let mut splitter = Splitter::default();
        splitter.push(b"event: x\r\ndata: 1\r\n\r\ndata: [DONE]");
        let event = splitter.next().unwrap().unwrap();
        assert_eq!(&event.raw[..], b"event: x\r\ndata: 1\r\n\r\n");
        assert!(!event.is_done());
        assert_eq!(splitter.next(), Ok(None));
        assert!(splitter.finish().unwrap().is_done());
        assert_eq!(splitter.finish(), None);
    }

    #[test]
    fn a_body_without_data_has_no_events() {
        for text in ["", "\n\n\n", ": only comments\n\n", "{\"error\":1}"] {
            assert_eq!(fuzz(text.as_bytes(), 3), [], "{text:?}");
        }
    }

    #[test]
    fn an_event_with_an_image_may_be_long_and_nothing_but_long() {
        let image = format!("data: {{\"b64_json\":\"{}\"}}\n\n", "A".repeat(3 << 20));
        let many = format!("data: [{}0]\n\n", "0,".repeat(1 << 20));
        let take = |endpoint, text: &str| {
            let mut splitter = Splitter::of(endpoint);
            for piece in text.as_bytes().chunks(65_536) {
                splitter.push(piece);
                if let Some(event) = splitter.next()? {
                    return Ok(Some(event.raw.len()));
                }
            }
            Ok(None)
        };
        let images = Endpoint::ImageGenerations;
        assert_eq!(take(images, &image), Ok(Some(image.len())));
        assert_eq!(take(Endpoint::Chat, &image), Err(EventTooLong));
        assert_eq!(take(images, &many), Err(EventTooLong));
    }

    #[test]
    fn a_line_and_an_event_without_end_are_refused() {
        let mut splitter = Splitter::default();
        splitter.push(&vec![b'x'; MAX_EVENT_BYTES + 1]);
        assert_eq!(splitter.next(), Err(EventTooLong));

        let mut splitter = Splitter::default();
        let line = format!("data: {}\n", "y".repeat(1000));
        let refused = (0..2000).any(|_| {
            splitter.push(line.as_bytes());
            splitter.next().is_err()
        });
        assert!(refused);
    }
}
