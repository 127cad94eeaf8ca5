//! Server-sent events, read from bytes as they come, split anywhere.
//!
//! Tolerates what backends do: `\r\n`, comments, no space behind the colon, several `data` lines,
//! and no empty line behind the last event.

/// The longest event, and the longest line of one: a chunk holds a token or a few, seldom a whole
/// tool call or image; 1 MiB is far above all of them.
pub(super) const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// An event that carries data.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its data lines, joined.
    pub(crate) data: Vec<u8>,
    /// Whether its type is `error`.
    pub(crate) is_error: bool,
}

/// An event or a line is over [`MAX_EVENT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is over {MAX_EVENT_BYTES} bytes")]
pub(crate) struct EventTooLong;

/// The bytes not looked at yet, and the event that they continue.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    buffer: Vec<u8>,
    /// Where the current line begins in the buffer.
    line_start: usize,
    /// Up to where the current line was searched for its end.
    searched: usize,
    event: Event,
    has_data: bool,
}

impl Parser {
    /// Takes bytes as they came. Call [`Parser::next`] until it has nothing more before the next
    /// push, so that the buffer holds one unfinished line at most.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.line_start);
        self.searched = self.searched.saturating_sub(self.line_start);
        self.line_start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete event.
    pub(crate) fn next(&mut self) -> Result<Option<Event>, EventTooLong> {
        while let Some((start, end)) = self.next_line() {
            let line = self.buffer.get(start..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                if let Some(event) = self.take_event() {
                    return Ok(Some(event));
                }
                continue;
            }
            take_line(line, &mut self.event, &mut self.has_data);
            if self.event.data.len() > MAX_EVENT_BYTES {
                return Err(EventTooLong);
            }
        }
        if self.buffer.len().saturating_sub(self.line_start) > MAX_EVENT_BYTES {
            return Err(EventTooLong);
        }
        Ok(None)
    }

    /// The event that the end of the body completes.
    pub(super) fn finish(&mut self) -> Option<Event> {
        let line = self.buffer.get(self.line_start..).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        take_line(line, &mut self.event, &mut self.has_data);
        self.line_start = self.buffer.len();
        self.take_event()
    }

    fn next_line(&mut self) -> Option<(usize, usize)> {
        let rest = self.buffer.get(self.searched..).unwrap_or_default();
        let Some(offset) = rest.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let (start, end) = (self.line_start, self.searched.saturating_add(offset));
        self.line_start = end.saturating_add(1);
        self.searched = self.line_start;
        Some((start, end))
    }

    fn take_event(&mut self) -> Option<Event> {
        let event = std::mem::take(&mut self.event);
        std::mem::take(&mut self.has_data).then_some(event)
    }
}

fn take_line(line: &[u8], event: &mut Event, has_data: &mut bool) {
    let colon = line.iter().position(|byte| *byte == b':');
    let (field, value) = match colon {
        Some(0) => return,
        Some(colon) => line.split_at(colon),
        None => (line, &b""[..]),
    };
    let value = value.strip_prefix(b":").unwrap_or(value);
    let value = value.strip_prefix(b" ").unwrap_or(value);
    match field {
        b"data" => {
            if std::mem::replace(has_data, true) {
                event.data.push(b'\n');
            }
            event.data.extend_from_slice(value);
        }
        b"event" => event.is_error = value == b"error",
        _ => {}
    }
}

/// What comes out of a body in pieces of `size` bytes, until it is refused.
pub(super) fn fuzz(body: &[u8], size: usize) -> Vec<Event> {
    let (mut parser, mut events) = (Parser::default(), Vec::new());
    for piece in body.chunks(size) {
        parser.push(piece);
        loop {
            match parser.next() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(EventTooLong) => return events,
            }
        }
        assert!(parser.buffer.len() <= MAX_EVENT_BYTES.saturating_add(size));
    }
    events.extend(parser.finish());
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out when the bytes come in pieces of `size`.
    fn events(text: &[u8], size: usize) -> Vec<Event> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for piece in text.chunks(size) {
            parser.push(piece);
            while let Some(event) = parser.next().unwrap() {
                events.push(event);
            }
        }
        events.extend(parser.finish());
        events
    }

    fn data(text: &str) -> Event {
        Event {
            data: text.as_bytes().to_vec(),
            is_error: false,
        }
    }

    #[test]
    fn events_are_the_same_however_their_bytes_are_split() {
        let text = "\u{feff}: hello\n: a comment\n\nid: 1\ndata: {\"é\":1}\n\ndata:x\r\ndata: y\r\n\r\nevent: error\ndata: bad\n\n\nretry: 3\n\ndata: [DONE]";
        let error = Event {
            data: b"bad".to_vec(),
            is_error: true,
        };
        let expected = [data("{\"é\":1}"), data("x\ny"), error, data("[DONE]")];
        for size in 1..=text.len() {
            assert_eq!(
                events(text.as_bytes(), size),
                expected,
                "pieces of {size} bytes"
            );
        }
    }

    #[test]
    fn a_body_without_data_has_no_events() {
        for text in ["", "\n\n\n", ": only comments\n\n", "{\"error\":1}"] {
            assert_eq!(events(text.as_bytes(), 3), [], "{text:?}");
        }
    }

    #[test]
    fn a_line_and_an_event_without_end_are_refused() {
        let mut parser = Parser::default();
        parser.push(&vec![b'x'; MAX_EVENT_BYTES + 1]);
        assert_eq!(parser.next(), Err(EventTooLong));

        let mut parser = Parser::default();
        let line = format!("data: {}\n", "y".repeat(1000));
        let refused = (0..2000).any(|_| {
            parser.push(line.as_bytes());
            parser.next().is_err()
        });
        assert!(refused);
    }
}
