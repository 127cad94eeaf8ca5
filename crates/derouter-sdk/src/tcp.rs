//! [`TcpNode`]: a node on this machine, over the RPC.

/// A node over TCP.
#[derive(Debug)]
pub struct TcpNode;
