//! The environment: variables that are misspelt or make no sense.

use tracing_subscriber::EnvFilter;

use super::Check;
use crate::config::error::nearest;

/// Those that this program and its tests know.
pub(crate) const KNOWN: [&str; 12] = [
    "DEROUTER_CONFIG",
    "DEROUTER_DATA_DIR",
    "DEROUTER_RPC",
    "DEROUTER_RPC_COOKIE",
    "DEROUTER_URL",
    "DEROUTER_API_KEY",
    "DEROUTER_COLOR",
    "DEROUTER_KEY_PASSPHRASE",
    "DEROUTER_BACKEND_API_KEY",
    "DEROUTER_RELAY_HTTP",
    "DEROUTER_RELAY_KEY",
    "DEROUTER_TEST_PYTHON",
];

pub(super) fn check(checks: &mut Vec<Check>) {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("DEROUTER_")).collect();
    names.sort();
    checks.push(variables(&names));
    let filter = std::env::var("RUST_LOG").unwrap_or_default();
    checks.push(log_filter(&filter));
}

fn variables(names: &[String]) -> Check {
    const ID: &str = "environment";
    let unknown = names.iter().find(|name| !KNOWN.contains(&name.as_str()));
    let Some(unknown) = unknown else {
        let known = names.join(", ");
        return Check::ok(
            ID,
            if known.is_empty() {
                "no variable is set".into()
            } else {
                known
            },
        );
    };
    let meant = match nearest(unknown, &KNOWN) {
        Some(near) => format!("did you mean {near}? Else remove it"),
        None => "remove it; docs/cli.md lists those that there are".to_owned(),
    };
    Check::warn(
        ID,
        format!("{unknown} means nothing to this program"),
        meant,
    )
}

fn log_filter(filter: &str) -> Check {
    const ID: &str = "log-filter";
    if filter.trim().is_empty() {
        return Check::ok(ID, "RUST_LOG is not set");
    }
    match EnvFilter::try_new(filter) {
        Ok(_) => Check::ok(ID, format!("RUST_LOG is {filter:?}")),
        Err(error) => Check::fail(
            ID,
            format!("RUST_LOG is not a log filter: {error}"),
            "remove it, or set it to something like `debug` or `info,derouter_net=debug`: no node starts with it",
        ),
    }
}
