//! What a module tells the node's owner of itself.

use std::any::Any;
use std::fmt;

pub use derouter_wire::rpc::module::{ModulePlace, ModuleReport};

/// A module that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleDetails {
    /// What it calls itself.
    pub name: String,
    /// The version of its program.
    pub version: Option<String>,
    /// Where it runs.
    pub place: ModulePlace,
    /// From where it connects, when it does.
    pub from: Option<String>,
    /// What it may do: `provide`, `consume`.
    pub capabilities: Vec<String>,
}

/// Tells how a module is whenever somebody looks.
pub trait ModuleReporter: Send + Sync {
    /// JSON text; `None` when there is nothing to tell. Called from async code: it takes what is in
    /// memory, and waits for nothing.
    fn state(&self) -> Option<String>;
}

/// Keeps a module among those that are there, until it is dropped.
#[must_use = "the module is gone when this is dropped"]
pub struct ModuleRegistration(
    #[expect(dead_code, reason = "for its drop")] Box<dyn Any + Send + Sync>,
);

impl ModuleRegistration {
    /// Drops `guard` when the module goes.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for ModuleRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModuleRegistration")
    }
}
