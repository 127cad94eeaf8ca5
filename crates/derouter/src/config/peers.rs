//! Whom a node lets in: the `peers` section.

use derouter_node::PeerRule;
use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::schema::shape;

/// Lists of peers, IP addresses and networks.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PeersSection {
    /// When not empty, only these and the bootstrap nodes may connect: peer ids, IP addresses and networks.
    #[schemars(extend("default" = []))]
    allow: Vec<Rule>,
    /// These may neither connect nor are they dialled.
    #[schemars(extend("default" = []))]
    block: Vec<Rule>,
}

impl PeersSection {
    /// The two lists: to allow, and to block.
    pub(super) fn rules(self) -> (Vec<PeerRule>, Vec<PeerRule>) {
        let rules = |list: Vec<Rule>| list.into_iter().map(|rule| rule.0).collect();
        (rules(self.allow), rules(self.block))
    }
}

/// One entry.
#[derive(Clone, Debug)]
struct Rule(PeerRule);

shape!(Rule, {"type": "string", "examples": ["192.0.2.0/24"]});

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Rule).map_err(D::Error::custom)
    }
}
