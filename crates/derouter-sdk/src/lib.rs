//! What a module author sees: the [`Node`] trait, its types and errors, and [`TcpNode`], which
//! speaks the RPC to a node on this machine. A node implements [`Node`] in process too, so a
//! module runs unchanged inside the node or as a process of its own.

pub mod error;
pub mod filter;
#[doc(hidden)]
pub mod fuzz;
pub mod module;
pub mod node;
pub mod provider;
pub mod tcp;
pub mod watch;

pub use async_trait::async_trait;
pub use derouter_wire as wire;
pub use derouter_wire::rpc::cursor::Cursor;
pub use derouter_wire::rpc::network::{
    NetworkReport, PathKind, PathReport, PeerReport, PingReport,
};
pub use derouter_wire::rpc::record::{FailureReason, JobRecord, OfferSnapshot, ProviderRecord};
pub use derouter_wire::{
    Currency, JobId, JobKey, OfferId, OfferKey, PeerId, ProtocolId, RowId, SnapshotId, UnixSeconds,
    Wei,
};
pub use error::{
    CompleteJobError, CreateJobError, FailJobError, NodeError, OpenJobError, PingError,
    ProvideError, ProviderCompleteError, RemoteJobError,
};
pub use filter::{JobFilter, JobQuery, OfferFilter, OfferQuery, PeerQuery, ProviderQuery};
pub use module::{ModuleDetails, ModulePlace, ModuleRegistration, ModuleReport, ModuleReporter};
pub use node::{ConsumerCompletion, JobStream, Node, RemoteJob};
pub use provider::{
    ConnectionRefusal, JobRefusal, NodeDesk, OfferSpec, ProvideOptions, ProviderCompletion,
    ProviderDesk, ProviderJob, ProviderService, Provision,
};
pub use tcp::{TcpNode, TcpOptions};
pub use watch::{JobEvent, NodeState, OfferEvent, Placed, ProviderEvent, Watch};
