//! What of a list fits into one answer. Pure.

use derouter_wire::{cbor, limits};
use serde::Serialize;

/// Left for what is around the list: the frame's type, id and kind, and the answer's tag.
const AROUND_BYTES: usize = 1024;

/// What a list in an answer may take.
pub(super) const LIST_BYTES: usize = limits::RPC_FRAME_BYTES - AROUND_BYTES;

/// The items from the first on that fit; at least one, so that whoever asks page by page gets on.
pub(super) fn first_that_fit<T: Serialize>(mut items: Vec<T>, room: usize) -> Vec<T> {
    let mut used = 0;
    let fits = |item: &&T| {
        used += cbor::to_vec(*item).len();
        used <= room
    };
    let count = items.iter().take_while(fits).count();
    items.truncate(count.max(1));
    items
}

/// The smallest items that fit, in the order in which they came, and how many are left out. The
/// smallest, so that who floods the market with large offers crowds out these first.
pub(super) fn smallest_that_fit<T: Serialize>(items: Vec<T>, room: usize) -> (Vec<T>, usize) {
    let all = items.len();
    let sized = |(place, item): (usize, T)| (cbor::to_vec(&item).len(), place, item);
    let mut sized: Vec<_> = items.into_iter().enumerate().map(sized).collect();
    sized.sort_unstable_by_key(|(size, place, _)| (*size, *place));
    let mut used = 0;
    let fits = |(size, _, _): &&(usize, usize, T)| {
        used += size;
        used <= room
    };
    let count = sized.iter().take_while(fits).count();
    sized.truncate(count);
    sized.sort_unstable_by_key(|(_, place, _)| *place);
    let kept = sized.into_iter().map(|(_, _, item)| item).collect();
    (kept, all - count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As CBOR a text up to 23 bytes takes one more.
    fn texts(lengths: &[usize]) -> Vec<String> {
        lengths.iter().map(|length| "x".repeat(*length)).collect()
    }

    #[test]
    fn a_page_ends_before_the_first_row_that_does_not_fit() {
        assert_eq!(first_that_fit(texts(&[9, 9, 9]), 30), texts(&[9, 9, 9]));
        assert_eq!(first_that_fit(texts(&[9, 9, 9]), 29), texts(&[9, 9]));
        assert_eq!(first_that_fit(texts(&[9, 19, 1]), 20), texts(&[9]));
        assert_eq!(first_that_fit(texts(&[20, 1]), 10), texts(&[20]));
        assert_eq!(first_that_fit(texts(&[]), 10), texts(&[]));
    }

    #[test]
    fn the_largest_are_left_out_and_the_order_stays() {
        let of = |lengths: &[usize], room| smallest_that_fit(texts(lengths), room);
        assert_eq!(of(&[19, 4, 9], 35), (texts(&[19, 4, 9]), 0));
        assert_eq!(of(&[19, 9, 4], 34), (texts(&[9, 4]), 1));
        assert_eq!(of(&[9, 9, 9], 25), (texts(&[9, 9]), 1));
        assert_eq!(of(&[9], 5), (texts(&[]), 1));
    }
}
