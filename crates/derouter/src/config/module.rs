//! The files of modules that are processes of their own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use derouter_openai::consumer::ConsumerConfig;
use derouter_openai::provider::ProviderConfig;

use super::openai::{ConsumerSection, ProviderSection, RpcSection};
use super::value::Port;
use super::{ConfigError, LogFormat, node, paths, read};

/// What a module's file says, with the module's own part `M`.
#[derive(Clone, Debug)]
pub(crate) struct ModuleConfig<M> {
    /// The module's own part.
    pub(crate) module: M,
    /// Where the node is.
    pub(crate) rpc: RpcAddress,
    /// How to log.
    pub(crate) log: LogFormat,
    /// How long what runs may take to finish on a stop.
    pub(crate) drain: Duration,
    /// The file has `database_url`, which 0.1.0 wanted and which has no use now.
    pub(crate) has_database_url: bool,
}

/// Where a node's RPC is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RpcAddress {
    /// An address or a name.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
    /// The node's data directory, with its socket and cookie file: as the file says, or the usual
    /// one when the file says nothing of where the node is.
    pub(crate) data_dir: Option<PathBuf>,
}

impl std::fmt::Display for RpcAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port, .. } = self;
        if host.parse::<std::net::Ipv6Addr>().is_ok() {
            return write!(f, "[{host}]:{port}");
        }
        write!(f, "{host}:{port}")
    }
}

impl RpcAddress {
    /// `rpc: {host, port}`, or 0.1.0's `rpc_host` and `rpc_port`.
    fn of(
        path: &Path,
        section: Option<RpcSection>,
        host: Option<String>,
        port: Option<Port>,
    ) -> Result<Self, ConfigError> {
        let section = section.unwrap_or_default();
        if section.host.is_some() && host.is_some() {
            let problem = "`rpc.host` is there as well. Leave one of them out";
            return Err(ConfigError::at(path, "rpc_host", problem));
        }
        if section.port.is_some() && port.is_some() {
            let problem = "`rpc.port` is there as well. Leave one of them out";
            return Err(ConfigError::at(path, "rpc_port", problem));
        }
        let says_where =
            host.is_some() || port.is_some() || section.host.is_some() || section.port.is_some();
        let usual = || paths::default_data_dir().filter(|_| !says_where);
        let data_dir = section.data_dir.map(|path| path.0).or_else(usual);
        let key = if port.is_some() {
            "rpc_port"
        } else {
            "rpc.port"
        };
        let port = section
            .port
            .or(port)
            .map_or(node::DEFAULT_RPC_PORT, |port| port.0);
        if port == 0 {
            let problem = "this must be the port of a running node (its `server.port`), not 0";
            return Err(ConfigError::at(path, key, problem));
        }
        let host = section
            .host
            .or(host)
            .unwrap_or_else(|| "127.0.0.1".to_owned());
        Ok(Self {
            host,
            port,
            data_dir,
        })
    }
}

/// Reads a provider module's file.
pub(crate) fn read_provider(path: &Path) -> Result<ModuleConfig<ProviderConfig>, ConfigError> {
    let mut section: ProviderSection = read(path)?;
    let rpc = RpcAddress::of(
        path,
        section.rpc.take(),
        section.rpc_host.take(),
        section.rpc_port.take(),
    )?;
    Ok(ModuleConfig {
        log: section.log.unwrap_or_default().format,
        drain: section.drain_seconds.unwrap_or_default().0,
        has_database_url: section.database_url.is_some(),
        module: section.check(path, "", false, rpc.data_dir.as_deref())?,
        rpc,
    })
}

/// Reads a consumer module's file.
pub(crate) fn read_consumer(path: &Path) -> Result<ModuleConfig<ConsumerConfig>, ConfigError> {
    let mut section: ConsumerSection = read(path)?;
    let rpc = RpcAddress::of(
        path,
        section.rpc.take(),
        section.rpc_host.take(),
        section.rpc_port.take(),
    )?;
    Ok(ModuleConfig {
        log: section.log.unwrap_or_default().format,
        drain: section.drain_seconds.unwrap_or_default().0,
        has_database_url: section.database_url.is_some(),
        module: section.check(false, rpc.data_dir.as_deref()),
        rpc,
    })
}

/// What a provider module's file may hold.
pub(super) fn provider_schema() -> schemars::Schema {
    super::schema::of::<ProviderSection>()
}

/// What a consumer module's file may hold.
pub(super) fn consumer_schema() -> schemars::Schema {
    super::schema::of::<ConsumerSection>()
}

/// Reads and checks a text as a provider's file.
pub(super) fn fuzz_provider(text: &str) -> Result<(), ConfigError> {
    let path = Path::new("provider.json");
    let mut section: ProviderSection = super::parse(path, text)?;
    let rpc = (
        section.rpc.take(),
        section.rpc_host.take(),
        section.rpc_port.take(),
    );
    RpcAddress::of(path, rpc.0, rpc.1, rpc.2)?;
    section.check(path, "", false, None).map(drop)
}

/// Reads and checks a text as a consumer's file.
pub(super) fn fuzz_consumer(text: &str) -> Result<(), ConfigError> {
    let path = Path::new("consumer.json");
    let mut section: ConsumerSection = super::parse(path, text)?;
    let rpc = (
        section.rpc.take(),
        section.rpc_host.take(),
        section.rpc_port.take(),
    );
    RpcAddress::of(path, rpc.0, rpc.1, rpc.2)?;
    let _ = section.check(false, None);
    Ok(())
}
