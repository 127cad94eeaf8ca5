//! How a node takes part in the network: the keys about reachability, ports and relays.

use std::fmt;
use std::time::Duration;

use derouter_node::{KnownReachability, Multiaddr, RelayLimits};
use derouter_sdk::PeerId;
use derouter_sdk::wire::announce::SHARDS;
use schemars::JsonSchema;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::schema::shape;
use super::value::{Address, Positive};

/// Relays on which a node without a reachable address keeps a place: one may go away, and a third
/// costs little.
const DEFAULT_RELAYS: usize = 2;

/// More places only add traffic: every relay is checked every few seconds.
const MOST_RELAYS: u64 = 4;

/// A month. libp2p tells clients the life of a circuit in 32 bits of seconds.
const MOST_MINUTES: u64 = 31 * 24 * 60;

/// Bytes a second with which some dozens of busy connections still have their turn before a ping fails.
const LEAST_RATE: u64 = 64 * 1024;

/// An address under which this node is reached from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExternalAddress(pub(super) Multiaddr);

shape!(ExternalAddress, {"type": "string", "examples": ["/dns4/node.example.org/tcp/4001"]});
shape!(Relays, {"type": "integer", "minimum": 0, "maximum": MOST_RELAYS});
shape!(ShardCount, {"anyOf": [
    {"type": "integer", "minimum": 1, "maximum": SHARDS},
    {"const": "all"},
]});
shape!(Rate, {"type": "integer", "minimum": LEAST_RATE});
shape!(Minutes, {"type": "integer", "minimum": 1, "maximum": MOST_MINUTES});

impl JsonSchema for RelayServer {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RelayServer".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let limits = generator.subschema_for::<RelayLimitsSection>();
        schemars::json_schema!({"anyOf": [{"type": "boolean"}, limits]})
    }
}

impl<'de> Deserialize<'de> for ExternalAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Address(address) = Address::deserialize(deserializer)?;
        external_address(&address).map_err(D::Error::custom)?;
        Ok(Self(address))
    }
}

/// Checks that others could dial the address as it is.
pub(crate) fn external_address(address: &Multiaddr) -> Result<(), String> {
    let text = address.to_string();
    let wrong = |why: &str| {
        Err(format!(
            "{text} is no address that others can dial: {why}. It looks like \
             /ip4/203.0.113.5/tcp/4001 or /dns4/node.example.org/udp/4001/quic-v1"
        ))
    };
    if text.contains("/p2p-circuit") {
        return wrong("addresses through relays are found by the node itself");
    }
    let mut parts = text.split('/').skip(1);
    let (host, port) = ((parts.next(), parts.next()), (parts.next(), parts.next()));
    if matches!(host, (_, Some("0.0.0.0" | "::"))) {
        return wrong("it must name one address of this node");
    }
    let rest = parts.next();
    match (port, rest) {
        ((Some("tcp" | "udp"), Some("0")), _) => wrong("its port must be a fixed one"),
        ((Some("tcp"), Some(_)), None | Some("p2p")) => Ok(()),
        ((Some("udp"), Some(_)), Some("quic-v1")) => Ok(()),
        ((Some("udp"), Some(_)), None | Some("p2p")) => wrong("udp needs /quic-v1 behind its port"),
        ((Some("tcp" | "udp"), Some(_)), _) => wrong("nodes speak tcp and quic-v1 only"),
        _ => wrong("it needs a port"),
    }
}

/// Checks that addresses of this node which name a peer name this node: others dial whom they name.
pub(crate) fn of_this_node(addresses: &[Multiaddr], own: PeerId) -> Result<(), String> {
    let ending = format!("/p2p/{own}");
    let of_another = |address: &&Multiaddr| {
        let text = address.to_string();
        text.contains("/p2p/") && !text.ends_with(&ending)
    };
    match addresses.iter().find(of_another) {
        None => Ok(()),
        Some(address) => Err(format!(
            "the external address {address} names another peer: this one is {own}. Leave /p2p/... \
             out, it is added"
        )),
    }
}

/// Whether others can dial this node, as its operator knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ReachabilityKey {
    /// Found out.
    #[default]
    Detect,
    /// They can.
    Public,
    /// They can't.
    Private,
}

impl From<ReachabilityKey> for KnownReachability {
    fn from(key: ReachabilityKey) -> Self {
        match key {
            ReachabilityKey::Detect => Self::Detect,
            ReachabilityKey::Public => Self::Public,
            ReachabilityKey::Private => Self::Private,
        }
    }
}

/// How many relays: 0 to 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Relays(pub(super) usize);

impl Default for Relays {
    fn default() -> Self {
        Self(DEFAULT_RELAYS)
    }
}

impl<'de> Deserialize<'de> for Relays {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        match usize::try_from(number) {
            Ok(relays) if number <= MOST_RELAYS => Ok(Self(relays)),
            _ => Err(D::Error::custom(format_args!(
                "{number} is not a number of relays from 0 to {MOST_RELAYS}"
            ))),
        }
    }
}

/// `discovery`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DiscoverySection {
    /// Of sixteen parts of the announcements; for all nodes of a network alike.
    pub(super) shards: Option<ShardCount>,
}

/// In how many shards of the announcements to take part: a number, or `"all"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShardCount(pub(super) usize);

impl<'de> Deserialize<'de> for ShardCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EitherVisitor;
        impl Visitor<'_> for EitherVisitor {
            type Value = ShardCount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, r#"a number of shards from 1 to {SHARDS}, or "all""#)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ShardCount, E> {
                match text {
                    "all" => Ok(ShardCount(usize::from(SHARDS))),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<ShardCount, E> {
                match usize::try_from(number) {
                    Ok(shards) if (1..=usize::from(SHARDS)).contains(&shards) => {
                        Ok(ShardCount(shards))
                    }
                    _ => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
                }
            }
        }
        deserializer.deserialize_any(EitherVisitor)
    }
}

/// `relay_server`: `false`, `true`, or the limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RelayServer(pub(super) Option<RelayLimits>);

impl<'de> Deserialize<'de> for RelayServer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EitherVisitor;
        impl<'de> Visitor<'de> for EitherVisitor {
            type Value = RelayServer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or the limits: { reservations: 256, ... }")
            }

            fn visit_bool<E: Error>(self, on: bool) -> Result<RelayServer, E> {
                Ok(RelayServer(on.then(RelayLimits::default)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RelayServer, A::Error> {
                let map = serde::de::value::MapAccessDeserializer::new(map);
                let section = RelayLimitsSection::deserialize(map)?;
                Ok(RelayServer(Some(section.limits())))
            }
        }
        deserializer.deserialize_any(EitherVisitor)
    }
}

/// What a relay gives at most; what is absent has its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RelayLimitsSection {
    /// Peers that may be reached through it.
    #[schemars(extend("default" = 256))]
    reservations: Option<Positive<u32>>,
    /// Circuits at a time.
    #[schemars(extend("default" = 512))]
    circuits: Option<Positive<u32>>,
    /// Circuits at a time from one peer.
    #[schemars(extend("default" = 16))]
    circuits_per_peer: Option<Positive<u32>>,
    /// Minutes that one circuit lives.
    #[schemars(extend("default" = 720))]
    circuit_minutes: Option<Minutes>,
    /// Bytes through one circuit.
    #[schemars(extend("default" = 4294967296_u64))]
    circuit_bytes: Option<Positive<u64>>,
    /// Bytes a second through the whole node, 65536 at least, without it no limit.
    bytes_per_second: Option<Rate>,
}

/// Whole minutes, from 1 to a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Minutes(Duration);

impl<'de> Deserialize<'de> for Minutes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        minutes(number).map(Self).map_err(D::Error::custom)
    }
}

/// The life of a circuit.
pub(crate) fn minutes(number: u64) -> Result<Duration, String> {
    if !(1..=MOST_MINUTES).contains(&number) {
        return Err(format!("{number} is not from 1 to {MOST_MINUTES} minutes"));
    }
    Ok(Duration::from_secs(number * 60))
}

/// Bytes a second of a whole node or relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate(u64);

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        rate(number).map(Self).map_err(D::Error::custom)
    }
}

/// What a node's connections may carry together.
pub(crate) fn rate(number: u64) -> Result<u64, String> {
    if number < LEAST_RATE {
        return Err(format!(
            "{number} is too little, {LEAST_RATE} bytes a second are the least: with fewer, connections break because pings wait behind data"
        ));
    }
    Ok(number)
}

impl RelayLimitsSection {
    /// With the defaults for what is absent.
    pub(super) fn limits(self) -> RelayLimits {
        let default = RelayLimits::default();
        let count = |given: Option<Positive<u32>>, default: usize| {
            given.map_or(default, |given| usize::try_from(given.0).unwrap_or(default))
        };
        RelayLimits {
            reservations: count(self.reservations, default.reservations),
            circuits: count(self.circuits, default.circuits),
            circuits_per_peer: count(self.circuits_per_peer, default.circuits_per_peer),
            circuit_duration: self
                .circuit_minutes
                .map_or(default.circuit_duration, |minutes| minutes.0),
            circuit_bytes: self
                .circuit_bytes
                .map_or(default.circuit_bytes, |bytes| bytes.0),
            bytes_per_second: self.bytes_per_second.map(|rate| rate.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_external_address_is_one_that_others_can_dial() {
        let check = |text: &str| external_address(&text.parse().unwrap());
        for good in [
            "/ip4/203.0.113.5/tcp/4001",
            "/dns4/node.example.org/udp/4001/quic-v1",
            "/ip6/2001:db8::1/udp/4001/quic-v1",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "/ip4/0.0.0.0/tcp/4001",
            "/ip6/::/tcp/4001",
            "/ip4/203.0.113.5/tcp/0",
            "/ip4/203.0.113.5",
            "/ip4/203.0.113.5/tcp/4001/p2p-circuit",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
