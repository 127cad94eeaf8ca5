//! A relay's file, and the flags that go before it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use derouter_node::{KnownReachability, Multiaddr, NetOptions, RelayLimits};
use schemars::JsonSchema;
use serde::Deserialize;

use super::network::{ExternalAddress, RelayLimitsSection, external_address, minutes, rate};
use super::node::{DEFAULT_PEER_PORT, has_ipv6};
use super::peers::PeersSection;
use super::value::{Address, LiteralPath};
use super::{ConfigError, LogFormat, LogSection, paths, place, read};
use crate::cli::relay::{LimitArgs, RelayArgs, http_address};
use crate::failure::Failure;

/// Where metrics and health are without `http`: on this machine alone.
const DEFAULT_HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// The variable that goes before the file's `http`.
const HTTP: &str = "DEROUTER_RELAY_HTTP";

/// The key file in the data directory. Not a node's: the two must not speak in one name.
const KEY_FILE: &str = "relay-keypair.bin";

/// The file as it is written.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct File {
    /// Where to listen for peers; without it, TCP and QUIC on port 4001 of all networks.
    listen: Option<Vec<Address>>,
    /// Addresses under which others reach the relay.
    #[schemars(extend("default" = []))]
    external_addresses: Vec<ExternalAddress>,
    /// Other relays and nodes to stay connected to.
    #[schemars(extend("default" = []))]
    bootstrap: Vec<Address>,
    /// The relay's key, made when it is absent.
    key_file: Option<LiteralPath>,
    /// Where `/metrics` and `/healthz` are.
    #[schemars(with = "Option<String>", extend("default" = "127.0.0.1:9090"))]
    http: Option<SocketAddr>,
    /// What it gives at most.
    limits: RelayLimitsSection,
    /// Whom to let in.
    peers: PeersSection,
    /// The whole network is a private one.
    #[schemars(extend("default" = false))]
    private_network: bool,
    /// How to log.
    log: LogSection,
}

/// Checks a file.
pub(crate) fn check(path: &Path) -> Result<(), ConfigError> {
    read::<File>(path).map(drop)
}

/// What the file may hold.
pub(super) fn schema() -> schemars::Schema {
    super::schema::of::<File>()
}

/// All that `derouter relay` needs.
#[derive(Clone, Debug)]
pub(crate) struct RelayConfig {
    /// How it takes part in the network.
    pub(crate) net: NetOptions,
    /// Where its key is, unless the environment has it. `None` when no place is known.
    pub(crate) key_file: Option<PathBuf>,
    /// Where metrics and health are.
    pub(crate) http: SocketAddr,
    /// How to log.
    pub(crate) log: LogFormat,
}

impl RelayConfig {
    /// Reads the file, if there is one, and puts the flags before it.
    pub(crate) fn load(args: &RelayArgs) -> Result<Self, Failure> {
        let file = match &args.config {
            Some(path) => read::<File>(path)?,
            None => File::default(),
        };
        for address in &args.external_addresses {
            external_address(address)
                .map_err(|why| Failure::usage(format_args!("--external-address: {why}")))?;
        }
        let of_file = file.listen.map(addresses);
        let listen = flags(&args.listen).or(of_file);
        let listen = listen.unwrap_or_else(|| default_listen(has_ipv6()));
        if listen.is_empty() {
            let path = args.config.as_deref().unwrap_or(Path::new("the flags"));
            let problem = "a relay that listens nowhere is of no use";
            return Err(ConfigError::at(path, "listen", problem).into());
        }
        let external = file.external_addresses.into_iter().map(|address| address.0);
        let (allow, block) = file.peers.rules();
        let net = NetOptions {
            listen,
            bootstrap: flags(&args.bootstrap).unwrap_or_else(|| addresses(file.bootstrap)),
            external_addresses: flags(&args.external_addresses)
                .unwrap_or_else(|| external.collect()),
            // Whoever runs a relay says with it that others can dial it.
            reachability: KnownReachability::Public,
            private_network: file.private_network,
            relay_server: Some(limits(file.limits.limits(), args.limits)?),
            kademlia: true,
            allow,
            block,
            ..NetOptions::default()
        };
        let key_file = args.key_file.clone().or(file.key_file.map(|path| path.0));
        let of_data_dir = || paths::default_data_dir().map(|directory| directory.join(KEY_FILE));
        Ok(Self {
            net,
            key_file: key_file.or_else(of_data_dir),
            http: http(args.http)?.or(file.http).unwrap_or(DEFAULT_HTTP),
            log: args.output.log_format.unwrap_or(file.log.format),
        })
    }
}

/// Of the flag, else of the environment.
fn http(flag: Option<SocketAddr>) -> Result<Option<SocketAddr>, Failure> {
    let told = match flag {
        Some(_) => None,
        None => place::variable(HTTP),
    };
    let Some(told) = told else {
        return Ok(flag);
    };
    let address = http_address(&told.to_string_lossy());
    let wrong = |why| Failure::usage(format_args!("{HTTP}: {why}"));
    address.map(Some).map_err(wrong)
}

fn addresses(list: Vec<Address>) -> Vec<Multiaddr> {
    list.into_iter().map(|address| address.0).collect()
}

fn flags(given: &[Multiaddr]) -> Option<Vec<Multiaddr>> {
    (!given.is_empty()).then(|| given.to_vec())
}

fn limits(file: RelayLimits, flags: LimitArgs) -> Result<RelayLimits, Failure> {
    let count = |flag: Option<std::num::NonZeroU32>, file: usize| {
        flag.map_or(file, |flag| usize::try_from(flag.get()).unwrap_or(file))
    };
    let circuit_duration = match flags.circuit_minutes {
        Some(number) => minutes(number)
            .map_err(|why| Failure::usage(format_args!("--circuit-minutes: {why}")))?,
        None => file.circuit_duration,
    };
    let bytes_per_second = match flags.bytes_per_second {
        Some(number) => {
            let rate = rate(number)
                .map_err(|why| Failure::usage(format_args!("--bytes-per-second: {why}")))?;
            Some(rate)
        }
        None => file.bytes_per_second,
    };
    Ok(RelayLimits {
        reservations: count(flags.reservations, file.reservations),
        circuits: count(flags.circuits, file.circuits),
        circuits_per_peer: count(flags.circuits_per_peer, file.circuits_per_peer),
        circuit_duration,
        circuit_bytes: flags.circuit_bytes.map_or(file.circuit_bytes, Into::into),
        bytes_per_second,
    })
}

/// TCP and QUIC on every network of this machine, on a port that stays: others have it in their
/// configuration.
fn default_listen(ipv6: bool) -> Vec<Multiaddr> {
    let port = DEFAULT_PEER_PORT;
    let ipv4 = [
        format!("/ip4/0.0.0.0/tcp/{port}"),
        format!("/ip4/0.0.0.0/udp/{port}/quic-v1"),
    ];
    let ipv6 = ipv6.then(|| {
        [
            format!("/ip6/::/tcp/{port}"),
            format!("/ip6/::/udp/{port}/quic-v1"),
        ]
    });
    let all = ipv4.into_iter().chain(ipv6.into_iter().flatten());
    // A test parses them all.
    all.filter_map(|address| address.parse().ok()).collect()
}

/// Reads a text as this file, without a look at the disk.
pub(super) fn fuzz(text: &str) -> Result<(), ConfigError> {
    super::parse::<File>(Path::new("config.json"), text).map(drop)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(flags: &[&str]) -> RelayArgs {
        let command = ["derouter", "relay"].iter().chain(flags);
        match Cli::try_parse_from(command).unwrap().command {
            Some(Command::Relay(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn load(flags: &[&str]) -> Result<RelayConfig, Failure> {
        RelayConfig::load(&args(flags))
    }

    #[test]
    fn without_a_file_a_relay_listens_on_the_usual_port_and_has_the_default_limits() {
        let config = load(&[]).unwrap();
        let texts: Vec<String> = config.net.listen.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts[..2],
            ["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1"]
        );
        assert_eq!(default_listen(true).len(), 4);
        assert_eq!(config.net.relay_server, Some(RelayLimits::default()));
        assert_eq!(config.http, DEFAULT_HTTP);
        assert!(config.net.kademlia && !config.net.mdns && !config.net.port_mapping);
        assert!(config.key_file.unwrap().ends_with("relay-keypair.bin"));
    }

    #[test]
    fn flags_go_before_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("relay.json");
        let text = r#"{
            listen: ["/ip4/127.0.0.1/tcp/5001"],
            external_addresses: ["/dns4/relay.example.org/tcp/5001"],
            key_file: "/var/lib/relay/key.bin",
            http: "127.0.0.1:9999",
            limits: {reservations: 7, circuit_minutes: 3},
            log: {format: "json"},
        }"#;
        std::fs::write(&path, text).unwrap();
        let file = ["-c", path.to_str().unwrap()];
        let config = load(&file).unwrap();
        let limits = config.net.relay_server.unwrap();
        assert_eq!(config.net.external_addresses.len(), 1);
        assert_eq!(config.key_file, Some("/var/lib/relay/key.bin".into()));
        assert_eq!(config.http, "127.0.0.1:9999".parse().unwrap());
        assert_eq!(config.log, LogFormat::Json);
        assert_eq!(
            (limits.reservations, limits.circuit_duration.as_secs()),
            (7, 180)
        );
        let flags = [&file[..], &["--reservations", "9", "--http", "127.0.0.1:0"]].concat();
        let config = load(&flags).unwrap();
        let limits = config.net.relay_server.unwrap();
        assert_eq!(
            (limits.reservations, limits.circuit_duration.as_secs()),
            (9, 180)
        );
        assert_eq!(config.http.port(), 0);
    }

    #[test]
    fn http_is_an_ip_address_with_a_port() {
        for wrong in ["9090", "127.0.0.1", "localhost:9090", ""] {
            let why = http_address(wrong).unwrap_err();
            assert!(why.contains("127.0.0.1:9090"), "{why}");
        }
    }

    #[test]
    fn what_can_not_be_right_is_refused() {
        for flags in [
            &["--external-address", "/ip4/0.0.0.0/tcp/4001"][..],
            &["--circuit-minutes", "0"],
            &["--bytes-per-second", "10"],
            &["-c", "/nowhere/relay.json"],
        ] {
            assert!(load(flags).is_err(), "{flags:?}");
        }
    }
}
