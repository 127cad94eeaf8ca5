//! `derouter version`: which build this is.

use serde::Serialize;

use crate::output::Output;

/// What `--json` says.
#[derive(Debug, Serialize)]
struct Version {
    version: &'static str,
    target: String,
    debug: bool,
}

/// Says it.
pub(crate) fn version(output: Output) {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        debug: cfg!(debug_assertions),
    };
    output.show("derouter.version/1", &version, |_| {
        format!("derouter {}", version.version)
    });
}
