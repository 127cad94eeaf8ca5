//! Decisions of the marketplace, pure: the states of a job and when it is
//! given up, the offer index, and credit. They take
//! the time and an event and return what follows; storage and sockets are elsewhere.

pub mod credit;
pub mod deadlines;
pub mod job;
pub mod offers;

pub use credit::CreditBook;
pub use deadlines::OpenJobs;
pub use job::{Job, JobChange, JobState, Role};
pub use offers::{OfferChange, OfferIndex};
