//! Where a stream for a 0.1 module may be cut. Pure.
//!
//! 0.1 modules exchange values behind a `u32` big-endian length, and their reader spins for ever
//! when a value arrives in two chunks. A peer's bytes arrive cut anywhere. So a stream that looks
//! like such values is cut between them; the bytes are the same, whatever they are.

/// The largest value that 0.1 modules exchange. A larger length is no length.
const MAX_VALUE_BYTES: usize = 256 * 1024;

/// The most that is forwarded as one: what reaches a JavaScript module as one chunk.
const MAX_CHUNK_BYTES: usize = 65_512;

/// What a stream looks like so far.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// It is not made of values.
    raw: bool,
    /// A whole value was seen.
    proved: bool,
}

impl Values {
    /// How much of what has arrived can go out as one: whole values, or anything when the stream
    /// is not made of values. `None`: wait for more.
    pub(super) fn whole(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut end = 0;
        while !self.raw {
            let Some(prefix) = bytes.get(end..).and_then(|rest| rest.first_chunk::<4>()) else {
                break;
            };
            let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
            if length > MAX_VALUE_BYTES {
                self.raw = true;
                break;
            }
            let next = end + 4 + length;
            if next > bytes.len() || (end > 0 && next > MAX_CHUNK_BYTES) {
                break;
            }
            (end, self.proved) = (next, true);
        }
        let count = if end == 0 && self.raw {
            bytes.len()
        } else {
            end
        };
        (count > 0).then_some(count)
    }

    /// Whether the rest of a value may be late without doubt in the stream: it has shown a whole
    /// one. A slow backend pauses anywhere, and half a value makes a 0.1 module spin.
    pub(super) fn is_proved(&self) -> bool {
        self.proved
    }

    /// The rest of a first value did not come: this is something else.
    pub(super) fn give_up(&mut self) {
        self.raw = true;
    }
}

/// See [`crate::fuzz::job_bytes`]. The first byte says in what pieces the rest arrives.
pub(super) fn fuzz(data: &[u8]) {
    let Some((size, bytes)) = data.split_first() else {
        return;
    };
    let (mut values, mut waiting, mut sent) = (Values::default(), Vec::new(), Vec::new());
    let mut take = |values: &mut Values, waiting: &mut Vec<u8>| {
        while let Some(count) = values.whole(waiting) {
            assert!(count > 0 && count <= waiting.len());
            sent.extend(waiting.drain(..count));
        }
    };
    for piece in bytes.chunks(usize::from(*size).max(1)) {
        waiting.extend_from_slice(piece);
        take(&mut values, &mut waiting);
        assert!(waiting.len() < MAX_VALUE_BYTES.saturating_add(4));
    }
    values.give_up();
    take(&mut values, &mut waiting);
    assert!(waiting.is_empty());
    assert_eq!(sent, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(length: u32) -> Vec<u8> {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.resize(4 + length as usize, 7);
        bytes
    }

    #[test]
    fn values_go_out_whole_and_together_up_to_a_chunk() {
        let mut values = Values::default();
        let three = [value(30_000), value(30_000), value(30_000)].concat();
        assert_eq!(values.whole(&three), Some(60_008));
        assert_eq!(values.whole(&three[60_008..]), Some(30_004));
        assert_eq!(values.whole(&three[..30_003]), None);
        assert_eq!(values.whole(&three[..40_000]), Some(30_004));
        assert_eq!(values.whole(&value(0)), Some(4));
        assert_eq!(values.whole(&[]), None);
    }

    #[test]
    fn a_value_over_a_chunk_goes_out_alone() {
        let mut values = Values::default();
        let two = [value(10), value(100_000)].concat();
        assert_eq!(values.whole(&two), Some(14));
        assert_eq!(values.whole(&two[14..]), Some(100_004));
        assert_eq!(values.whole(&two[14..90_000]), None);
    }

    #[test]
    fn what_is_no_value_goes_out_as_it_comes() {
        let mut values = Values::default();
        let mixed = [value(10), b"hello".to_vec()].concat();
        assert_eq!(values.whole(&mixed), Some(14));
        assert_eq!(values.whole(b"hello"), Some(5));
        assert_eq!(values.whole(&[0]), Some(1));
    }

    #[test]
    fn a_stream_that_was_given_up_stays_so() {
        let mut values = Values::default();
        assert_eq!(values.whole(&[0, 0, 1]), None);
        values.give_up();
        assert_eq!(values.whole(&[0, 0, 1]), Some(3));
    }
}
