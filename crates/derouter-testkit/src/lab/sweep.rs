//! Removing what a run that was killed has left behind.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::system::{ip_words, ip_works};

/// What the names of all namespaces of all labs begin with; the process id follows.
pub(super) const PREFIX: &str = "derouter-lab-";

/// The process that made a namespace of a lab.
fn maker(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Removes the namespaces whose maker is gone, and the processes in them.
pub(super) fn sweep() {
    for name in ip_words("netns list") {
        let Some(maker) = maker(&name) else {
            continue;
        };
        if !Path::new(&format!("/proc/{maker}")).exists() {
            remove(&name);
        }
    }
}

/// Ends what runs in a namespace, and removes its name. The kernel removes the rest.
pub(super) fn remove(name: &str) {
    for pid in ip_words(&format!("netns pids {name}")) {
        let pid = pid.parse().ok().filter(|pid| !is_own(*pid));
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    ip_works(&format!("netns del {name}"));
}

/// The threads of this process that work in a namespace are shown under its own id.
fn is_own(pid: i32) -> bool {
    u32::try_from(pid).is_ok_and(|pid| pid == std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maker_of_a_namespace_is_read_from_its_name() {
        assert_eq!(maker("derouter-lab-42-0-internet"), Some(42));
        for other in ["derouter-42-a", "derouter-lab-", "derouter-lab-x-1", "eth0"] {
            assert_eq!(maker(other), None, "{other}");
        }
    }
}
