//! Ctrl-C and SIGTERM: the first one asks for a clean end, the second one ends at once.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::output;

/// The exit code of a process that Ctrl-C ended, as shells have it.
pub(crate) const ABORTED: u8 = 130;

/// How long a database may take to be closed at a second signal. Behind that, or at a third
/// signal, the process ends as it is: what was committed stays.
const CLOSE_WAIT: Duration = Duration::from_secs(3);

/// What signals ask for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// A clean end: cancelled at the first signal.
    pub(crate) stop: CancellationToken,
    /// An end at once: cancelled at the second.
    pub(crate) abort: CancellationToken,
}

/// Waits for signals from now on, and cancels the token at the first. The second ends the process.
pub(crate) fn listen() -> Result<CancellationToken, Failure> {
    let asked = listen_for(Duration::ZERO)?;
    Ok(asked.stop)
}

/// The same, where there is something to close at the second signal.
pub(crate) fn listen_twice() -> Result<Asked, Failure> {
    listen_for(CLOSE_WAIT)
}

fn listen_for(close_wait: Duration) -> Result<Asked, Failure> {
    let mut signals = Signals::new()
        .map_err(|error| Failure::failed(format_args!("can't wait for signals: {error}")))?;
    let asked = Asked::default();
    let told = asked.clone();
    tokio::spawn(async move {
        signals.next().await;
        tracing::info!("stopping; a second signal stops at once");
        told.stop.cancel();
        signals.next().await;
        told.abort.cancel();
        tokio::select! {
            () = tokio::time::sleep(close_wait) => {}
            () = signals.next() => {}
        }
        output::error_line("derouter: stopped at once");
        std::process::exit(i32::from(ABORTED));
    });
    Ok(asked)
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
