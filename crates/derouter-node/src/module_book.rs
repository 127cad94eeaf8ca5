//! The modules that are there, for whoever asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use derouter_sdk::{
    ModuleDetails, ModuleRegistration, ModuleReport, ModuleReporter, NodeError, UnixSeconds,
};
use derouter_wire::limits::RPC_MODULE_STATE_BYTES;

/// Modules that are remembered: more than connections of modules that are let in.
const MAX_MODULES: usize = 512;

/// All of them, by when they came.
#[derive(Default)]
pub(crate) struct ModuleBook {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    modules: BTreeMap<u64, Module>,
}

#[derive(Clone)]
struct Module {
    details: ModuleDetails,
    since: UnixSeconds,
    reporter: Arc<dyn ModuleReporter>,
}

struct RemoveOnDrop {
    book: Arc<ModuleBook>,
    id: u64,
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // What is dropped here may do anything: not under the lock.
        let gone = self.book.lock().modules.remove(&self.id);
        drop(gone);
    }
}

impl ModuleBook {
    /// Adds a module until the registration is dropped.
    pub(crate) fn add(
        self: &Arc<Self>,
        details: ModuleDetails,
        reporter: Arc<dyn ModuleReporter>,
        now: UnixSeconds,
    ) -> Result<ModuleRegistration, NodeError> {
        let mut state = self.lock();
        if state.modules.len() >= MAX_MODULES {
            return Err(NodeError::Invalid("there are too many modules".to_owned()));
        }
        let id = state.next;
        state.next = id.wrapping_add(1);
        let module = Module {
            details,
            since: now,
            reporter,
        };
        state.modules.insert(id, module);
        drop(state);
        let book = Arc::clone(self);
        Ok(ModuleRegistration::new(RemoveOnDrop { book, id }))
    }

    /// Tells of all. What a module tells of itself is left out when it is too long.
    pub(crate) fn reports(&self, with_state: bool) -> Vec<ModuleReport> {
        let modules: Vec<Module> = self.lock().modules.values().cloned().collect();
        let report = |module: Module| {
            let state = with_state.then(|| module.reporter.state()).flatten();
            let fits = |state: &String| state.len() <= RPC_MODULE_STATE_BYTES;
            let ModuleDetails {
                name,
                version,
                place,
                from,
                capabilities,
            } = module.details;
            ModuleReport {
                name,
                version,
                place,
                from,
                capabilities,
                since: module.since,
                state: state.filter(fits),
            }
        };
        modules.into_iter().map(report).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use derouter_sdk::ModulePlace;

    struct Says(usize);

    impl ModuleReporter for Says {
        fn state(&self) -> Option<String> {
            Some("x".repeat(self.0))
        }
    }

    fn details() -> ModuleDetails {
        ModuleDetails {
            name: "m".to_owned(),
            version: None,
            place: ModulePlace::Node,
            from: None,
            capabilities: Vec::new(),
        }
    }

    #[test]
    fn a_module_is_there_until_it_goes() {
        let book = Arc::new(ModuleBook::default());
        let add = |bytes| book.add(details(), Arc::new(Says(bytes)), UnixSeconds(3));
        let first = add(2).unwrap();
        let _long = add(RPC_MODULE_STATE_BYTES + 1).unwrap();
        let states: Vec<_> = book.reports(true).into_iter().map(|it| it.state).collect();
        assert_eq!(states, [Some("xx".to_owned()), None]);
        assert!(book.reports(false).iter().all(|it| it.state.is_none()));
        drop(first);
        assert_eq!(book.reports(false).len(), 1);
    }

    #[test]
    fn a_flood_of_modules_is_refused() {
        let book = Arc::new(ModuleBook::default());
        let add = || book.add(details(), Arc::new(Says(0)), UnixSeconds(3));
        let all: Vec<_> = (0..MAX_MODULES).map(|_| add().unwrap()).collect();
        assert!(add().is_err());
        drop(all);
        assert!(add().is_ok());
    }
}
