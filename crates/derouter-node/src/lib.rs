//! The node: market, net and store joined, and the RPC server for modules.

pub mod rpc;
