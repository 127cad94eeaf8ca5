//! Logs: to the standard error, as `RUST_LOG` says.

use std::path::Path;

use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::LogFormat;
use crate::daemon::log_file::LogFile;
use crate::failure::Failure;
use crate::output::Output;
use crate::web::LogLayer;

/// What is logged without `RUST_LOG` by a node: what it does, and what is wrong elsewhere. Gossipsub
/// warns of each invalid message, so that any peer could fill the disk.
pub(crate) const NODE: &str = "info,libp2p=warn,libp2p_gossipsub=error,libp2p_kad=error,multistream_select=warn,yamux=warn,quinn=warn,\
                               hyper=warn,reqwest=warn,netlink=warn,if_watch=warn";

/// What is logged without `RUST_LOG` by the demo, which tells its story itself.
pub(crate) const DEMO: &str = "error";

/// What `-v` adds: what this program decides, and why.
const MORE: &str = "debug,libp2p=info,libp2p_gossipsub=error,libp2p_kad=info,multistream_select=info,yamux=info,\
                    quinn=info,hyper=info,reqwest=info,netlink=warn,if_watch=info,rustls=info";

/// What `-vv` adds: everything.
const MOST: &str = "trace";

/// What `-q` leaves.
const LESS: &str = "warn,libp2p_gossipsub=error";

/// Starts logging to the standard error.
pub(crate) fn start(format: LogFormat, default: &str, output: Output) -> Result<(), Failure> {
    start_to(None, format, default, output)
}

/// Starts logging to a file that is kept bounded, or else to the standard error.
pub(crate) fn start_to(
    file: Option<&Path>,
    format: LogFormat,
    default: &str,
    output: Output,
) -> Result<(), Failure> {
    let default = match output.verbosity() {
        0 if output.is_quiet() => LESS,
        0 => default,
        1 => MORE,
        _ => MOST,
    };
    let filter = filter(default)?;
    let colours = file.is_none() && output.colours(&std::io::stderr());
    let writer = match file {
        None => BoxMakeWriter::new(std::io::stderr),
        Some(path) => BoxMakeWriter::new(LogFile::open(path).map_err(|error| {
            Failure::environment(format_args!(
                "can't write the log {}: {error}",
                path.display()
            ))
        })?),
    };
    let layer = tracing_subscriber::fmt::layer()
        // They would be written to the same standard error, with a panic when that is closed: a
        // node goes on when the terminal that started it is gone.
        .log_internal_errors(false)
        .with_writer(writer);
    let layer = match format {
        LogFormat::Json => layer.json().flatten_event(true).with_ansi(false).boxed(),
        LogFormat::Text => layer.with_ansi(colours).boxed(),
    };
    let registry = tracing_subscriber::registry().with(filter).with(LogLayer);
    let started = registry.with(layer).try_init();
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
