//! Values that check themselves while they are read, so that an error has its line and key.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use derouter_node::Multiaddr;
use derouter_sdk::{PeerId, Wei};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::error::literal_path;

/// `{$pol: "1.5"}`: an amount of whole POL as decimal text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pol(pub(super) Wei);

impl<'de> Deserialize<'de> for Pol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Amount {
            #[serde(rename = "$pol")]
            pol: PolText,
        }
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#"an amount such as {$pol: "1.5"}"#)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Amount, A::Error> {
                Amount::deserialize(serde::de::value::MapAccessDeserializer::new(map))
            }
        }
        let amount = deserializer.deserialize_any(ObjectVisitor)?;
        Ok(Pol(amount.pol.0))
    }
}

/// Decimal text, in POL.
struct PolText(Wei);

impl<'de> Deserialize<'de> for PolText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl Visitor<'_> for TextVisitor {
            type Value = PolText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#"whole POL as decimal text in quotes, such as "1.5""#)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PolText, E> {
                Wei::from_pol_text(text).map(PolText).map_err(|error| {
                    E::custom(format_args!(
                        r#"{error}. Amounts are POL as decimal text, such as "1.5""#
                    ))
                })
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

/// A multiaddr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address(pub(super) Multiaddr);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Address).map_err(|error| {
            D::Error::custom(format_args!(
                "{text:?} is not a multiaddr ({error}). A multiaddr looks like \
                 /ip4/203.0.113.5/tcp/4001 or /dns4/example.org/udp/4001/quic-v1, with \
                 /p2p/<peer id> behind it if you know that"
            ))
        })
    }
}

/// A peer id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer(pub(super) PeerId);

impl<'de> Deserialize<'de> for Peer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Peer).map_err(|_| {
            D::Error::custom(format_args!(
                "{text:?} is not a peer id. `derouter peers` shows them: 12D3KooW..."
            ))
        })
    }
}

/// An `http://` or `https://` URL without the slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BaseUrl(pub(super) String);

impl<'de> Deserialize<'de> for BaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        base_url(&text).map(BaseUrl).map_err(D::Error::custom)
    }
}

/// Checks the base URL of an OpenAI-compatible server.
pub(crate) fn base_url(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not a base URL. It looks like http://127.0.0.1:11434/v1");
    let url = reqwest::Url::parse(text.trim()).map_err(|_| wrong())?;
    let plain = matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
    if !url.username().is_empty() || url.password().is_some() {
        // Not repeated: logs keep it.
        return Err(
            "a base URL has no user and no password. Give the key as openai_api_key".into(),
        );
    }
    if !plain || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The origin of a web page, as browsers write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin(pub(super) String);

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let url = reqwest::Url::parse(&text).ok();
        let plain = url.filter(|url| matches!(url.scheme(), "http" | "https"));
        let origin = plain.map(|url| url.origin().ascii_serialization());
        match origin {
            Some(origin) if origin == text.trim_end_matches('/').to_ascii_lowercase() => {
                Ok(Self(origin))
            }
            _ => Err(D::Error::custom(format_args!(
                "{text:?} is not the origin of a web page. It looks like https://chat.example.org, \
                 with a port if it has another one, and without a path"
            ))),
        }
    }
}

/// A path that is meant literally.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LiteralPath(pub(super) PathBuf);

impl<'de> Deserialize<'de> for LiteralPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = PathBuf::deserialize(deserializer)?;
        literal_path(path)
            .map(LiteralPath)
            .map_err(D::Error::custom)
    }
}

/// A port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port(pub(super) u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        let port = u16::try_from(number);
        port.map(Port)
            .map_err(|_| D::Error::custom(format_args!("{number} is not a port from 0 to 65535")))
    }
}

/// How long what runs may take to finish on a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drain(pub(super) Duration);

/// An hour: nobody waits longer for a service to stop.
const MOST_DRAIN_SECONDS: u64 = 3600;

impl Default for Drain {
    fn default() -> Self {
        Self(Duration::from_secs(30))
    }
}

impl<'de> Deserialize<'de> for Drain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        if number > MOST_DRAIN_SECONDS {
            return Err(D::Error::custom(format_args!(
                "{number} is not from 0 to {MOST_DRAIN_SECONDS} seconds"
            )));
        }
        Ok(Self(Duration::from_secs(number)))
    }
}

/// A time in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seconds(pub(super) Duration);

/// The shortest: below, every answer would come too late.
const LEAST_SECONDS: f64 = 0.1;

/// The longest: a day.
const MOST_SECONDS: f64 = 86_400.0;

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        if !(LEAST_SECONDS..=MOST_SECONDS).contains(&number) {
            return Err(D::Error::custom(format_args!(
                "{number} is not from {LEAST_SECONDS} to {MOST_SECONDS} seconds"
            )));
        }
        Ok(Self(Duration::from_secs_f64(number)))
    }
}

/// A whole number from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Positive<T>(pub(super) T);

impl<'de, T: TryFrom<u64>> Deserialize<'de> for Positive<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        if number == 0 {
            return Err(D::Error::custom("this must be at least 1"));
        }
        T::try_from(number)
            .map(Positive)
            .map_err(|_| D::Error::custom(format_args!("{number} is too large")))
    }
}

/// An object with names of the user's choice, each at most once: of two, one would be lost without
/// a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named<T>(pub(super) BTreeMap<String, T>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NamedVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for NamedVisitor<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object: { name: { ... } }")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut named = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, T>()? {
                    if named.contains_key(&name) {
                        return Err(A::Error::custom(format_args!("{name:?} is there twice")));
                    }
                    named.insert(name, value);
                }
                Ok(Named(named))
            }
        }
        deserializer.deserialize_map(NamedVisitor(PhantomData))
    }
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OneOrMany<T>(pub(super) Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EitherVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for EitherVisitor<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, or a list of objects")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let map = serde::de::value::MapAccessDeserializer::new(map);
                T::deserialize(map).map(|one| OneOrMany(vec![one]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                seq: A,
            ) -> Result<Self::Value, A::Error> {
                let seq = serde::de::value::SeqAccessDeserializer::new(seq);
                Vec::deserialize(seq).map(OneOrMany)
            }
        }
        deserializer.deserialize_any(EitherVisitor(PhantomData))
    }
}
