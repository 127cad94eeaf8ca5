//! Checks a provider's bill before it is signed: it must be about what was asked and what was
//! seen, its sum must be the offer's prices times the usage, and the usage must be possible. Pure.

use derouter_sdk::wire::limits::PUBLIC_PAYLOAD_BYTES;
use derouter_sdk::{UnixSeconds, Wei};
use serde_json::{Map, Value};

use super::request::{Asked, UNSEEN_TOKENS};
use super::tally::Tally;
use super::tokens::{Counted, Inflated};
use crate::protocol::{EPILOGUE_OBJECT, Endpoint, Epilogue, OfferPayload, Usage};

/// How far a provider's clock may be off. Time zones taken for UTC are within it.
pub(super) const CLOCK_TOLERANCE_SECONDS: u64 = 24 * 60 * 60;

/// What differs. Texts name fields and counts, never contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Violation {
    #[error("the epilogue's object is not {EPILOGUE_OBJECT}")]
    Object,
    #[error("the public payload is not what the protocol says")]
    PublicPayload,
    #[error("the public payload has another {0} than was asked for")]
    RequestField(String),
    #[error("the answer had no usage")]
    NoUsage,
    #[error("the answer has no end")]
    NoEnd,
    #[error("{billed} completion tokens are billed for an answer without any content")]
    NothingSeen { billed: u64 },
    #[error("the public payload's usage is not the one that was seen: {0} differs")]
    Usage(String),
    #[error("{billed} prompt tokens are billed, and the request can have {most} at most")]
    PromptTokens { billed: u64, most: u64 },
    #[error("{billed} completion tokens are billed, and the request allows {most}")]
    CompletionTokens { billed: u64, most: u64 },
    #[error("{billed} completion tokens are billed for {bytes} bytes of text")]
    UnseenTokens { billed: u64, bytes: u64 },
    #[error(transparent)]
    Inflated(#[from] Inflated),
    #[error("{billed} wei are billed in place of {right}")]
    Balance { billed: Wei, right: Wei },
    #[error("{billed} wei are billed, more than the {reserved} set aside")]
    OverReserved { billed: Wei, reserved: Wei },
    #[error("the job is said to be completed at {0}, which is more than a day off")]
    CompletedAt(UnixSeconds),
}

/// What a bill is checked against.
#[derive(Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) offer: &'a OfferPayload,
    pub(crate) tally: &'a Tally,
    /// What the model's tokenizer allows, where one is named.
    pub(crate) counted: Counted,
    /// What was set aside; `None` for an own offer, which costs nothing.
    pub(crate) reserved: Option<Wei>,
    pub(crate) now: UnixSeconds,
}

impl Expected<'_> {
    /// Checks a bill. Returns what it comes to.
    pub(crate) fn check(&self, epilogue: &Epilogue) -> Result<Wei, Violation> {
        if epilogue.object.as_deref().unwrap_or(EPILOGUE_OBJECT) != EPILOGUE_OBJECT {
            return Err(Violation::Object);
        }
        let seen = self.tally.usage().ok_or(Violation::NoUsage)?;
        self.check_public_payload(&epilogue.public_payload, seen)?;
        let usage = Usage::from_json(seen).ok_or(Violation::NoUsage)?;
        if !self.tally.ended() {
            return Err(Violation::NoEnd);
        }
        self.check_usage(&usage, reasoning_tokens(seen))?;
        let cost = self.check_balance(&usage, epilogue.balance_delta)?;
        let completed_at = epilogue.completed_at_sync;
        if completed_at.0.abs_diff(self.now.0) > CLOCK_TOLERANCE_SECONDS {
            return Err(Violation::CompletedAt(completed_at));
        }
        Ok(cost)
    }

    fn check_public_payload(&self, payload: &str, seen: &Value) -> Result<(), Violation> {
        if payload.len() > PUBLIC_PAYLOAD_BYTES {
            return Err(Violation::PublicPayload);
        }
        let payload: Value = serde_json::from_str(payload).map_err(|_| Violation::PublicPayload)?;
        let request = payload.get("request").and_then(Value::as_object);
        let usage = payload.get("response").and_then(|v| v.get("usage"));
        let (Some(request), Some(usage)) = (request, usage) else {
            return Err(Violation::PublicPayload);
        };
        self.check_request_fields(request)?;
        same_usage(seen, usage)
    }

    /// Every signed field that was asked for is repeated, and nothing is that was not asked for.
    fn check_request_fields(&self, signed: &Map<String, Value>) -> Result<(), Violation> {
        let asked = &self.asked.fields;
        let wanted: Vec<&str> = Endpoint::of(asked).signed_fields().collect();
        let repeated = signed.keys().map(String::as_str);
        for field in repeated.chain(wanted) {
            if !same(asked.get(field), signed.get(field)) {
                let name = field.chars().take(64).collect();
                return Err(Violation::RequestField(name));
            }
        }
        Ok(())
    }

    /// `reasoning` is how much of the answer the provider says was thought and not shown.
    fn check_usage(&self, usage: &Usage, reasoning: u64) -> Result<(), Violation> {
        let size = &self.asked.size;
        let most = size.most(self.offer.context_size);
        if usage.prompt_tokens > most.prompt_tokens {
            return Err(Violation::PromptTokens {
                billed: usage.prompt_tokens,
                most: most.prompt_tokens,
            });
        }
        let billed = usage.completion_tokens;
        if billed > most.completion_tokens {
            return Err(Violation::CompletionTokens {
                billed,
                most: most.completion_tokens,
            });
        }
        let bytes = self.tally.generated_bytes();
        // An answer that shows nothing is worth nothing, whatever went on behind it.
        if billed > 0 && bytes == 0 {
            return Err(Violation::NothingSeen { billed });
        }
        let seen = bytes.saturating_add(UNSEEN_TOKENS.saturating_mul(size.answers));
        let hidden = size.most_hidden(reasoning);
        if billed > seen.saturating_add(hidden) {
            return Err(Violation::UnseenTokens { billed, bytes });
        }
        self.counted.check(usage.prompt_tokens, billed, hidden)?;
        Ok(())
    }

    fn check_balance(&self, usage: &Usage, billed: Option<Wei>) -> Result<Wei, Violation> {
        let billed = billed.unwrap_or(Wei::ZERO);
        let right = self.offer.cost(usage).unwrap_or(Wei::MAX);
        let is_free_trial = billed.is_zero() && self.offer.trial.is_some();
        if billed != right && !is_free_trial {
            return Err(Violation::Balance { billed, right });
        }
        match self.reserved {
            Some(reserved) if billed > reserved => {
                Err(Violation::OverReserved { billed, reserved })
            }
            _ => Ok(billed),
        }
    }
}

/// The reasoning that a usage object reports; 0 when it reports none.
fn reasoning_tokens(usage: &Value) -> u64 {
    let details = usage.get("completion_tokens_details");
    let reasoning = details.and_then(|details| details.get("reasoning_tokens"));
    reasoning.and_then(Value::as_u64).unwrap_or(0)
}

/// The counts must be the same; details may be missing on one side, as 0.1 modules leave some out.
fn same_usage(seen: &Value, signed: &Value) -> Result<(), Violation> {
    let differs = |field: &str| Violation::Usage(field.chars().take(64).collect());
    for field in ["prompt_tokens", "completion_tokens"] {
        if !same(seen.get(field), signed.get(field)) {
            return Err(differs(field));
        }
    }
    let signed = signed.as_object().ok_or_else(|| differs("all of it"))?;
    for (field, value) in signed {
        let other = seen.get(field).filter(|value| !value.is_null());
        if !value.is_null() && other.is_some() && !same(other, Some(value)) {
            return Err(differs(field));
        }
    }
    Ok(())
}

/// Whether two JSON values mean the same: null is like absent, and 1 is like 1.0.
fn same(one: Option<&Value>, other: Option<&Value>) -> bool {
    let one = one.unwrap_or(&Value::Null);
    let other = other.unwrap_or(&Value::Null);
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => one
            .keys()
            .chain(other.keys())
            .all(|key| same(one.get(key), other.get(key))),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| same(Some(one), Some(other)))
        }
        (Value::Number(one), Value::Number(other)) => one == other || same_float(one, other),
        _ => one == other,
    }
}

/// Equal up to the last digit, in which readers of decimal texts differ. Whole numbers are
/// compared exactly where a float holds them exactly.
fn same_float(one: &serde_json::Number, other: &serde_json::Number) -> bool {
    let (Some(one), Some(other)) = (one.as_f64(), other.as_f64()) else {
        return false;
    };
    (one - other).abs() <= f64::EPSILON * one.abs().max(other.abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::request::HIDDEN_TOKENS;
    use crate::protocol::public_payload;
    use serde_json::json;

    const NOW: UnixSeconds = UnixSeconds(1_750_000_000);

    struct Case {
        asked: Asked,
        offer: OfferPayload,
        tally: Tally,
        epilogue: Epilogue,
    }

    impl Case {
        /// An honest bill for `text` as the answer to `request`.
        fn new(request: &Value, text: &str, usage: &Value) -> Self {
            let endpoint = Endpoint::of(request.as_object().unwrap());
            let asked = Asked::parse(endpoint, request.to_string().as_bytes()).unwrap();
            let offer = OfferPayload::parse(r#"{"model_id":"m","context_size":8192,"input_token_price":{"$pol":"10000000"},"output_token_price":{"$pol":"5000000"}}"#).unwrap();
            let mut tally = Tally::default();
            tally.count(&json!({"choices": [{"delta": {"content": text}}], "usage": usage}));
            let cost = Usage::from_json(usage).and_then(|usage| offer.cost(&usage));
            let epilogue = Epilogue {
                object: None,
                public_payload: public_payload(&asked.fields, usage),
                balance_delta: cost,
                completed_at_sync: NOW,
            };
            Self {
                asked,
                offer,
                tally,
                epilogue,
            }
        }

        fn check(&self) -> Result<Wei, Violation> {
            let expected = Expected {
                counted: Counted::default(),
                asked: &self.asked,
                offer: &self.offer,
                tally: &self.tally,
                reserved: Some(
                    self.asked
                        .size
                        .most_cost(&crate::terms::Terms::of_0_1(&self.offer)),
                ),
                now: NOW,
            };
            expected.check(&self.epilogue)
        }

        fn with_payload(mut self, change: impl FnOnce(&mut Value)) -> Self {
            let mut payload = serde_json::from_str(&self.epilogue.public_payload).unwrap();
            change(&mut payload);
            self.epilogue.public_payload = payload.to_string();
            self
        }
    }

    fn usage(prompt: u64, completion: u64) -> Value {
        Usage {
            prompt_tokens: prompt,
            completion_tokens: completion,
        }
        .to_json()
    }

    fn request() -> Value {
        json!({"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.7, "stream": true, "top_p": null, "seed": 1})
    }

    fn honest() -> Case {
        Case::new(&request(), "hello you", &usage(10, 3))
    }

    #[test]
    fn an_honest_bill_passes() {
        assert_eq!(honest().check(), Ok(Wei::from_wei(115)));
        let mut streamed = honest();
        streamed.epilogue.object = Some(EPILOGUE_OBJECT.into());
        assert!(streamed.check().is_ok());
    }

    #[test]
    fn another_way_of_writing_the_same_passes() {
        let case = honest().with_payload(|payload| {
            payload["request"] =
                json!({"stream": true, "temperature": 0.700_000_000_000_000_1, "model": "m"});
            payload["response"]["usage"]["prompt_tokens"] = json!(10.0);
            payload["response"]["usage"]["prompt_tokens_details"] = Value::Null;
        });
        assert!(case.check().is_ok());
    }

    #[test]
    fn a_free_job_may_say_nothing_or_zero() {
        let mut case = honest();
        case.offer.input_token_price.wei = Wei::ZERO;
        case.offer.output_token_price.wei = Wei::ZERO;
        for balance in [None, Some(Wei::ZERO)] {
            case.epilogue.balance_delta = balance;
            assert_eq!(case.check(), Ok(Wei::ZERO));
        }
    }

    #[test]
    fn changed_added_and_missing_request_fields_are_seen() {
        let field = |change: fn(&mut Value)| honest().with_payload(change).check().unwrap_err();
        let violation = |name: &str| Violation::RequestField(name.into());
        assert_eq!(
            field(|p| p["request"]["model"] = json!("n")),
            violation("model")
        );
        assert_eq!(field(|p| p["request"]["n"] = json!(2)), violation("n"));
        assert_eq!(
            field(|p| p["request"]["extra"] = json!(2)),
            violation("extra")
        );
        let removed = field(|p| {
            p["request"].as_object_mut().unwrap().remove("temperature");
        });
        assert_eq!(removed, violation("temperature"));
        assert_eq!(field(|p| *p = json!([])), Violation::PublicPayload);
    }

    #[test]
    fn a_bill_for_other_usage_than_was_seen_is_refused() {
        let case = honest().with_payload(|p| p["response"]["usage"] = usage(10, 4));
        assert_eq!(
            case.check(),
            Err(Violation::Usage("completion_tokens".into()))
        );
        let case = honest().with_payload(|p| {
            p["response"]["usage"]["total_tokens"] = json!(99);
        });
        assert_eq!(case.check(), Err(Violation::Usage("total_tokens".into())));
        let case = honest().with_payload(|p| {
            p["response"].as_object_mut().unwrap().remove("usage");
        });
        assert_eq!(case.check(), Err(Violation::PublicPayload));
    }

    #[test]
    fn one_wei_more_or_less_is_refused() {
        for wei in [114, 116] {
            let mut case = honest();
            case.epilogue.balance_delta = Some(Wei::from_wei(wei));
            assert!(matches!(case.check(), Err(Violation::Balance { .. })));
        }
        let mut nothing = honest();
        nothing.epilogue.balance_delta = None;
        assert!(matches!(nothing.check(), Err(Violation::Balance { .. })));
    }

    #[test]
    fn more_tokens_than_there_can_be_are_refused() {
        let case = Case::new(&request(), "hello", &usage(10, 262));
        assert_eq!(
            case.check(),
            Err(Violation::UnseenTokens {
                billed: 262,
                bytes: 5
            })
        );
        let case = Case::new(&request(), "hello", &usage(5000, 2));
        assert!(matches!(
            case.check(),
            Err(Violation::PromptTokens { billed: 5000, .. })
        ));
        let limited = json!({"model": "m", "messages": [], "max_tokens": 5});
        let case = Case::new(&limited, "a long enough answer", &usage(1, 6));
        assert_eq!(
            case.check(),
            Err(Violation::CompletionTokens { billed: 6, most: 5 })
        );
    }

    #[test]
    fn hidden_reasoning_is_paid_only_when_it_was_asked_for() {
        let reasoning = json!({"model": "m", "messages": [], "reasoning_effort": "high"});
        assert!(
            Case::new(&reasoning, "hi", &usage(10, 2000))
                .check()
                .is_ok()
        );
        let limited = json!({"model": "m", "messages": [], "max_completion_tokens": 2000});
        assert!(Case::new(&limited, "hi", &usage(10, 2000)).check().is_ok());
        let over = Case::new(&limited, "hi", &usage(10, 2001)).check();
        assert!(matches!(over, Err(Violation::CompletionTokens { .. })));
    }

    #[test]
    fn hidden_reasoning_without_a_limit_of_the_client_is_paid_up_to_a_cap() {
        let with = |request: &Value, billed: u64, reasoning: u64| {
            let mut usage = usage(10, billed);
            usage["completion_tokens_details"] = json!({"reasoning_tokens": reasoning});
            let mut case = Case::new(request, "hi", &usage);
            case.offer.context_size = 1_000_000;
            case.check()
        };
        let plain = json!({"model": "m", "messages": []});
        assert!(with(&plain, 2_258, 2_000).is_ok(), "it was reported");
        let unreported = with(&plain, 2_259, 2_000);
        assert!(matches!(unreported, Err(Violation::UnseenTokens { .. })));
        let most = HIDDEN_TOKENS + UNSEEN_TOKENS + 2;
        let effort = json!({"model": "m", "messages": [], "reasoning_effort": "high"});
        for request in [plain, effort] {
            assert!(with(&request, most, most).is_ok());
            let over = with(&request, most + 1, most + 1);
            assert!(matches!(over, Err(Violation::UnseenTokens { .. })));
        }
        let limited = json!({"model": "m", "messages": [], "max_tokens": 50_000});
        assert!(with(&limited, 50_000, 50_000).is_ok());
    }

    #[test]
    fn nothing_is_paid_for_an_answer_without_content_or_end() {
        let check = |chunk: Value, completion: u64| {
            let usage = usage(10, completion);
            let mut case = Case::new(&request(), "", &usage);
            case.tally = Tally::default();
            case.tally.count(&chunk);
            case.tally.count(&json!({"choices": [], "usage": usage}));
            case.check()
        };
        let choice = |text: &str, reason: Value| json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]});
        assert_eq!(check(json!({"choices": []}), 0), Err(Violation::NoEnd));
        assert_eq!(check(choice("", Value::Null), 0), Err(Violation::NoEnd));
        let nothing = check(choice("", json!("stop")), 3);
        assert_eq!(nothing, Err(Violation::NothingSeen { billed: 3 }));
        assert!(check(choice("", json!("stop")), 0).is_ok());
        assert!(check(choice("hello", Value::Null), 3).is_ok());
    }

    #[test]
    fn a_bill_over_what_was_set_aside_is_refused() {
        let case = honest();
        let expected = Expected {
            counted: Counted::default(),
            asked: &case.asked,
            offer: &case.offer,
            tally: &case.tally,
            reserved: Some(Wei::from_wei(114)),
            now: NOW,
        };
        let refused = expected.check(&case.epilogue);
        assert!(matches!(refused, Err(Violation::OverReserved { .. })));
    }

    #[test]
    fn no_usage_a_strange_object_or_time_is_refused() {
        let mut case = honest();
        case.tally = Tally::default();
        assert_eq!(case.check(), Err(Violation::NoUsage));
        let mut case = honest();
        case.epilogue.object = Some("chat.completion.chunk".into());
        assert_eq!(case.check(), Err(Violation::Object));
        for seconds in [0, NOW.0 + 90_000, u64::MAX] {
            let mut case = honest();
            case.epilogue.completed_at_sync = UnixSeconds(seconds);
            assert!(matches!(case.check(), Err(Violation::CompletedAt(_))));
        }
    }

    #[test]
    fn the_recorded_0_1_bill_passes() {
        let request = json!({"model": "mock", "messages": [], "stream": true});
        let usage = usage(10, 100);
        let mut case = Case::new(&request, "hello", &usage);
        case.offer.input_token_price.wei = Wei::from_wei(10_u128.pow(19));
        case.offer.output_token_price.wei = Wei::from_wei(5 * 10_u128.pow(18));
        case.epilogue = serde_json::from_value(json!({"object":"derouter.epilogue","balance_delta":"600000000000000","public_payload":"{\"request\":{\"model\":\"mock\",\"stream\":true},\"response\":{\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":100,\"total_tokens\":110}}}","completed_at_sync":1_750_000_005})).unwrap();
        assert_eq!(case.check(), Ok(Wei::from_wei(600_000_000_000_000)));
    }
}
