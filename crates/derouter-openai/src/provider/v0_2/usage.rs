//! What an answer of `openai:0.2` is billed as having used. Pure.

use super::ask::Ask;
use crate::estimate;
use crate::meter::Meter;
use crate::protocol::Usage;
use crate::terms::Metered;

/// The usage that a backend does not report.
pub(super) fn estimated_usage(meter: &Meter, ask: &Ask) -> Usage {
    let (used, _) = settle(meter, ask);
    Usage {
        prompt_tokens: used.input,
        completion_tokens: used.output,
    }
}

/// What is billed, and whether a count was estimated.
pub(super) fn settle(meter: &Meter, ask: &Ask) -> (Metered, bool) {
    if !meter.says_something() {
        // An empty answer costs nothing.
        return (Metered::default(), false);
    }
    let reported = meter.reported();
    let estimated = reported.is_none();
    let used = reported.unwrap_or_else(|| Metered {
        input: estimate::billed(ask.prompt_bytes),
        cached_input: 0,
        output: meter.estimated_output(),
        images: meter.images(),
        seconds: 0,
    });
    let seconds = match used.seconds {
        // Of most forms of an answer nobody says how long the sound was.
        0 => ask.least_seconds(),
        told => told,
    };
    let used = Metered {
        input: used.input.min(ask.most.input),
        cached_input: used.cached_input.min(ask.most.input),
        output: used.output.min(ask.most.output),
        images: meter.images().min(ask.most.images),
        seconds: seconds.min(ask.most.seconds),
    };
    (used, estimated)
}
