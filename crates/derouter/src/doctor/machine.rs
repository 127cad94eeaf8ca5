//! The machine: its clock, and how many files a process may have open.

use std::time::{Duration, SystemTime};

use super::{Check, Patient};
use crate::text;

/// No clock is right that says an earlier time: this version was not made before (2026-01-01, UTC).
const NOT_BEFORE: u64 = 1_767_225_600;

/// How far the time of a file may be ahead: file systems of other machines are seconds off.
const AHEAD: Duration = Duration::from_secs(600);

/// Files that a busy node has open at a time: 300 connections, a socket for each client of the endpoint and
/// each request to a server.
const LEAST_FILES: u64 = 1024;
const GOOD_FILES: u64 = 4096;

pub(super) fn check(patient: &Patient, checks: &mut Vec<Check>) {
    let written = patient.config.as_ref().ok().and_then(|config| {
        let database = std::fs::metadata(&config.node.database_path).ok()?;
        database.modified().ok()
    });
    checks.push(clock(SystemTime::now(), written));
    checks.push(files(open_files()));
}

fn clock(now: SystemTime, written: Option<SystemTime>) -> Check {
    const ID: &str = "clock";
    const REMEDY: &str = "set it, best by NTP (`timedatectl set-ntp true`): peers ignore what is announced with a \
                          time that is over four hours off, and limits for a day go by it";
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = seconds.map_or(0, |now| now.as_secs());
    let shown = text::day_and_time(seconds);
    if seconds < NOT_BEFORE {
        return Check::fail(ID, format!("it says {shown}, which is long past"), REMEDY);
    }
    if written.is_some_and(|written| written > now + AHEAD) {
        let found = format!("it says {shown}, and the database was written after that");
        return Check::fail(ID, found, REMEDY);
    }
    Check::ok(ID, shown)
}

fn files(limit: Option<u64>) -> Check {
    const ID: &str = "open-files";
    const REMEDY: &str = "raise the limit: `ulimit -n 65536` in the shell that starts the node, LimitNOFILE=65536 \
                          in a unit of systemd (what `derouter service install` writes has it)";
    match limit {
        None => Check::ok(ID, "no limit"),
        Some(number) => {
            let found = format!("{number} at a time");
            match number {
                0..LEAST_FILES => Check::fail(ID, found, REMEDY),
                LEAST_FILES..GOOD_FILES => Check::warn(ID, found, REMEDY),
                _ => Check::ok(ID, found),
            }
        }
    }
}

#[cfg(unix)]
fn open_files() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[cfg(not(unix))]
fn open_files() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn a_clock_that_can_not_be_right_is_told() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let now = at(NOT_BEFORE + 1_000_000);
        assert_eq!(clock(now, None).status, Status::Ok);
        assert_eq!(clock(now, Some(now)).status, Status::Ok);
        let back = clock(at(0), None);
        assert_eq!(back.status, Status::Fail);
        assert!(back.remedy.is_some_and(|remedy| remedy.contains("NTP")));
        let later = now + Duration::from_secs(7200);
        assert_eq!(clock(now, Some(later)).status, Status::Fail);
    }
}
