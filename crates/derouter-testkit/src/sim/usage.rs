//! What a process and a node take.

use std::fs;
use std::time::{Duration, Instant};

use crate::measure;

/// Processor time of a process so far, in its user and kernel parts together.
pub fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    // The name, in brackets, may hold spaces.
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |place: usize| fields[place].parse::<u64>().expect("a number");
    // Linux counts in hundredths of a second for everybody.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Resident memory in MiB.
pub fn memory_mib(pid: u32) -> f64 {
    measure::memory_bytes(pid) as f64 / f64::from(1 << 20)
}

/// Bytes and processor time since a moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    at: Instant,
    bytes_in: u64,
    bytes_out: u64,
    processor: Duration,
}

/// Rates between two samples.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Received, bytes a second.
    pub bytes_in: f64,
    /// Sent, bytes a second.
    pub bytes_out: f64,
    /// Processor time in percent of one core.
    pub processor: f64,
}

impl Sample {
    /// Now.
    pub fn new(bytes_in: u64, bytes_out: u64, pid: u32) -> Self {
        Self {
            at: Instant::now(),
            bytes_in,
            bytes_out,
            processor: processor_time(pid),
        }
    }

    /// From this sample to a later one.
    pub fn to(&self, later: &Sample) -> Rates {
        let seconds = (later.at - self.at).as_secs_f64();
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        Rates {
            bytes_in: rate(self.bytes_in, later.bytes_in),
            bytes_out: rate(self.bytes_out, later.bytes_out),
            processor: 100.0 * (later.processor - self.processor).as_secs_f64() / seconds,
        }
    }
}

/// The value below which this percentage of all values is.
pub fn percentile(values: &mut [Duration], percent: usize) -> Duration {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    let place = (percent * last).div_ceil(100);
    values.get(place).copied().unwrap_or_default()
}
