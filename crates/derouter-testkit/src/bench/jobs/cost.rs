//! Processor time of a process, in all and by what its threads are for.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// What a process has used so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Cost {
    pub(super) user: Duration,
    pub(super) kernel: Duration,
    /// By the names of threads.
    pub(super) threads: BTreeMap<String, Duration>,
}

/// Name, user and kernel time of `/proc/.../stat`, of which Linux counts in hundredths of a second.
fn stat(path: &str) -> Option<(String, Duration, Duration)> {
    let stat = fs::read_to_string(path).ok()?;
    let (head, fields) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let time = |place: usize| {
        let ticks: u64 = fields.get(place)?.parse().ok()?;
        Some(Duration::from_millis(ticks * 10))
    };
    Some((name, time(11)?, time(12)?))
}

impl Cost {
    pub(super) fn of(pid: u32) -> Self {
        let whole = stat(&format!("/proc/{pid}/stat"));
        let (_, user, kernel) = whole.unwrap_or_default();
        let mut threads = BTreeMap::new();
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let path = task.path().join("stat");
            if let Some((name, user, kernel)) = stat(&path.to_string_lossy()) {
                *threads.entry(name).or_default() += user + kernel;
            }
        }
        Self {
            user,
            kernel,
            threads,
        }
    }

    /// What came since an earlier moment.
    pub(super) fn since(&self, before: &Self) -> Self {
        let thread = |(name, time): (&String, &Duration)| {
            let earlier = before.threads.get(name).copied().unwrap_or_default();
            (name.clone(), time.saturating_sub(earlier))
        };
        Self {
            user: self.user.saturating_sub(before.user),
            kernel: self.kernel.saturating_sub(before.kernel),
            threads: self.threads.iter().map(thread).collect(),
        }
    }

    /// In microseconds for each of so many.
    pub(super) fn each(&self, count: usize) -> String {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count.max(1) as f64;
        let threads = self.threads.iter().filter(|(_, time)| !time.is_zero());
        let threads = threads.map(|(name, time)| format!("{name} {:.0}", each(*time)));
        format!(
            "{:.0} us ({:.0} user, {:.0} kernel; {})",
            each(self.user + self.kernel),
            each(self.user),
            each(self.kernel),
            threads.collect::<Vec<_>>().join(", ")
        )
    }
}
