//! Waiting for what must come, with a deadline.

use std::time::{Duration, Instant};

/// How long a test waits for what must come. Long enough for a loaded machine with two cores,
/// short enough for a test that fails.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How often to look. Short against everything that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` finds something, and panics naming `what` when the deadline passes.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        let waited = begin.elapsed();
        assert!(waited < DEADLINE, "waited {waited:?} in vain: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
