//! The derouter command.
fn main() {}
