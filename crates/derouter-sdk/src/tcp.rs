//! [`TcpNode`]: a node on this machine, over the RPC.

#[doc(hidden)]
pub mod link;

/// A node over TCP.
#[derive(Debug)]
pub struct TcpNode;
