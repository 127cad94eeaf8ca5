//! The modules of a node, in its process and on connections. Not in 0.1.

use serde::{Deserialize, Serialize};

use super::Call;
use crate::UnixSeconds;

/// Which modules does this node have, and how are they?
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryModules {
    /// Whether to tell of each what it tells of itself.
    #[serde(default)]
    pub state: bool,
}

impl Call for QueryModules {
    const TYPE: &'static str = "QueryModules";
    type Reply = QueryModulesReply;
}

/// To [`QueryModules`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tag", content = "content")]
pub enum QueryModulesReply {
    /// The modules, longest there first. States that do not fit into one answer are left out.
    Ok(Vec<ModuleReport>),
}

/// Where a module runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModulePlace {
    /// Inside of the node.
    Node,
    /// In a process of its own, on a connection.
    Connection,
}

/// A module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleReport {
    /// What it calls itself.
    pub name: String,
    /// The version of its program, when it says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where it runs.
    pub place: ModulePlace,
    /// From where it connects, when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What it may do: `provide`, `consume`.
    pub capabilities: Vec<String>,
    /// Since when it is there.
    pub since: UnixSeconds,
    /// What it tells of itself: JSON, whose shape is the module's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}
