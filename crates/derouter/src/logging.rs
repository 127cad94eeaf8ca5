//! Logs: to the standard error, as `RUST_LOG` says.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::LogFormat;
use crate::failure::Failure;

/// What is logged without `RUST_LOG` by a node: what it does, and what is wrong elsewhere. Gossipsub
/// warns of each invalid message, so that any peer could fill the disk.
pub(crate) const NODE: &str = "info,libp2p=warn,libp2p_gossipsub=error,libp2p_kad=error,multistream_select=warn,yamux=warn,quinn=warn,\
                               hyper=warn,reqwest=warn,netlink=warn,if_watch=warn";

/// What is logged without `RUST_LOG` by the demo, which tells its story itself.
pub(crate) const DEMO: &str = "error";

/// Starts logging.
pub(crate) fn start(format: LogFormat, default: &str) -> Result<(), Failure> {
    let filter = filter(default)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // They would be written to the same standard error, with a panic when that is closed: a
        // node goes on when the terminal that started it is gone.
        .log_internal_errors(false)
        .with_writer(BoxMakeWriter::new(std::io::stderr));
    let started = match format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_ansi(false)
            .try_init(),
        LogFormat::Text => builder.with_ansi(colours(&std::io::stderr())).try_init(),
    };
    started.map_err(|error| Failure::failed(format_args!("can't start logging: {error}")))
}

fn filter(default: &str) -> Result<EnvFilter, Failure> {
    let text = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let text = if text.trim().is_empty() {
        default
    } else {
        &text
    };
    EnvFilter::try_new(text).map_err(|error| {
        Failure::environment(format_args!(
            "RUST_LOG is not a log filter: {error}. It looks like `debug` or `info,derouter_net=debug`"
        ))
    })
}

/// Whether to write colours there: only to a terminal, and not when the user asked for none
/// (<https://no-color.org>).
pub(crate) fn colours(stream: &impl IsTerminal) -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !unwanted
}
