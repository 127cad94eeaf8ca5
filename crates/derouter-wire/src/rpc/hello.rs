//! The first request of a module of version 0.2: who it is, what it speaks, and that it may.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::Call;
use crate::PeerId;
use crate::cbor::{lenient_unsigned, peer_id};
use crate::limits::{
    RPC_DEADLINE_MILLISECONDS, RPC_FRAME_BYTES, RPC_HELLO_NAMES, RPC_IN_FLIGHT, RPC_NAME_BYTES,
    RPC_QUERY_ITEMS, RPC_STREAMS, RPC_SUBSCRIPTIONS,
};

/// The RPC of version 0.2, as a number.
pub const RPC_0_2: u32 = 2;

/// What this version of the program speaks. 0.1 is spoken by not saying Hello.
pub const SPOKEN: VersionRange = VersionRange {
    min: RPC_0_2,
    max: RPC_0_2,
};

/// The parts of the RPC that a node may have or not have. [`Welcome::features`] holds their names.
pub const FEATURES: &[&str] = &["jobs_since_start", "max_unsigned", "modules", "network"];

/// RPC versions, both ends included: 2 is "0.2".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRange {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
}

impl VersionRange {
    /// The newest version that both speak.
    pub fn best(self, other: Self) -> Option<u32> {
        let best = self.max.min(other.max);
        (best >= self.min.max(other.min)).then_some(best)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// What a module may do on a connection, beside queries and subscriptions, which all may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Create, connect to, complete and fail jobs as their consumer.
    Consume,
    /// Provide offers, and complete and fail jobs as their provider.
    Provide,
}

impl Capability {
    /// All.
    pub const ALL: [Self; 2] = [Self::Consume, Self::Provide];

    /// The capability of a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Consume => "consume",
            Self::Provide => "provide",
        }
    }
}

/// A short text of a `Hello`: at most [`RPC_NAME_BYTES`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// Cuts a text to its length.
    pub fn cut(text: impl Into<String>) -> Self {
        let mut text = text.into();
        crate::cbor::truncate_to_char(&mut text, RPC_NAME_BYTES);
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() > RPC_NAME_BYTES {
            return Err(serde::de::Error::custom("a name is too long"));
        }
        Ok(Self(text))
    }
}

/// Names of a `Hello`: at most [`RPC_HELLO_NAMES`].
fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Name>>, D::Error> {
    let names = Option::<Vec<Name>>::deserialize(deserializer)?;
    if names
        .as_ref()
        .is_some_and(|names| names.len() > RPC_HELLO_NAMES)
    {
        return Err(serde::de::Error::custom("too many names"));
    }
    Ok(names)
}

/// Which program a module is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleInfo {
    /// Its name, for logs. Several connections may have one name.
    pub name: Name,
    /// Its version, as it writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Name>,
}

/// Begins a connection of version 0.2. Must be its first request, and its only one of this type.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What the module speaks.
    pub versions: VersionRange,
    /// Which program it is.
    pub module: ModuleInfo,
    /// What the cookie file holds. Not looked at on the Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Name>,
    /// Optional parts that the module understands. None is asked of modules yet.
    #[serde(
        default,
        deserialize_with = "names",
        skip_serializing_if = "Option::is_none"
    )]
    pub features: Option<Vec<Name>>,
    /// What it wants to be able to do; absent: everything. Unknown names are not granted.
    #[serde(
        default,
        deserialize_with = "names",
        skip_serializing_if = "Option::is_none"
    )]
    pub capabilities: Option<Vec<Name>>,
}

impl fmt::Debug for Hello {
    // Without the token, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("versions", &self.versions)
            .field("module", &self.module)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

/// What the node bounds a connection to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpcLimits {
    /// Bytes of a frame.
    #[serde(deserialize_with = "lenient_unsigned")]
    pub frame_bytes: u64,
    /// Requests in work; further ones wait unread.
    #[serde(deserialize_with = "lenient_unsigned")]
    pub in_flight: u64,
    /// Subscriptions.
    #[serde(deserialize_with = "lenient_unsigned")]
    pub subscriptions: u64,
    /// Items on a page of a list, and ids in a query by ids.
    #[serde(deserialize_with = "lenient_unsigned")]
    pub page_items: u64,
    /// The longest deadline of a request.
    #[serde(deserialize_with = "lenient_unsigned")]
    pub deadline_ms: u64,
    /// Yamux streams.
    #[serde(deserialize_with = "lenient_unsigned")]
    pub streams: u64,
}

impl Default for RpcLimits {
    fn default() -> Self {
        let number = |limit: usize| u64::try_from(limit).unwrap_or(u64::MAX);
        Self {
            frame_bytes: number(RPC_FRAME_BYTES),
            in_flight: number(RPC_IN_FLIGHT),
            subscriptions: number(RPC_SUBSCRIPTIONS),
            page_items: number(RPC_QUERY_ITEMS),
            deadline_ms: RPC_DEADLINE_MILLISECONDS,
            streams: number(RPC_STREAMS),
        }
    }
}

/// The node's side of a greeting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that is spoken from now on.
    pub version: u32,
    /// Who the node is.
    #[serde(with = "peer_id")]
    pub peer_id: PeerId,
    /// The version of its program.
    pub node_version: String,
    /// Random, and another one after each start of the node.
    pub instance: String,
    /// The optional parts that it has.
    pub features: Vec<String>,
    /// What the module may do.
    pub capabilities: Vec<Capability>,
    /// What the node bounds a connection to.
    pub limits: RpcLimits,
}

/// To [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum HelloReply {
    /// Welcome.
    Ok(Box<Welcome>),
}

impl Call for Hello {
    const TYPE: &'static str = "Hello";
    type Reply = HelloReply;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor;

    #[test]
    fn the_newest_version_of_both_is_spoken() {
        let range = |min, max| VersionRange { min, max };
        assert_eq!(range(2, 4).best(range(3, 9)), Some(4));
        assert_eq!(range(2, 2).best(range(1, 3)), Some(2));
        assert_eq!(range(2, 2).best(range(3, 5)), None);
        assert_eq!(range(5, 2).best(range(1, 9)), None, "upside down");
    }

    #[test]
    fn names_are_bounded_and_the_token_is_not_shown() {
        let mut hello = Hello {
            versions: SPOKEN,
            module: ModuleInfo {
                name: Name::cut("m"),
                version: None,
            },
            token: Some(Name::cut("secret")),
            features: None,
            capabilities: Some(vec![Name::default(); RPC_HELLO_NAMES]),
        };
        assert!(!format!("{hello:?}").contains("secret"));
        let read: Hello = cbor::from_slice(&cbor::to_vec(&hello)).unwrap();
        assert_eq!(read, hello);
        hello.capabilities = Some(vec![Name::default(); RPC_HELLO_NAMES + 1]);
        assert!(cbor::from_slice::<Hello>(&cbor::to_vec(&hello)).is_err());
        hello.capabilities = None;
        hello.module.name = Name("x".repeat(RPC_NAME_BYTES + 1));
        assert!(cbor::from_slice::<Hello>(&cbor::to_vec(&hello)).is_err());
    }
}
