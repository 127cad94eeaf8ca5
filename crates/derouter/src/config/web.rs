//! The `web` section: the dashboard.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use derouter_web::WebOptions;
use schemars::JsonSchema;
use serde::Deserialize;

use super::ConfigError;
use super::openai::Host;
use super::value::Port;

/// The file in the data directory by which `derouter open` finds the dashboard.
const LAUNCH_FILE: &str = "web.json";

/// Names that browsers may use, at most.
const MOST_HOSTS: usize = 64;

/// The dashboard.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WebSection {
    /// Serve it.
    #[schemars(extend("default" = true))]
    enabled: Option<bool>,
    /// The IP address to listen on.
    #[schemars(extend("default" = "127.0.0.1"))]
    host: Option<Host>,
    /// Its port; without it 4280, or a free one when that is taken. 0 takes a free one.
    port: Option<Port>,
    /// Listen for other machines: needs `token`.
    #[schemars(extend("default" = false))]
    allow_remote: bool,
    /// What people type to be let in, at least 16 characters. Without it, `derouter open` lets in.
    #[schemars(extend("writeOnly" = true))]
    token: Option<String>,
    /// Names under which browsers may address it besides 127.0.0.1 and localhost.
    #[schemars(extend("default" = []))]
    allowed_hosts: Vec<String>,
}

impl WebSection {
    /// Checks what only shows when all is read. `None`: it is switched off.
    pub(super) fn check(
        self,
        path: &Path,
        data_dir: &Path,
    ) -> Result<Option<WebOptions>, ConfigError> {
        if self.enabled == Some(false) {
            return Ok(None);
        }
        let host = self
            .host
            .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |host| host.0);
        let token = self.token;
        if token
            .as_ref()
            .is_some_and(|token| token.chars().count() < 16)
        {
            let problem =
                "must have at least 16 characters: `openssl rand -hex 16` makes a good one";
            return Err(ConfigError::at(path, "web.token", problem));
        }
        let guarded = self.allow_remote && token.is_some();
        if !host.is_loopback() && !guarded {
            let problem = "other machines would reach the dashboard there. Set `web.allow_remote` to true and \
                           `web.token` to a secret, or leave `host` out";
            return Err(ConfigError::at(path, "web.host", problem));
        }
        let strange = |name: &&String| {
            name.is_empty() || name.len() > 253 || name.contains(['/', '*', ' ', '@', '\n'])
        };
        if let Some(name) = self.allowed_hosts.iter().find(strange) {
            let problem = format!("{name:?} is not a name such as \"box.lan\" or \"box.lan:4280\"");
            return Err(ConfigError::at(path, "web.allowed_hosts", problem));
        }
        if self.allowed_hosts.len() > MOST_HOSTS {
            let problem = format!("at most {MOST_HOSTS} names");
            return Err(ConfigError::at(path, "web.allowed_hosts", problem));
        }
        Ok(Some(WebOptions {
            host,
            port: self.port.map(|port| port.0),
            allow_remote: self.allow_remote,
            token,
            allowed_hosts: self.allowed_hosts,
            launch_file: launch_file(data_dir),
            version: env!("CARGO_PKG_VERSION"),
        }))
    }
}

/// The file by which `derouter open` finds the dashboard of a data directory.
pub(crate) fn launch_file(data_dir: &Path) -> PathBuf {
    data_dir.join(LAUNCH_FILE)
}
