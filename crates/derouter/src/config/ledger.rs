//! `ledger`: how long payloads are kept, and how much of them.

use std::fmt;
use std::time::Duration;

use derouter_node::PayloadRetention;
use schemars::JsonSchema;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// A century: whoever wants more wants `"all"`.
const MOST_DAYS: u64 = 36_500;

/// A tebibyte, likewise.
const MOST_MB: u64 = 1 << 20;

/// `ledger`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LedgerSection {
    /// Days that payloads are kept.
    #[schemars(extend("default" = 90))]
    keep_payloads_days: Option<Amount<MOST_DAYS>>,
    /// Mebibytes of payloads that are kept.
    #[schemars(extend("default" = 1024))]
    keep_payloads_mb: Option<Amount<MOST_MB>>,
}

impl LedgerSection {
    pub(super) fn retention(self) -> PayloadRetention {
        let defaults = PayloadRetention::default();
        let age = |days: u64| Duration::from_secs(days.saturating_mul(86_400));
        PayloadRetention {
            max_age: match self.keep_payloads_days {
                Some(Amount(days)) => days.map(age),
                None => defaults.max_age,
            },
            max_bytes: match self.keep_payloads_mb {
                Some(Amount(megabytes)) => megabytes.map(|number| number.saturating_mul(1 << 20)),
                None => defaults.max_bytes,
            },
        }
    }
}

/// A number up to `MOST`, or `"all"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Amount<const MOST: u64>(Option<u64>);

impl<const MOST: u64> JsonSchema for Amount<MOST> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Amount{MOST}").into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"anyOf": [
            {"type": "integer", "minimum": 0, "maximum": MOST},
            {"const": "all"},
        ]})
    }
}

impl<'de, const MOST: u64> Deserialize<'de> for Amount<MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EitherVisitor<const MOST: u64>;
        impl<const MOST: u64> Visitor<'_> for EitherVisitor<MOST> {
            type Value = Amount<MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, r#"a whole number from 0 to {MOST}, or "all""#)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Amount<MOST>, E> {
                match text {
                    "all" => Ok(Amount(None)),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Amount<MOST>, E> {
                match number <= MOST {
                    true => Ok(Amount(Some(number))),
                    false => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
                }
            }
        }
        deserializer.deserialize_any(EitherVisitor)
    }
}
