//! The values of one job's answer, written by its pump and read by its connections.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use derouter_sdk::wire::cbor;
use tokio::sync::watch;

use crate::protocol::Prologue;

/// How far the pump may be ahead of the fastest connection: enough to never wait for a consumer
/// that reads, little enough that one that doesn't costs next to nothing.
const AHEAD_BYTES: usize = 256 * 1024;

/// What a log keeps. An answer that is longer can't be replayed from its beginning any more, and a
/// connection that falls further behind is cut.
const KEPT_BYTES: usize = 8 * 1024 * 1024;

/// The most values that a connection takes at once, so that one turn stays short.
const BATCH_VALUES: usize = 64;

/// The log.
#[derive(Debug)]
pub(super) struct AnswerLog {
    state: Mutex<State>,
    /// Changes with each value and with the end.
    written: watch::Sender<()>,
    /// Bytes that the fastest connection has taken.
    consumed: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    values: VecDeque<Bytes>,
    /// The number of the first kept value.
    first: usize,
    kept_bytes: usize,
    written_bytes: usize,
    ended: bool,
}

/// What a connection finds behind a position.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Values, each with its length prefix.
    Values(Vec<Bytes>),
    /// Nothing yet.
    Nothing,
    /// Nothing, and nothing will come.
    Ended,
    /// They are not kept any more.
    Lost,
}

impl AnswerLog {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            written: watch::Sender::new(()),
            consumed: watch::Sender::new(0),
        }
    }

    /// Begins the answer: writes the prologue, unless it is there.
    pub(super) fn open(&self) {
        self.begin(&Prologue::Ok);
    }

    /// Says that the service failed, unless the answer began: then only its missing end says so.
    pub(super) fn fail(&self, message: &str) {
        self.begin(&Prologue::ServiceError {
            message: Some(message.to_owned()),
        });
    }

    /// Whether the prologue is there.
    pub(super) fn opened(&self) -> bool {
        self.lock().written_bytes > 0
    }

    fn begin(&self, prologue: &Prologue) {
        // Only the pump writes, so that nothing comes in between.
        if !self.opened() {
            self.append(Bytes::from(cbor::to_framed_vec(prologue)));
        }
    }

    /// Appends a value as soon as the fastest connection is not too far behind.
    pub(super) async fn push(&self, value: Bytes) {
        let written = self.lock().written_bytes;
        let near = |consumed: &usize| written.saturating_sub(*consumed) <= AHEAD_BYTES;
        let mut consumed = self.consumed.subscribe();
        // Fails only when the sender is gone, and that is `self`.
        let _ = consumed.wait_for(near).await;
        self.append(value);
    }

    /// Appends a value without waiting.
    pub(super) fn append(&self, value: Bytes) {
        let mut state = self.lock();
        state.kept_bytes = state.kept_bytes.saturating_add(value.len());
        state.written_bytes = state.written_bytes.saturating_add(value.len());
        state.values.push_back(value);
        while state.kept_bytes > KEPT_BYTES && state.values.len() > 1 {
            let dropped = state.values.pop_front().map_or(0, |value| value.len());
            state.kept_bytes = state.kept_bytes.saturating_sub(dropped);
            state.first = state.first.saturating_add(1);
        }
        drop(state);
        self.written.send_replace(());
    }

    /// Ends the log.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.written.send_replace(());
    }

    /// Whether a new connection can read it from its beginning.
    pub(super) fn replays(&self) -> bool {
        self.lock().first == 0
    }

    /// Bytes kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.lock().kept_bytes
    }

    /// Tells of changes. Subscribe before [`AnswerLog::next`], or one may be missed.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.written.subscribe()
    }

    /// What follows the value number `position`.
    pub(super) fn next(&self, position: usize) -> Next {
        let state = self.lock();
        let Some(offset) = position.checked_sub(state.first) else {
            return Next::Lost;
        };
        let values = state.values.iter().skip(offset).take(BATCH_VALUES);
        let values: Vec<Bytes> = values.cloned().collect();
        match (values.is_empty(), state.ended) {
            (false, _) => Next::Values(values),
            (true, true) => Next::Ended,
            (true, false) => Next::Nothing,
        }
    }

    /// A connection has written so many bytes from the beginning.
    pub(super) fn consumed(&self, bytes: usize) {
        self.consumed.send_if_modified(|most| {
            let more = bytes > *most;
            *most = bytes.max(*most);
            more
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn value(bytes: usize) -> Bytes {
        Bytes::from(vec![b'x'; bytes])
    }

    #[test]
    fn a_log_replays_from_any_position_and_ends() {
        let log = AnswerLog::new();
        assert_eq!(log.next(0), Next::Nothing);
        log.append(value(1));
        log.append(value(2));
        log.end();
        assert_eq!(log.next(0), Next::Values(vec![value(1), value(2)]));
        assert_eq!(log.next(1), Next::Values(vec![value(2)]));
        assert_eq!(log.next(2), Next::Ended);
        assert!(log.replays());
    }

    #[test]
    fn an_answer_begins_once() {
        let (answered, failed) = (AnswerLog::new(), AnswerLog::new());
        answered.open();
        answered.fail("too late");
        failed.fail("why");
        failed.open();
        let only = |prologue| Next::Values(vec![Bytes::from(cbor::to_framed_vec(&prologue))]);
        assert_eq!(answered.next(0), only(Prologue::Ok));
        let message = Some("why".to_owned());
        assert_eq!(failed.next(0), only(Prologue::ServiceError { message }));
    }

    #[test]
    fn a_long_answer_goes_on_but_is_lost_to_those_who_fall_behind() {
        let log = AnswerLog::new();
        for _ in 0..10 {
            log.append(value(1024 * 1024));
        }
        assert_eq!(log.kept_bytes(), KEPT_BYTES);
        assert!(!log.replays());
        assert_eq!(log.next(1), Next::Lost);
        assert!(matches!(log.next(9), Next::Values(last) if last.len() == 1));
    }

    #[tokio::test]
    async fn the_pump_waits_for_the_fastest_connection() {
        let log = AnswerLog::new();
        let soon = Duration::from_secs(5);
        let first = tokio::time::timeout(soon, log.push(value(AHEAD_BYTES + 10)));
        first.await.unwrap();
        let ahead = log.push(value(10));
        tokio::pin!(ahead);
        assert!(futures::poll!(&mut ahead).is_pending());
        log.consumed(9);
        assert!(futures::poll!(&mut ahead).is_pending());
        log.consumed(10);
        tokio::time::timeout(soon, ahead).await.unwrap();
    }
}
