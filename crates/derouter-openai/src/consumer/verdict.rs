//! What a client is told when no attempt led to an answer. Pure.

use super::attempt::{Failure, Refusal};
use super::error::ApiError;

/// The error for a request whose attempts all failed. `over` is the spending limit that kept
/// some offers from being tried. What is most worth knowing wins: a failure before a provider
/// that was busy, that before one that was not there; and a refusal only when all refused.
pub(crate) fn verdict(model: &str, failures: &[Failure], over: Option<ApiError>) -> ApiError {
    let last = |pick: fn(&Failure) -> Option<String>| failures.iter().rev().find_map(pick);
    let any = |wanted: Failure| failures.contains(&wanted);
    if let Some(fault) = last(local_fault) {
        let message = format!("This gateway's own node can't serve the request now: {fault}.");
        return ApiError::unavailable("node_unavailable", message);
    }
    if let Some(message) = last(failed) {
        return ApiError::provider_failed(message);
    }
    if let Some(what) = last(timed_out) {
        return ApiError::timeout(format!("Timed out waiting for {what} of {model}."));
    }
    if any(Failure::Busy) {
        return ApiError::busy(format!(
            "All providers of {model} are busy. Try again later."
        ));
    }
    if any(Failure::Unreachable) || any(Failure::Gone) {
        let message = format!("No provider of {model} can be reached at the moment.");
        return ApiError::unavailable("no_provider", message);
    }
    if let Some(over) = over {
        return over;
    }
    if let Some(refusal) = failures.iter().rev().find_map(refused) {
        return ApiError::refused(refusal.status, refusal.message);
    }
    ApiError::timeout(format!(
        "There was no time left to ask a provider of {model}."
    ))
}

fn local_fault(failure: &Failure) -> Option<String> {
    match failure {
        Failure::Local(fault) => Some(fault.clone()),
        _ => None,
    }
}

fn failed(failure: &Failure) -> Option<String> {
    match failure {
        Failure::Failed(message) => Some(message.clone()),
        _ => None,
    }
}

fn timed_out(failure: &Failure) -> Option<String> {
    match failure {
        Failure::TimedOut(what) => Some((*what).to_owned()),
        _ => None,
    }
}

fn refused(failure: &Failure) -> Option<Refusal> {
    match failure {
        Failure::Refused(refusal) => Some(refusal.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(failures: &[Failure]) -> u16 {
        verdict("m", failures, None).status.as_u16()
    }

    #[test]
    fn what_is_most_worth_knowing_decides() {
        let refused = Failure::refused("no images".into(), None);
        let too_long = Failure::refused("too long".into(), Some(413));
        let failed = Failure::Failed("boom".into());
        let timed_out = Failure::TimedOut("the answer");
        let local = Failure::Local("its disk is full".into());
        assert_eq!(status(&[refused.clone(), refused.clone()]), 400);
        assert_eq!(status(&[refused.clone(), too_long.clone()]), 413);
        assert_eq!(status(&[too_long, Failure::Busy]), 429);
        assert_eq!(status(&[refused.clone(), Failure::Busy]), 429);
        assert_eq!(status(&[Failure::Unreachable, Failure::Busy]), 429);
        assert_eq!(status(&[Failure::Unreachable, refused, Failure::Gone]), 503);
        assert_eq!(status(&[timed_out.clone(), Failure::Busy]), 504);
        assert_eq!(status(&[failed.clone(), timed_out]), 502);
        assert_eq!(status(&[failed, local]), 503);
        assert_eq!(status(&[]), 504);
    }

    #[test]
    fn a_spending_limit_is_told_when_no_offer_could_be_tried() {
        let over = ApiError::spending_limit("spending_limit_day", "the limit".into());
        assert_eq!(verdict("m", &[], Some(over.clone())), over);
        assert_eq!(verdict("m", &[Failure::Busy], Some(over)).status, 429);
    }
}
