//! What a service manager (systemd) is told over `NOTIFY_SOCKET`: that all is up, that it lives, how
//! it is, and that it ends. Without one nothing is told.
//!
//! The watchdog is driven by what the process is for: its loops are asked, and when one does not
//! answer, the service manager hears nothing, and starts the process anew.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

/// How often the status is told where no watchdog asks for more.
const STATUS_EVERY: Duration = Duration::from_secs(15);

/// The least pause between two signs of life, whatever the service manager wants.
const LEAST_PAUSE: Duration = Duration::from_millis(50);

/// What is asked whether it lives.
pub(crate) trait Supervised: Send + Sync + 'static {
    /// Whether it does its work; else what does not. It answers within `limit`.
    fn pulse(&self, limit: Duration) -> impl Future<Output = Result<(), String>> + Send;

    /// How it is, in one line.
    fn status(&self) -> impl Future<Output = String> + Send;
}

/// All is up.
pub(crate) fn ready(status: &str) {
    notify::ready(status);
}

/// The end begins.
pub(crate) fn stopping(status: &str) {
    notify::stopping(status);
}

/// What it does now.
pub(crate) fn status(status: &str) {
    notify::status(status);
}

/// It needs more time to start or to stop, and says so again within `time` or is done.
pub(crate) fn more_time(time: Duration) {
    notify::more_time(time);
}

/// Tells signs of life until it is dropped.
pub(crate) type Watching = Option<AbortOnDropHandle<()>>;

/// Tells that it lives for as long as it does, and how it is, until the handle is dropped.
pub(crate) fn watch(supervised: impl Supervised) -> Watching {
    if !notify::is_there() {
        return None;
    }
    let watchdog = notify::watchdog();
    // Twice within its time, as systemd recommends.
    let pause = watchdog.map_or(STATUS_EVERY, |time| (time / 2).max(LEAST_PAUSE));
    let tell = move |alive: bool, status: &str| match alive && watchdog.is_some() {
        true => notify::alive(status),
        false => notify::status(status),
    };
    let watching = look_after(supervised, pause, tell);
    Some(AbortOnDropHandle::new(tokio::spawn(watching)))
}

/// Asks again and again, and says what came: `tell(true, status)` is a sign of life.
async fn look_after(supervised: impl Supervised, pause: Duration, tell: impl Fn(bool, &str)) {
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let felt = async {
            supervised.pulse(pause).await?;
            Ok(supervised.status().await)
        };
        let felt = timeout(pause, felt).await;
        match felt.unwrap_or_else(|_| Err("the process does not answer".to_owned())) {
            Ok(status) => tell(true, &status),
            Err(silent) => {
                tracing::error!(
                    silent,
                    "hangs; the service manager gets no sign of life until it answers"
                );
                tell(false, &silent);
            }
        }
    }
}

#[cfg(unix)]
mod notify {
    use std::time::Duration;

    use sd_notify::NotifyState;

    pub(super) fn is_there() -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    pub(super) fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }

    pub(super) fn ready(status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    pub(super) fn stopping(status: &str) {
        tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    pub(super) fn status(status: &str) {
        tell(&[NotifyState::Status(status)]);
    }

    pub(super) fn alive(status: &str) {
        tell(&[NotifyState::Watchdog, NotifyState::Status(status)]);
    }

    pub(super) fn more_time(time: Duration) {
        let time = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::ExtendTimeoutUsec(time)]);
    }

    fn tell(state: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(state) {
            tracing::warn!(%error, "can't tell the service manager");
        }
    }
}

#[cfg(not(unix))]
mod notify {
    use std::time::Duration;

    pub(super) fn is_there() -> bool {
        false
    }

    pub(super) fn watchdog() -> Option<Duration> {
        None
    }

    pub(super) fn ready(_: &str) {}

    pub(super) fn stopping(_: &str) {}

    pub(super) fn status(_: &str) {}

    pub(super) fn alive(_: &str) {}

    pub(super) fn more_time(_: Duration) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    /// A loop that hangs when it is told to.
    struct Loop(Arc<AtomicBool>);

    impl Supervised for Loop {
        async fn pulse(&self, _: Duration) -> Result<(), String> {
            if self.0.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            Ok(())
        }

        async fn status(&self) -> String {
            "serving".to_owned()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_gives_no_sign_of_life_until_it_answers_again() {
        let hangs = Arc::new(AtomicBool::new(false));
        let (sender, mut told) = mpsc::channel(1);
        let tell = move |alive: bool, _: &str| {
            let _ = sender.try_send(alive);
        };
        let pause = Duration::from_millis(500);
        let watching = look_after(Loop(Arc::clone(&hangs)), pause, tell);
        let _watching = AbortOnDropHandle::new(tokio::spawn(watching));
        assert_eq!(told.recv().await, Some(true));
        hangs.store(true, Ordering::Relaxed);
        for _ in 0..3 {
            assert_eq!(told.recv().await, Some(false));
        }
        hangs.store(false, Ordering::Relaxed);
        // The question that hangs is given up first.
        while told.recv().await == Some(false) {}
        assert_eq!(told.recv().await, Some(true));
    }
}
