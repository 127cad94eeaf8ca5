//! The last lines of the log, in memory.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use derouter_sdk::UnixSeconds;

/// Lines that are kept; the oldest goes.
pub const LINES: usize = 2000;

/// Bytes of a line's text; the rest is cut off.
pub const LINE_BYTES: usize = 2048;

/// How bad a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something may not work.
    Warn,
    /// What happens.
    Info,
    /// More of that.
    Debug,
}

impl Level {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Counts all lines since the start.
    pub number: u64,
    /// When.
    pub at: UnixSeconds,
    /// How bad.
    pub level: Level,
    /// Which part of the program.
    pub target: String,
    /// What it says, fields included.
    pub text: String,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Line>,
    count: u64,
}

/// The last [`LINES`] lines.
#[derive(Debug, Default)]
pub struct LogRing(Mutex<Ring>);

impl LogRing {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a line.
    pub fn push(&self, level: Level, target: &str, mut text: String) {
        if text.len() > LINE_BYTES {
            let end = text.floor_char_boundary(LINE_BYTES);
            text.truncate(end);
        }
        let mut ring = self.ring();
        if ring.lines.len() >= LINES {
            ring.lines.pop_front();
        }
        let number = ring.count;
        ring.count = number.saturating_add(1);
        ring.lines.push_back(Line {
            number,
            at: crate::text::now(),
            level,
            target: target.to_owned(),
            text,
        });
    }

    /// How many lines there were since the start.
    pub fn count(&self) -> u64 {
        self.ring().count
    }

    /// The newest `most` lines that are at least so bad and hold a text, newest first.
    pub fn latest(&self, level: Level, holds: &str, most: usize) -> Vec<Line> {
        let ring = self.ring();
        let wanted = |line: &&Line| {
            line.level <= level && (line.text.contains(holds) || line.target.contains(holds))
        };
        ring.lines
            .iter()
            .rev()
            .filter(wanted)
            .take(most)
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_lines_go_and_long_ones_are_cut() {
        let ring = LogRing::default();
        for number in 0..LINES + 5 {
            ring.push(Level::Info, "t", format!("line {number}"));
        }
        ring.push(Level::Warn, "t", "ü".repeat(LINE_BYTES));
        assert_eq!(ring.count(), u64::try_from(LINES + 6).unwrap());
        assert_eq!(ring.latest(Level::Info, "", usize::MAX).len(), LINES);
        let bad = ring.latest(Level::Warn, "", 10);
        assert_eq!(bad.len(), 1);
        assert!(bad[0].text.len() <= LINE_BYTES);
        assert!(
            ring.latest(Level::Info, "line 5", 10)
                .iter()
                .all(|line| line.text.contains("line 5"))
        );
    }
}
