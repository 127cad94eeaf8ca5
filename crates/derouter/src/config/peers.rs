//! Whom a node lets in: the `peers` section.

use derouter_node::PeerRule;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// Lists of peers, IP addresses and networks.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PeersSection {
    allow: Vec<Rule>,
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

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Rule).map_err(D::Error::custom)
    }
}
