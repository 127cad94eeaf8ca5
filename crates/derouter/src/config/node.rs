//! The node's file: 0.1.0's keys with 0.1.0's defaults, and what is new.

use std::fmt;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::Duration;

use derouter_node::{
    DiscoveryOptions, Multiaddr, NetOptions, NodeConfig, ProviderDetails, RpcOptions,
};
use derouter_web::WebOptions;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::ledger::LedgerSection;
use super::network::{DiscoverySection, ExternalAddress, ReachabilityKey, RelayServer, Relays};
use super::openai::{OpenAiModules, OpenAiSection};
use super::paths::{self, DatabasePaths};
use super::peers::PeersSection;
use super::value::{Address, Drain, LiteralPath, Port};
use super::web::WebSection;
use super::{ConfigError, LogFormat, LogSection, place};

/// The RPC's port when the configuration names none, as in 0.1.0.
pub(crate) const DEFAULT_RPC_PORT: u16 = 4269;

/// The port on which relays listen for peers, unless told otherwise.
pub(crate) const DEFAULT_PEER_PORT: u16 = 4001;

/// The file as it is written.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct File {
    /// Peers to dial at start, and again while the node is alone: multiaddrs with `/p2p/<peer id>` at their end.
    #[schemars(extend("default" = []))]
    bootstrap: Vec<Address>,
    /// Where the key, the database, and the RPC's cookie file and socket are; without it, the platform's directory.
    data_dir: Option<LiteralPath>,
    /// The database; without it, `derouter.sqlite` in `data_dir`.
    database_path: Option<LiteralPath>,
    /// The node's key; without it, `keypair.bin` in `data_dir`.
    keypair_path: Option<LiteralPath>,
    /// What other nodes are told of this one while it sells.
    provider: ProviderSection,
    /// Where modules connect.
    server: ServerSection,
    /// Where to listen for peers; without it, TCP and QUIC on all networks, on ports that are chosen once.
    listen: Option<Vec<Address>>,
    /// Find peers on the local network, and be found.
    #[schemars(extend("default" = true))]
    mdns: Option<bool>,
    /// Addresses under which others reach this node, when you know them.
    #[schemars(extend("default" = []))]
    external_addresses: Vec<ExternalAddress>,
    /// Whether others can dial this node.
    #[schemars(extend("default" = "detect"))]
    reachability: ReachabilityKey,
    /// The whole network is a private one: addresses of such networks may then be dialled by others.
    #[schemars(extend("default" = false))]
    private_network: bool,
    /// Ask the router for a port (UPnP, NAT-PMP, PCP).
    #[schemars(extend("default" = true))]
    port_mapping: Option<bool>,
    /// On how many relays a node that can't be dialled keeps a place.
    #[schemars(extend("default" = 2))]
    relays: Relays,
    /// Let peers that can't be reached from outside be reached through this node.
    #[schemars(extend("default" = false))]
    relay_server: RelayServer,
    /// Find addresses of peers, and providers from a cold start, by Kademlia.
    #[schemars(extend("default" = true))]
    kademlia: Option<bool>,
    /// In how many parts of the announcements to take part.
    discovery: DiscoverySection,
    /// Whom to let in.
    peers: PeersSection,
    /// How to log.
    log: LogSection,
    /// Keep requests and answers in this node's database.
    #[schemars(extend("default" = false))]
    store_payloads: bool,
    /// How long stored requests and answers are kept.
    ledger: LedgerSection,
    /// Seconds that jobs that run may take to finish on a stop.
    #[schemars(extend("default" = 30))]
    drain_seconds: Drain,
    /// The OpenAI modules to run inside the node.
    openai: OpenAiSection,
    /// The dashboard.
    web: WebSection,
}

/// What announcements say of this provider.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ProviderSection {
    /// A name.
    name: Option<String>,
    /// One line.
    teaser: Option<String>,
    /// More.
    description: Option<String>,
}

/// The RPC.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ServerSection {
    /// The port on 127.0.0.1; 0 takes a free one.
    #[schemars(extend("default" = 4269))]
    port: Option<Port>,
    /// Let in modules of version 0.1 over TCP, which prove nothing.
    #[schemars(extend("default" = true))]
    allow_legacy: Option<bool>,
}

/// What a file says, as it is written there: with its secrets, so that it is never printed.
#[derive(Clone, Default)]
pub(crate) struct Written(pub(crate) Value);

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Written(..)")
    }
}

/// All that `derouter run` needs.
#[derive(Clone, Debug)]
pub(crate) struct RunConfig {
    /// The file it was read from.
    pub(crate) file: Option<PathBuf>,
    /// What the file says.
    pub(crate) written: Written,
    /// Where the node's files are.
    pub(crate) data_dir: PathBuf,
    /// The node.
    pub(crate) node: NodeConfig,
    /// The modules inside.
    pub(crate) openai: OpenAiModules,
    /// The dashboard, unless it is switched off.
    pub(crate) web: Option<WebOptions>,
    /// How to log.
    pub(crate) log: LogFormat,
    /// How long what runs may take to finish on a stop.
    pub(crate) drain: Duration,
}

impl RunConfig {
    /// Reads the file that a flag, the environment or custom names, or takes the defaults when there
    /// is none. What the environment says goes before the file.
    pub(crate) fn load(flag: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_at(flag, None)
    }

    /// The same, with a data directory that a flag names.
    pub(crate) fn load_at(
        flag: Option<&Path>,
        data_dir: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let named = match data_dir {
            Some(directory) => Some(directory.to_owned()),
            None => place::data_dir()?,
        };
        match place::file(flag) {
            Some((path, _)) => Self::read(&path, named),
            None => File::default().check(Path::new("the defaults"), named),
        }
    }

    /// Reads a text as the file of that name.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        Self::parse_at(path, text, None)
    }

    fn parse_at(path: &Path, text: &str, data_dir: Option<PathBuf>) -> Result<Self, ConfigError> {
        let file: File = super::parse(path, text)?;
        let written = Written(super::parse(path, text)?);
        Ok(Self {
            written,
            ..file.check(path, data_dir)?
        })
    }

    /// Where it listens for peers.
    pub(crate) fn net_listen(&self) -> Vec<String> {
        let listen = self.node.net.listen.iter();
        listen.map(ToString::to_string).collect()
    }

    /// Reads a file, with the data directory that goes before the file's.
    pub(crate) fn read(path: &Path, data_dir: Option<PathBuf>) -> Result<Self, ConfigError> {
        // Once: it may be a pipe.
        let text = super::read_text(path)?;
        Ok(Self {
            file: Some(path.to_owned()),
            ..Self::parse_at(path, &text, data_dir)?
        })
    }
}

impl File {
    fn check(self, path: &Path, named: Option<PathBuf>) -> Result<RunConfig, ConfigError> {
        let data_dir = match named {
            Some(named) => named,
            None => self.data_dir(path)?,
        };
        let named = self.database_path.map(|path| path.0);
        let DatabasePaths { database, legacy } = paths::database(&data_dir, named.as_deref())
            .map_err(|problem| ConfigError::at(path, "database_path", problem))?;
        let keypair_path = self.keypair_path.map(|path| path.0);
        let listen = match self.listen {
            Some(listen) => listen.into_iter().map(|address| address.0).collect(),
            None => default_listen(has_ipv6()),
        };
        let (allow, block) = self.peers.rules();
        let node = NodeConfig {
            keypair_path: keypair_path.unwrap_or_else(|| data_dir.join("keypair.bin")),
            database_path: database,
            legacy_database_path: legacy,
            net: NetOptions {
                listen,
                bootstrap: self
                    .bootstrap
                    .into_iter()
                    .map(|address| address.0)
                    .collect(),
                mdns: self.mdns.unwrap_or(true),
                external_addresses: self
                    .external_addresses
                    .into_iter()
                    .map(|address| address.0)
                    .collect(),
                reachability: self.reachability.into(),
                private_network: self.private_network,
                port_mapping: self.port_mapping.unwrap_or(true),
                relays: self.relays.0,
                relay_server: self.relay_server.0,
                discovery: DiscoveryOptions {
                    shards: self.discovery.shards.map(|shards| shards.0),
                    ..DiscoveryOptions::default()
                },
                kademlia: self.kademlia.unwrap_or(true),
                allow,
                block,
            },
            provider: ProviderDetails {
                name: self.provider.name,
                teaser: self.provider.teaser,
                description: self.provider.description,
            },
            rpc: Some(RpcOptions {
                port: self.server.port.map_or(DEFAULT_RPC_PORT, |port| port.0),
                directory: Some(data_dir.clone()),
                allow_legacy: self.server.allow_legacy.unwrap_or(true),
            }),
            store_payloads: self.store_payloads,
            retention: self.ledger.retention(),
        };
        let openai = self.openai.check(path, self.store_payloads, &data_dir)?;
        let web = self.web.check(path, &data_dir)?;
        Ok(RunConfig {
            file: None,
            written: Written::default(),
            data_dir,
            node,
            openai,
            web,
            log: self.log.format,
            drain: self.drain_seconds.0,
        })
    }

    fn data_dir(&self, path: &Path) -> Result<PathBuf, ConfigError> {
        if let Some(data_dir) = &self.data_dir {
            return Ok(data_dir.0.clone());
        }
        paths::default_data_dir().ok_or_else(|| {
            let problem = "this system names no home directory. Set `data_dir` in a \
                           configuration file, and give that with `-c`";
            ConfigError::at(path, "data_dir", problem)
        })
    }
}

/// TCP and QUIC on every network of this machine, on ports that the system chooses: two nodes on
/// one machine must not be in each other's way.
pub(crate) fn default_listen(ipv6: bool) -> Vec<Multiaddr> {
    const IPV4: [&str; 2] = ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"];
    const IPV6: [&str; 2] = ["/ip6/::/tcp/0", "/ip6/::/udp/0/quic-v1"];
    let ipv6 = if ipv6 { &IPV6[..] } else { &[] };
    // Constants, which a test parses.
    IPV4.iter()
        .chain(ipv6)
        .filter_map(|address| address.parse().ok())
        .collect()
}

/// Whether this machine has IPv6: where it is switched off, listening on `::` fails, and a default
/// must work everywhere.
pub(crate) fn has_ipv6() -> bool {
    UdpSocket::bind("[::]:0").is_ok()
}

/// What the file may hold.
pub(super) fn schema() -> schemars::Schema {
    super::schema::of::<File>()
}

/// Reads a text as this file, without a look at the disk.
pub(super) fn fuzz(text: &str) -> Result<(), ConfigError> {
    super::parse::<File>(Path::new("config.json"), text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_listens_on_tcp_and_quic_by_default() {
        assert_eq!(default_listen(true).len(), 4);
        assert_eq!(default_listen(false).len(), 2);
        assert!(
            default_listen(true)
                .iter()
                .all(|address| !address.is_empty())
        );
    }
}
