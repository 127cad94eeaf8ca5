//! What both ends of the RPC share: the multiplexed connection, frames, and numbered calls. Made
//! for [`TcpNode`](crate::TcpNode) and the node's RPC server, not for modules.

mod calls;
mod frames;
mod mux;
mod paced;

pub use calls::{CallError, Caller, Outgoing, WRITING_FAILED};
pub use frames::{FrameError, ReadBudget, ReceivedFrame, read_frame, read_frame_up_to};
pub use mux::{Mux, MuxStream, OpenRequests, Side, drive};
