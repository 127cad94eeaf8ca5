//! Ctrl-C and SIGTERM: the first one asks for a clean end, the second one ends at once.

use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::output;

/// The exit code of a process that Ctrl-C ended, as shells have it.
const ABORTED: i32 = 130;

/// Waits for signals from now on, and cancels the token at the first.
pub(crate) fn listen() -> Result<CancellationToken, Failure> {
    let mut signals = Signals::new()
        .map_err(|error| Failure::failed(format_args!("can't wait for signals: {error}")))?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        tracing::info!("stopping; a second signal stops at once");
        token.cancel();
        signals.next().await;
        output::error_line("derouter: stopped at once");
        std::process::exit(ABORTED);
    });
    Ok(stop)
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
