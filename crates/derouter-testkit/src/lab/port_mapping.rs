//! A router that maps ports when a host asks: miniupnpd.

use tempfile::TempDir;
use tokio::process::Command;

use super::{Namespace, Nat};
use crate::process::Process;

/// A running miniupnpd.
#[derive(Debug)]
pub(super) struct PortMapper {
    /// Before the directory: it ends first.
    _process: Process,
    _directory: TempDir,
}

/// Whether the program is there.
pub(super) fn available() -> bool {
    std::process::Command::new("miniupnpd")
        .arg("--version")
        .output()
        .is_ok()
}

impl PortMapper {
    /// Starts it on a router whose rules have the chains for it.
    pub(super) fn start(router: &Namespace, nat: Nat) -> Self {
        let directory = TempDir::with_prefix("derouter-").expect("there is a temporary directory");
        let path = directory.path().join("miniupnpd.conf");
        std::fs::write(&path, configuration(nat)).expect("the directory is ours");
        let mut command: Command = router.command("miniupnpd");
        command.arg("-d").arg("-f").arg(&path);
        command.arg("-P").arg(directory.path().join("pid"));
        Self {
            _process: Process::spawn("miniupnpd", command),
            _directory: directory,
        }
    }
}

fn configuration(nat: Nat) -> String {
    let yes_if = |yes: bool| if yes { "yes" } else { "no" };
    format!(
        "ext_ifname=wan\n\
         listening_ip=lan\n\
         enable_upnp={}\n\
         enable_natpmp={}\n\
         secure_mode=yes\n\
         uuid=6c0e1f5a-0f57-4a67-8f0e-c44f2a4b7d01\n\
         upnp_table_name=lab\n\
         upnp_nat_table_name=lab\n\
         upnp_forward_chain=forward_mapped\n\
         upnp_nat_chain=prerouting_mapped\n\
         upnp_nat_postrouting_chain=postrouting_mapped\n\
         allow 1024-65535 192.168.1.0/24 1024-65535\n\
         deny 0-65535 0.0.0.0/0 0-65535\n",
        yes_if(nat == Nat::Upnp),
        yes_if(nat == Nat::NatPmp),
    )
}
