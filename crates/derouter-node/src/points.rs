//! What happens at a [`crate::failpoint`]. Set by the environment, for example
//! `FAILPOINTS='consumer::signed=2*off->return(crash)'` (see the documentation of the crate `fail`).

/// Does what a test set for this point: `return(crash)` ends the process at once, as a kill or a
/// power cut would: nothing is unwound, and nothing is written on the way out.
pub(crate) fn reached(point: &'static str) {
    fail::fail_point!(point, |what| {
        if what.as_deref() == Some("crash") {
            std::process::abort();
        }
    });
}
