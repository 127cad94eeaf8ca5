//! What the node did in the last minutes: jobs under way, and requests and tokens a second. Pure.

use std::collections::VecDeque;

use derouter_sdk::UnixSeconds;

/// Seconds between two looks.
pub(crate) const BEAT_SECONDS: u64 = 2;

/// Looks that are kept: five minutes.
const MAX_BEATS: usize = 150;

/// Looks over which a second's requests and tokens are averaged: a job counts as a whole when it ends.
const AVERAGED: usize = 5;

/// How much was done until a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) at: UnixSeconds,
    /// Jobs under way.
    pub(crate) jobs: usize,
    /// Jobs that ended well, of all time.
    pub(crate) ended: u64,
    /// Their tokens.
    pub(crate) tokens: u64,
}

/// The last minutes.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    beats: VecDeque<Beat>,
}

/// The same as it is drawn: one value of each for each moment.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Series {
    pub(crate) at: Vec<u64>,
    pub(crate) jobs: Vec<f64>,
    /// A second.
    pub(crate) tokens: Vec<f64>,
    /// How it is now, in words.
    pub(crate) now: String,
}

impl Pulse {
    /// Takes a look. A clock that goes back begins anew: charts have no place for it.
    pub(crate) fn note(&mut self, beat: Beat) {
        if self.beats.back().is_some_and(|last| last.at >= beat.at) {
            self.beats.clear();
        }
        if self.beats.len() >= MAX_BEATS {
            self.beats.pop_front();
        }
        self.beats.push_back(beat);
    }

    /// What is drawn.
    pub(crate) fn series(&self) -> Series {
        let beats = self.beats.iter().enumerate();
        let rates: Vec<(f64, f64)> = beats.map(|(place, beat)| self.rates(place, beat)).collect();
        let jobs = self.beats.back().map_or(0, |beat| beat.jobs);
        let (ended, tokens) = rates.last().copied().unwrap_or_default();
        Series {
            at: self.beats.iter().map(|beat| beat.at.0).collect(),
            jobs: self.beats.iter().map(|beat| real(beat.jobs)).collect(),
            tokens: rates.iter().map(|(_, tokens)| *tokens).collect(),
            now: format!(
                "Jobs under way: {jobs}. A second: {ended:.1} requests, {tokens:.0} tokens."
            ),
        }
    }

    /// Requests and tokens a second, up to a moment.
    fn rates(&self, place: usize, beat: &Beat) -> (f64, f64) {
        let before = self.beats.get(place.saturating_sub(AVERAGED));
        let Some(before) = before.filter(|before| before.at < beat.at) else {
            return (0.0, 0.0);
        };
        let seconds = amount(beat.at.0 - before.at.0);
        let rate = |now: u64, then: u64| amount(now.saturating_sub(then)) / seconds;
        (
            rate(beat.ended, before.ended),
            rate(beat.tokens, before.tokens),
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is drawn")]
fn amount(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "it is drawn")]
fn real(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(at: u64, jobs: usize, ended: u64, tokens: u64) -> Beat {
        Beat {
            at: UnixSeconds(at),
            jobs,
            ended,
            tokens,
        }
    }

    #[test]
    fn rates_are_of_the_last_ten_seconds() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.series().at, [0_u64; 0]);
        // Of before the start nothing is known, whatever was done.
        pulse.note(beat(100, 0, 1_000, 50_000));
        assert_eq!(pulse.series().tokens, [0.0]);
        pulse.note(beat(102, 3, 1_001, 50_100));
        assert_eq!(pulse.series().tokens, [0.0, 50.0]);
        for place in 2..20 {
            pulse.note(beat(100 + 2 * place, 1, 1_001, 50_100));
        }
        let series = pulse.series();
        assert_eq!(series.tokens[5], 10.0);
        assert_eq!(series.tokens.last(), Some(&0.0));
        assert_eq!(
            series.now,
            "Jobs under way: 1. A second: 0.0 requests, 0 tokens."
        );
    }

    #[test]
    fn it_is_bounded_and_a_clock_that_goes_back_begins_anew() {
        let mut pulse = Pulse::default();
        for at in 0..1_000 {
            pulse.note(beat(at, 0, at, at));
        }
        assert_eq!(pulse.beats.len(), MAX_BEATS);
        pulse.note(beat(5, 2, 1, 1));
        let series = pulse.series();
        assert_eq!((series.at, series.jobs), (vec![5], vec![2.0]));
    }
}
