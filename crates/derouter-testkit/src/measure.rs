//! What Linux knows of a process.

use std::fs;

fn status_kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.expect("the process lives and /proc is there");
    let line = status.lines().find(|line| line.starts_with(field));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    let number = number.expect("/proc/<pid>/status has the field");
    number.parse().expect("the field is a number")
}

/// Resident memory in bytes (`VmRSS`).
pub fn memory_bytes(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:").saturating_mul(1_024)
}

/// The most resident memory ever, in bytes (`VmHWM`).
pub fn peak_memory_bytes(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:").saturating_mul(1_024)
}

/// From now on the most resident memory ever is counted anew.
pub fn reset_peak_memory(pid: u32) {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(path, "5").expect("the process lives and is ours");
}

/// Open files and sockets.
pub fn open_files(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    entries.expect("the process is ours").count()
}
