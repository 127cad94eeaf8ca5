//! Decisions of the marketplace, pure: the states of a job, the offer index, and credit. They take
//! the time and an event and return what follows; storage and sockets are elsewhere.

pub mod credit;
pub mod job;
pub mod offers;

pub use credit::CreditBook;
pub use job::{Job, JobChange, JobState, Role};
pub use offers::{OfferChange, OfferIndex};
