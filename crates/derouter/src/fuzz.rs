//! What a fuzzer and the corpus test run: see `fuzz/` at the top of the repository.

use derouter_sdk::wire::fuzz::Target;

/// By the name of their folder in `fuzz/corpus`.
pub const TARGETS: &[Target] = &[("config", config)];

/// A configuration file, of each kind, and the message about what is wrong in it.
pub fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        crate::config::fuzz(text);
    }
}
