//! Very many streams: how fast they open, and what they leave behind in both processes.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::Route;
use super::client::Client;

/// Streams that are open at the same time.
const AT_ONCE: usize = 16;
/// How long streams may take to be gone once all are done with.
const GONE: Duration = Duration::from_secs(20);

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of memory.
    pub resident: u64,
    /// Open file descriptors.
    pub files: u64,
}

impl Footprint {
    /// Of a process on this machine.
    pub fn of(process: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        let kib: Option<u64> = kib.and_then(|kib| kib.parse().ok());
        let files = fs::read_dir(format!("/proc/{process}/fd"))?.count();
        Ok(Self {
            resident: kib.ok_or(io::ErrorKind::InvalidData)? * 1_024,
            files: u64::try_from(files).unwrap_or(u64::MAX),
        })
    }

    fn growth(self, later: Self) -> Self {
        Self {
            resident: later.resident.saturating_sub(self.resident),
            files: later.files.saturating_sub(self.files),
        }
    }
}

/// What a process has computed since its start, in the kernel as well: by the clock of 100 ticks a
/// second that Linux tells it with.
pub(super) fn cpu_time(process: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in brackets, may hold spaces. The 14th and 15th fields are wanted.
    let (_, fields) = stat.rsplit_once(')').ok_or(io::ErrorKind::InvalidData)?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: Option<u64> = ticks.map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks.unwrap_or(0) * 10))
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// How many streams were opened, and used.
    pub streams: usize,
    /// In this time.
    pub elapsed: Duration,
    /// What opener and server hold at the end beyond what they held after the first tenth.
    pub grown: [Footprint; 2],
    /// Streams that opener and server still hold.
    pub held: [u64; 2],
}

/// Opens so many streams, has each carry a word both ways, and ends them in the ways there are.
pub async fn open_and_close(client: &Arc<Client>, route: Route, count: usize) -> Opened {
    let start = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let early = Arc::new(OnceLock::new());
    let mut openers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (client, next, early) = (client.clone(), next.clone(), early.clone());
        openers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                if number == count / 10 {
                    let _ = early.set(footprints(&client));
                }
                let used = client.use_once(route, number).await;
                used.expect("a stream carries a word both ways");
            }
        });
    }
    while let Some(done) = openers.join_next().await {
        done.expect("an opener does not panic");
    }
    let elapsed = start.elapsed();
    let held = all_gone(client, route).await;
    let now = footprints(client);
    let [near, far] = early.get().copied().unwrap_or(now);
    Opened {
        streams: count,
        elapsed,
        grown: [near.growth(now[0]), far.growth(now[1])],
        held,
    }
}

fn footprints(client: &Client) -> [Footprint; 2] {
    let processes = [std::process::id(), client.server_process()];
    processes.map(|process| Footprint::of(process).expect("both processes live"))
}

/// Waits until nobody holds a stream; how many are left when that takes too long.
async fn all_gone(client: &Client, route: Route) -> [u64; 2] {
    let start = Instant::now();
    loop {
        let held = client.held(route).await;
        if held == [0; 2] || start.elapsed() > GONE {
            return held;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Opened {
    /// As lines.
    pub fn report(&self, route: Route) -> String {
        let count = f64::from(u32::try_from(self.streams).unwrap_or(u32::MAX));
        let mut text = format!(
            "{}: {} streams in {:.1} s, {:.0} a second\n",
            route.name(),
            self.streams,
            self.elapsed.as_secs_f64(),
            count / self.elapsed.as_secs_f64()
        );
        let sides = [("opener", 0), ("server", 1)];
        for (name, side) in sides {
            text.push_str(&format!(
                "  {name}: {} KiB and {} files more than after the first tenth, {} streams held\n",
                self.grown[side].resident >> 10,
                self.grown[side].files,
                self.held[side]
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_holds() {
        let before = Footprint::of(std::process::id()).unwrap();
        assert!(before.resident > 0 && before.files > 0);
        let more = Footprint {
            resident: before.resident + 10,
            files: before.files + 1,
        };
        let grown = before.growth(more);
        assert_eq!((grown.resident, grown.files), (10, 1));
        assert_eq!(more.growth(before).files, 0);
    }
}
