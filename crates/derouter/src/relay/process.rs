//! What this process takes of the machine, as Linux tells it.

/// Open files and sockets; `None` where the system does not say.
pub(super) fn open_files() -> Option<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    u64::try_from(entries.count()).ok()
}

/// Resident memory in bytes; `None` where the system does not say.
pub(super) fn memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn linux_tells_of_files_and_memory() {
        assert!(super::open_files().is_some_and(|files| files > 2));
        assert!(super::memory_bytes().is_some_and(|bytes| bytes > 100_000));
    }
}
