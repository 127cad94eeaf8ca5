//! What a fuzzer and the corpus test run on each decoder: see `fuzz/` at the top of the repository.

use derouter_wire::fuzz::Target;

/// By the name of their folder in `fuzz/corpus`.
pub const TARGETS: &[Target] = &[("node_job_bytes", job_bytes)];

/// Where a job's bytes are cut for a 0.1 module: nothing is lost, added or held back for ever.
pub fn job_bytes(data: &[u8]) {
    crate::rpc::fuzz_values(data);
}
