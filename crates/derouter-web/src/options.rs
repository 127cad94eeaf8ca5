//! What the dashboard is told at its start.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// The port when the configuration names none. When another program has it, a free one is taken.
pub const DEFAULT_PORT: u16 = 4280;

/// How to serve the dashboard.
#[derive(Clone, Debug)]
pub struct WebOptions {
    /// The address to listen on. Another one than this machine's own needs `allow_remote` and
    /// `token`.
    pub host: IpAddr,
    /// The port; `0` takes a free one. `None`: [`DEFAULT_PORT`], or a free one when that is taken.
    pub port: Option<u16>,
    /// Listen for other machines.
    pub allow_remote: bool,
    /// What people from other machines show to be let in. At least 16 characters.
    pub token: Option<String>,
    /// Names under which browsers may address the dashboard besides this machine's own.
    pub allowed_hosts: Vec<String>,
    /// Where the address and the secret for `derouter open` are written (mode 0600), and removed at
    /// the end.
    pub launch_file: PathBuf,
    /// The version, as people are told it.
    pub version: &'static str,
}

impl WebOptions {
    /// On this machine alone, with the launch file there.
    pub fn local(launch_file: impl Into<PathBuf>) -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: None,
            allow_remote: false,
            token: None,
            allowed_hosts: Vec::new(),
            launch_file: launch_file.into(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}
