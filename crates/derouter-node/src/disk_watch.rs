//! What a node does while its database can't be written: it takes no new jobs, says why, tries every
//! few seconds whether that is over, and then goes on. Jobs that run already run on; what becomes of
//! them is written once it can be, or told as an error to whoever asked.

use std::time::Duration;

use derouter_sdk::NodeError;
use derouter_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

/// The pause between two attempts to write. Somebody makes room by hand.
const PROBE_PAUSE: Duration = Duration::from_secs(2);

/// Why no job is to be begun now, if so.
pub(crate) fn refusal(store: &Store) -> Option<NodeError> {
    let trouble = store.trouble()?;
    Some(NodeError::Internal(format!(
        "no new jobs are taken until the database can be written: {trouble}"
    )))
}

/// Runs until the node stops.
pub(crate) async fn run(store: Store, stop: CancellationToken) {
    let mut trouble = store.watch_trouble();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = trouble.wait_for(Option::is_some) => if changed.is_err() { return },
        }
        let error = store.trouble().unwrap_or(StoreError::Closed);
        tracing::error!(
            database = %store.path().display(), %error,
            "the database can't be written: no new jobs are taken (consumers are told busy) until it can"
        );
        tokio::select! {
            () = stop.cancelled() => return,
            () = until_written(&store) => {}
        }
        tracing::info!("the database can be written again: new jobs are taken");
    }
}

async fn until_written(store: &Store) {
    while store.probe().await.is_err() {
        tokio::time::sleep(PROBE_PAUSE).await;
    }
}
