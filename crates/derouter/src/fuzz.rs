//! What a fuzzer and the corpus test run: see `fuzz/` at the top of the repository.

use derouter_sdk::wire::fuzz::Target;

/// By the name of their folder in `fuzz/corpus`.
pub const TARGETS: &[Target] = &[("config", config)];

/// What the fuzzer changes in a file: a key that is there or not, and one that can't be.
const PATHS: [&str; 3] = ["server.port", "openai.provider", "bootstrap[0]"];

/// A configuration file, of each kind, the message about what is wrong in it, and a change of it, which
/// does what it is to do or nothing.
pub fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        crate::config::fuzz(text);
        for path in PATHS {
            crate::settings::fuzz(text, path);
        }
    }
}
