//! What a fuzzer and the corpus test run on each decoder: see `fuzz/` at the top of the repository.

use derouter_wire::fuzz::Target;
use derouter_wire::limits::RPC_FRAME_BYTES;
use futures::FutureExt;

use crate::tcp::link::{FrameError, ReadBudget, read_frame};

/// By the name of their folder in `fuzz/corpus`.
pub const TARGETS: &[Target] = &[("sdk_rpc_stream", rpc_stream)];

/// The stream of frames of a module or a node.
pub fn rpc_stream(data: &[u8]) {
    let budget = ReadBudget::default();
    let mut rest = data;
    loop {
        let before = rest.len();
        match read_frame(&mut rest, &budget).now_or_never() {
            Some(Ok(Some(frame))) => {
                assert!(frame.body.len() <= RPC_FRAME_BYTES);
                assert_eq!(frame.body.len() + 4, before - rest.len());
                derouter_wire::fuzz::rpc_frame(&frame.body);
            }
            Some(Ok(None)) => return assert!(rest.is_empty()),
            Some(Err(FrameError::Truncated | FrameError::TooLarge(_))) => return,
            // Nothing else can go wrong with bytes that are all here, and nothing waits.
            other => return assert!(other.is_none_or(|read| read.is_ok()), "waits or fails"),
        }
    }
}
