//! Checks a provider's bill of `openai:0.2` before it is signed: it must be about what was asked, no
//! more than the answer itself said was used, and possible for what was seen. Pure.

use derouter_sdk::wire::limits::PUBLIC_PAYLOAD_BYTES;
use derouter_sdk::{UnixSeconds, Wei};
use sha2::{Digest, Sha256};

use crate::consumer::epilogue::CLOCK_TOLERANCE_SECONDS;
use crate::consumer::request::{Asked, Size, UNSEEN_TOKENS};
use crate::consumer::tokens::{Counted, Inflated};
use crate::estimate;
use crate::meter::Meter;
use crate::protocol::v0_2::{Epilogue, PublicPayload};
use crate::terms::{Metered, Terms};

/// Tokens of an answer that may be under way when its provider is told that another one was quicker: half a
/// second of a fast one. What it sends beyond that, it sends because it was told.
const LATE_TOKENS: u64 = 512;

/// What differs. Texts name fields and counts, never contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Violation {
    #[error("the public payload is not what the protocol says")]
    PublicPayload,
    #[error("the public payload has another {0} than was asked for")]
    Differs(&'static str),
    #[error("the answer has no end")]
    NoEnd,
    #[error("{0} wei are billed for an answer without any content")]
    NothingSeen(Wei),
    #[error("{billed} {what} are billed, and {most} is the most that they can be")]
    TooMany {
        what: &'static str,
        billed: u64,
        most: u64,
    },
    #[error(transparent)]
    Inflated(#[from] Inflated),
    #[error("{billed} wei are billed in place of {right}")]
    Balance { billed: Wei, right: Wei },
    #[error("{billed} wei are billed, more than the {reserved} set aside")]
    OverReserved { billed: Wei, reserved: Wei },
    #[error("the job is said to be completed at {0}, which is more than a day off")]
    CompletedAt(UnixSeconds),
    /// All else is right: its first event may have been that large before it was told.
    #[error(
        "{billed} output tokens are billed, and {most} had come when another provider was quicker"
    )]
    Late { billed: u64, most: u64 },
}

impl Violation {
    /// Whether it shows that the provider is not to be asked again for now.
    pub(crate) fn is_a_fault(&self) -> bool {
        !matches!(self, Self::Late { .. })
    }
}

/// What a bill is checked against.
pub(crate) struct Expected<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) terms: &'a Terms,
    pub(crate) meter: &'a Meter,
    /// The answer was a stream of events.
    pub(crate) events: bool,
    /// This side ended it.
    pub(crate) cancelled: bool,
    /// The most tokens that had come when another provider was quicker.
    pub(crate) had_come: Option<u64>,
    /// What the model's tokenizer allows, where one is named.
    pub(crate) counted: Counted,
    /// What was set aside; `None` for an own offer, which costs nothing.
    pub(crate) reserved: Option<Wei>,
    pub(crate) now: UnixSeconds,
}

impl Expected<'_> {
    /// Checks a bill. Returns what was used and what it comes to.
    pub(crate) fn check(&self, epilogue: &Epilogue) -> Result<(Metered, Wei), Violation> {
        if epilogue.public_payload.len() > PUBLIC_PAYLOAD_BYTES {
            return Err(Violation::PublicPayload);
        }
        let payload: PublicPayload =
            serde_json::from_str(&epilogue.public_payload).map_err(|_| Violation::PublicPayload)?;
        self.check_request(&payload)?;
        let used = Metered::from(payload.usage);
        if self.events && !self.cancelled && !self.meter.is_whole() {
            return Err(Violation::NoEnd);
        }
        if !self.cancelled {
            self.check_reported(&used)?;
        }
        self.check_possible(&used)?;
        let cost = self.check_balance(&used, epilogue.balance_delta)?;
        if epilogue.completed_at.0.abs_diff(self.now.0) > CLOCK_TOLERANCE_SECONDS {
            return Err(Violation::CompletedAt(epilogue.completed_at));
        }
        self.check_late(&used)?;
        Ok((used, cost))
    }

    /// No more than can have been under way when another provider was quicker. The last of the checks.
    fn check_late(&self, used: &Metered) -> Result<(), Violation> {
        let Some(had_come) = self.had_come else {
            return Ok(());
        };
        let (billed, most) = (used.output, had_come.saturating_add(LATE_TOKENS));
        match billed <= most {
            true => Ok(()),
            false => Err(Violation::Late { billed, most }),
        }
    }

    fn check_request(&self, payload: &PublicPayload) -> Result<(), Violation> {
        if payload.path != self.asked.endpoint.path() {
            return Err(Violation::Differs("endpoint"));
        }
        if payload.model != self.asked.model {
            return Err(Violation::Differs("model"));
        }
        if payload.request_sha256 != hex::encode(Sha256::digest(&self.asked.body)) {
            return Err(Violation::Differs("request"));
        }
        if payload.cancelled && !self.cancelled {
            return Err(Violation::Differs("end"));
        }
        Ok(())
    }

    /// No more than the answer itself said: both sides have read it.
    fn check_reported(&self, used: &Metered) -> Result<(), Violation> {
        let Some(said) = self.meter.reported() else {
            return Ok(());
        };
        at_most("input tokens", used.input, said.input)?;
        at_most("output tokens", used.output, said.output)?;
        let cached = said.cached_input.min(used.input);
        let fresh = used.input.saturating_sub(used.cached_input);
        at_most(
            "fresh input tokens",
            fresh,
            used.input.saturating_sub(cached),
        )
    }

    /// No more than the request and what was seen of the answer can have come to.
    fn check_possible(&self, used: &Metered) -> Result<(), Violation> {
        let size = &self.asked.size;
        let most = size.most_metered(self.terms);
        at_most("input tokens", used.input, most.input)?;
        at_most("cached input tokens", used.cached_input, used.input)?;
        at_most("output tokens", used.output, most.output)?;
        at_most("output tokens", used.output, most_output(self.meter, size))?;
        let hidden = size.most_hidden(self.meter.reasoning_tokens());
        self.counted.check(used.input, used.output, hidden)?;
        at_most("images", used.images, self.meter.images().min(most.images))?;
        let seconds = match self.meter.seconds() {
            0 => most.seconds,
            told => told.min(most.seconds),
        };
        at_most("seconds", used.seconds, seconds)
    }

    fn check_balance(&self, used: &Metered, billed: Option<Wei>) -> Result<Wei, Violation> {
        let billed = billed.unwrap_or(Wei::ZERO);
        let right = self.terms.prices.cost(used).unwrap_or(Wei::MAX);
        // Nothing is always right: it may be a trial.
        if billed != right && !billed.is_zero() {
            return Err(Violation::Balance { billed, right });
        }
        // An answer that shows nothing is worth nothing, whatever went on behind it.
        if !billed.is_zero() && !self.meter.says_something() {
            return Err(Violation::NothingSeen(billed));
        }
        match self.reserved {
            Some(reserved) if billed > reserved => {
                Err(Violation::OverReserved { billed, reserved })
            }
            _ => Ok(billed),
        }
    }
}

/// The most tokens of answers that can have led to what was seen.
pub(super) fn most_output(meter: &Meter, size: &Size) -> u64 {
    estimate::with_tolerance(meter.most_tokens())
        .saturating_add(UNSEEN_TOKENS.saturating_mul(size.answers))
        .saturating_add(size.most_hidden(meter.reasoning_tokens()))
}

fn at_most(what: &'static str, billed: u64, most: u64) -> Result<(), Violation> {
    match billed <= most {
        true => Ok(()),
        false => Err(Violation::TooMany { what, billed, most }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::protocol;
    use crate::protocol::v0_2::OfferPayload;
    use crate::terms::Endpoint;

    const NOW: UnixSeconds = UnixSeconds(1_750_000_000);

    struct Case {
        asked: Asked,
        terms: Terms,
        meter: Meter,
        cancelled: bool,
        had_come: Option<u64>,
        counted: Counted,
        reserved: Option<Wei>,
    }

    impl Case {
        fn new(text: &str, usage: Option<Value>) -> Self {
            let request = json!({"model": "m", "stream": true,
                "messages": [{"role": "user", "content": "How are you today?"}]});
            let body = request.to_string();
            let asked = Asked::parse(protocol::Endpoint::Chat, body.as_bytes()).unwrap();
            let offer = r#"{"models":["m"],"endpoints":["chat/completions"],"context":8192,
                "prices":{"input":"10","cached_input":"1","output":"100"}}"#;
            let mut meter = Meter::default();
            meter.event(Endpoint::Chat, &json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}));
            if let Some(usage) = usage {
                meter.event(Endpoint::Chat, &json!({"choices": [], "usage": usage}));
            }
            Self {
                asked,
                terms: OfferPayload::parse(offer).unwrap().terms(),
                meter,
                cancelled: false,
                had_come: None,
                counted: Counted::default(),
                reserved: Some(Wei::MAX),
            }
        }

        fn bill(&self, input: u64, cached_input: u64, output: u64) -> (PublicPayload, Epilogue) {
            let used = Metered {
                input,
                cached_input,
                output,
                ..Metered::default()
            };
            let payload = PublicPayload {
                path: "chat/completions".into(),
                model: "m".into(),
                request_sha256: hex::encode(Sha256::digest(&self.asked.body)),
                cancelled: false,
                usage: used.into(),
            };
            let epilogue = Epilogue {
                public_payload: serde_json::to_string(&payload).unwrap(),
                balance_delta: self.terms.prices.cost(&used),
                completed_at: NOW,
            };
            (payload, epilogue)
        }

        fn check(&self, epilogue: &Epilogue) -> Result<Wei, Violation> {
            let expected = Expected {
                asked: &self.asked,
                terms: &self.terms,
                meter: &self.meter,
                events: true,
                cancelled: self.cancelled,
                had_come: self.had_come,
                counted: self.counted,
                reserved: self.reserved,
                now: NOW,
            };
            expected.check(epilogue).map(|(_, cost)| cost)
        }

        fn with(&self, change: impl FnOnce(&mut PublicPayload)) -> Result<Wei, Violation> {
            let (mut payload, mut epilogue) = self.bill(9, 0, 3);
            change(&mut payload);
            epilogue.public_payload = serde_json::to_string(&payload).unwrap();
            self.check(&epilogue)
        }
    }

    fn honest() -> Case {
        let usage = json!({"prompt_tokens": 9, "completion_tokens": 3});
        Case::new("Fine, thanks.", Some(usage))
    }

    #[test]
    fn an_honest_bill_is_signed() {
        let case = honest();
        assert_eq!(case.check(&case.bill(9, 0, 3).1), Ok(Wei::from_wei(390)));
        // Less than was said is the provider's own affair.
        assert!(case.check(&case.bill(5, 5, 0).1).is_ok());
    }

    #[test]
    fn a_bill_for_more_than_the_answer_said_is_not() {
        let case = honest();
        for (input, output) in [(10, 3), (9, 4)] {
            let refused = case.check(&case.bill(input, 0, output).1);
            assert!(
                matches!(refused, Err(Violation::TooMany { .. })),
                "{refused:?}"
            );
        }
        let usage = json!({"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}});
        let case = Case::new("Fine, thanks.", Some(usage));
        assert!(
            case.check(&case.bill(9, 3, 3).1).is_err(),
            "cached tokens at the full price"
        );
        assert!(case.check(&case.bill(9, 4, 3).1).is_ok());
    }

    #[test]
    fn what_the_answer_says_must_be_possible() {
        let inflated = json!({"prompt_tokens": 5_000, "completion_tokens": 3});
        let case = Case::new("Fine, thanks.", Some(inflated));
        assert!(case.check(&case.bill(5_000, 0, 3).1).is_err());
        let inflated = json!({"prompt_tokens": 9, "completion_tokens": 1_000});
        let case = Case::new("Fine, thanks.", Some(inflated));
        assert!(case.check(&case.bill(9, 0, 1_000).1).is_err());
        let reasoned = json!({"prompt_tokens": 9, "completion_tokens": 1_000,
            "completion_tokens_details": {"reasoning_tokens": 990}});
        let case = Case::new("Fine, thanks.", Some(reasoned));
        assert!(case.check(&case.bill(9, 0, 1_000).1).is_ok());
    }

    #[test]
    fn nothing_is_paid_for_nothing() {
        let usage = json!({"prompt_tokens": 9, "completion_tokens": 3});
        let case = Case::new("", Some(usage));
        let refused = case.check(&case.bill(9, 0, 3).1);
        assert_eq!(refused, Err(Violation::NothingSeen(Wei::from_wei(390))));
        assert!(case.check(&case.bill(0, 0, 0).1).is_ok());
    }

    #[test]
    fn a_bill_is_about_what_was_asked() {
        let case = honest();
        let differs = |what| Err(Violation::Differs(what));
        assert_eq!(case.with(|p| p.model = "other".into()), differs("model"));
        assert_eq!(
            case.with(|p| p.path = "completions".into()),
            differs("endpoint")
        );
        assert_eq!(case.with(|p| p.request_sha256.clear()), differs("request"));
        assert_eq!(case.with(|p| p.cancelled = true), differs("end"));
        let (_, mut epilogue) = case.bill(9, 0, 3);
        epilogue.public_payload = "{".into();
        assert_eq!(case.check(&epilogue), Err(Violation::PublicPayload));
    }

    #[test]
    fn sums_and_times_are_checked() {
        let case = honest();
        let (_, mut epilogue) = case.bill(9, 0, 3);
        epilogue.balance_delta = Some(Wei::from_wei(391));
        assert!(matches!(
            case.check(&epilogue),
            Err(Violation::Balance { .. })
        ));
        let (_, mut epilogue) = case.bill(9, 0, 3);
        epilogue.completed_at = UnixSeconds(0);
        assert!(matches!(
            case.check(&epilogue),
            Err(Violation::CompletedAt(_))
        ));
        let limited = Case {
            reserved: Some(Wei::from_wei(389)),
            ..honest()
        };
        let refused = limited.check(&limited.bill(9, 0, 3).1);
        assert!(matches!(refused, Err(Violation::OverReserved { .. })));
    }

    #[test]
    fn an_answer_that_was_ended_early_is_paid_as_far_as_it_came() {
        let mut case = Case::new("Fine, thanks.", None);
        case.cancelled = true;
        assert!(case.check(&case.bill(12, 0, 4).1).is_ok());
        assert!(case.check(&case.bill(12, 0, 400).1).is_err());
        let unended = Meter::default();
        let case = Case {
            meter: unended,
            cancelled: false,
            ..honest()
        };
        assert_eq!(case.check(&case.bill(9, 0, 3).1), Err(Violation::NoEnd));
    }
    #[test]
    fn a_provider_that_lost_is_paid_what_can_have_been_under_way() {
        let text = "many words ".repeat(2000);
        let reasoned = json!({"prompt_tokens": 9, "completion_tokens": 4_000,
            "completion_tokens_details": {"reasoning_tokens": 30_000}});
        let mut case = Case::new(&text, Some(reasoned));
        case.cancelled = true;
        assert!(case.check(&case.bill(12, 0, 4_000).1).is_ok());
        case.had_come = Some(0);
        assert!(case.check(&case.bill(12, 0, LATE_TOKENS).1).is_ok());
        let late = case.check(&case.bill(12, 0, LATE_TOKENS + 1).1);
        let most = LATE_TOKENS;
        let billed = LATE_TOKENS + 1;
        assert_eq!(late, Err(Violation::Late { billed, most }));
        assert!(!Violation::Late { billed, most }.is_a_fault());
        // With anything else that is wrong it is a fault.
        let mut wrong = case.bill(12, 0, LATE_TOKENS + 1).1;
        wrong.completed_at = UnixSeconds(0);
        assert!(case.check(&wrong).unwrap_err().is_a_fault());
        let inflated = case.bill(12, 0, 1_000_000).1;
        assert!(case.check(&inflated).unwrap_err().is_a_fault());
        case.had_come = Some(100);
        assert!(case.check(&case.bill(12, 0, LATE_TOKENS + 100).1).is_ok());
    }
    #[test]
    fn a_bill_over_the_tokenizers_count_is_inflated_though_it_may_be_possible() {
        let usage = json!({"prompt_tokens": 12, "completion_tokens": 9});
        let mut case = Case::new("Fine, thanks. And how are you?", Some(usage));
        assert!(case.check(&case.bill(12, 0, 9).1).is_ok());
        case.counted = Counted {
            input: Some(12),
            output: Some(8),
        };
        assert!(case.check(&case.bill(12, 0, 8).1).is_ok());
        let inflated = case.check(&case.bill(12, 0, 9).1);
        assert!(
            matches!(inflated, Err(Violation::Inflated(_))),
            "{inflated:?}"
        );
        case.counted.input = Some(11);
        assert!(case.check(&case.bill(12, 0, 8).1).is_err());
        case.counted = Counted::default();
        assert!(
            case.check(&case.bill(12, 0, 9).1).is_ok(),
            "too long to be counted"
        );
    }
}
