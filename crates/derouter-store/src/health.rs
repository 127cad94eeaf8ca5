//! Whether what is written is kept: told by the threads that write, watched by the node.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::error::StoreError;

/// What is wrong with the disk, if anything.
#[derive(Debug)]
pub(crate) struct Health {
    trouble: watch::Sender<Option<StoreError>>,
    /// A sync of the log failed: what the system says from now on of the pages that it was to write
    /// is worth nothing, as it may have dropped them and marked them as written.
    log_in_doubt: AtomicBool,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self {
            trouble: watch::Sender::new(None),
            log_in_doubt: AtomicBool::new(false),
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<StoreError>> {
        self.trouble.subscribe()
    }

    /// What went wrong last, until a write works again.
    pub(crate) fn trouble(&self) -> Option<StoreError> {
        self.trouble.borrow().clone()
    }

    /// A transaction was lost.
    pub(crate) fn lost(&self, error: &StoreError) {
        self.trouble.send_if_modified(|trouble| {
            let is_news = trouble.as_ref() != Some(error);
            if is_news {
                *trouble = Some(error.clone());
            }
            is_news
        });
    }

    /// A transaction was committed.
    pub(crate) fn committed(&self) {
        if !self.log_in_doubt() {
            self.trouble
                .send_if_modified(|trouble| trouble.take().is_some());
        }
    }

    /// A sync of the log failed.
    pub(crate) fn doubt_log(&self, error: &StoreError) {
        self.log_in_doubt.store(true, Ordering::SeqCst);
        self.lost(error);
    }

    pub(crate) fn log_in_doubt(&self) -> bool {
        self.log_in_doubt.load(Ordering::SeqCst)
    }

    /// All of the log was written anew and synced.
    pub(crate) fn log_mended(&self) {
        self.log_in_doubt.store(false, Ordering::SeqCst);
    }
}
