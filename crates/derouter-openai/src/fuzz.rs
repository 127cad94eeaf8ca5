//! What a fuzzer and the corpus test run on each decoder: see `fuzz/` at the top of the repository.

use derouter_sdk::wire::fuzz::Target;
use derouter_sdk::wire::{UnixSeconds, cbor};
use futures::FutureExt;
use serde_json::Value;

use crate::consumer;
use crate::frames::{Json, ReadValueError, read_value};
use crate::protocol::{Epilogue, OfferPayload, Usage};
use crate::provider;

/// By the name of their folder in `fuzz/corpus`.
pub const TARGETS: &[Target] = &[
    ("openai_sse", sse),
    ("openai_job_values", job_values),
    ("openai_http_request", http_request),
    ("openai_messages_request", messages_request),
    ("openai_messages_answer", messages_answer),
    ("openai_job_args", job_args),
    ("openai_backend_answer", backend_answer),
    ("openai_offer_payload", offer_payload),
];

/// Server-sent events of a backend: the same however they are split.
pub fn sse(data: &[u8]) {
    provider::fuzz_sse(data);
}

/// The values of a job stream, as a provider writes them. Both readers see the same.
pub fn job_values(data: &[u8]) {
    let mut rest = data;
    let mut plainly = Vec::new();
    while let Some(Ok(value)) = read_value::<Value>(&mut rest).now_or_never() {
        let again = cbor::from_slice::<Value>(&cbor::to_vec(&Json(&value)));
        assert_eq!(again.as_ref(), Ok(&value));
        if let Ok(epilogue) = serde_json::from_value::<Epilogue>(value.clone()) {
            assert!(epilogue.completed_at_sync >= UnixSeconds(0));
        }
        plainly.push(value);
    }
    assert_eq!(consumer::fuzz_values(data), plainly);
    let mut whole = data;
    let read = read_value::<Epilogue>(&mut whole).now_or_never();
    if let Some(Ok(epilogue)) = read {
        let bytes = cbor::to_framed_vec(&epilogue);
        let mut written = bytes.as_slice();
        let again: Option<Result<Epilogue, ReadValueError>> =
            read_value(&mut written).now_or_never();
        let again = again.and_then(Result::ok);
        assert_eq!(again.as_ref(), Some(&epilogue));
    }
}

/// The body of a client's request to the gateway. The first byte chooses the endpoint.
pub fn http_request(data: &[u8]) {
    consumer::fuzz_request(data);
}

/// The body of a request to the Messages API.
pub fn messages_request(data: &[u8]) {
    consumer::fuzz_messages_request(data);
}

/// An answer that becomes one of the Messages API, plain or streamed: the same however it is split.
pub fn messages_answer(data: &[u8]) {
    let whole = consumer::fuzz_messages_answer(data, data.len());
    assert_eq!(consumer::fuzz_messages_answer(data, 7), whole);
}

/// The arguments of a job, as a consumer sends them, and what is asked of the backend then.
pub fn job_args(data: &[u8]) {
    provider::fuzz_job_args(data);
}

/// What a backend answers: chunks or a whole answer, and the usage in them.
pub fn backend_answer(data: &[u8]) {
    provider::fuzz_answer(data);
}

/// The payload of an offer.
pub fn offer_payload(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some(payload) = OfferPayload::parse(text) else {
        return;
    };
    assert_eq!(
        OfferPayload::parse(&payload.to_json()).as_ref(),
        Some(&payload)
    );
    let usage = Usage {
        prompt_tokens: u64::MAX,
        completion_tokens: 1,
    };
    if let Some(most) = payload.cost(&usage) {
        let less = payload.cost(&Usage::default());
        assert!(less.is_some_and(|less| less <= most));
    }
}
