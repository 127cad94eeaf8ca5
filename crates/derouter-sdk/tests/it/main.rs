//! The client against nodes of version 0.1, which answer in their own way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub
)]

mod node_0_1;
mod old_node;
