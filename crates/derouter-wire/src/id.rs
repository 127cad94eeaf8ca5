//! Identifiers, as newtypes so that one can't be taken for another.

use std::fmt;

use libp2p_identity::{KeyType, PublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::PeerId;
use crate::cbor::{lenient_unsigned, peer_id};
use crate::limits;

/// An identifier is empty or over its cap.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be 1 to {max} bytes long, this has {len}")]
pub struct IdLengthError {
    kind: &'static str,
    max: usize,
    len: usize,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes a text of 1 byte up to the cap in [`limits`].
            pub fn new(text: impl Into<String>) -> Result<Self, IdLengthError> {
                let text = text.into();
                if text.is_empty() || text.len() > $max {
                    let kind = stringify!($name);
                    return Err(IdLengthError { kind, max: $max, len: text.len() });
                }
                Ok(Self(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// Names the protocol of an offer, for example `openai:0.1`. At most 128 bytes.
    ProtocolId,
    limits::PROTOCOL_ID_BYTES
);
text_id!(
    /// Names an offer among those of one provider and protocol. At most 256 bytes.
    OfferId,
    limits::OFFER_ID_BYTES
);
text_id!(
    /// A job's id, chosen by its provider (`provider_job_id` on the wire). At most 256 bytes.
    JobId,
    limits::JOB_ID_BYTES
);

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let number = lenient_unsigned(deserializer)?;
                <$inner>::try_from(number).map($name).map_err(serde::de::Error::custom)
            }
        }
    };
}

number_id!(
    /// A job's row on this node: ascending, local, never reused.
    RowId(u64)
);
number_id!(
    /// Stands for one (provider, protocol, offer, payload) on this node, for ever.
    SnapshotId(u64)
);
number_id!(
    /// A subscription of one RPC connection, counted from 0.
    SubscriptionId(u32)
);
number_id!(
    /// Ties a module's yamux stream to a job stream. At most 2^53-1, for JavaScript.
    ConnectionId(u64)
);
number_id!(
    /// Whole seconds since 1970-01-01 00:00 UTC. At most 2^63-1.
    UnixSeconds(u64)
);

/// A job, everywhere: the provider's peer id and the id that it gave the job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobKey {
    /// Who serves the job.
    pub provider: PeerId,
    /// The provider's name for it.
    pub job_id: JobId,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.job_id)
    }
}

/// An offer, everywhere, in the order of lists: its provider, and its name there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OfferKey {
    /// Who offers.
    #[serde(with = "peer_id")]
    pub provider: PeerId,
    /// The offer's protocol.
    pub protocol_id: ProtocolId,
    /// The offer's name with its provider.
    pub offer_id: OfferId,
}

/// What a job is paid in. Wire 0.1 knows one currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Currency {
    /// POL on Polygon, counted in wei. On the wire: 0.
    #[default]
    Pol,
}

impl Currency {
    /// The number on the wire and in the database.
    pub fn number(self) -> u8 {
        match self {
            Currency::Pol => 0,
        }
    }

    /// The code that the job hash covers.
    pub fn code(self) -> &'static str {
        match self {
            Currency::Pol => "POL",
        }
    }

    /// The currency of a code.
    pub fn from_code(code: &str) -> Option<Self> {
        (code == "POL").then_some(Currency::Pol)
    }

    /// The currency of a wire number.
    pub fn from_number(number: u64) -> Option<Self> {
        (number == 0).then_some(Currency::Pol)
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.number())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = lenient_unsigned(deserializer)?;
        let unknown = || serde::de::Error::custom(format_args!("unknown currency {number}"));
        Currency::from_number(number).ok_or_else(unknown)
    }
}

/// The identity multihash: the peer id is the public key itself.
const IDENTITY: u64 = 0;

/// The key that an Ed25519 peer id holds.
pub(crate) fn ed25519_key(peer: &PeerId) -> Option<PublicKey> {
    let hash = peer.as_ref();
    if hash.code() != IDENTITY {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(hash.digest()).ok()?;
    (key.key_type() == KeyType::Ed25519).then_some(key)
}
