//! What a fuzzer and the corpus test run on each decoder: see `fuzz/` at the top of the repository.

use derouter_sdk::wire::fuzz::Target;
use derouter_sdk::wire::{UnixSeconds, cbor};
use futures::FutureExt;
use serde_json::Value;

use crate::consumer;
use crate::frames::{Json, ReadValueError, read_value};
use crate::meter::Meter;
use crate::protocol::v0_2::frames::{Frame, FrameReader};
use crate::protocol::v0_2::{self, Body, RequestHead};
use crate::protocol::{Epilogue, OfferPayload, Usage};
use crate::provider;
use crate::sse::Splitter;
use crate::terms::{Endpoint, Metered};

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
    ("openai_frames", frames),
    ("openai_request_head", request_head),
    ("openai_offer_0_2", offer_0_2),
    ("openai_answer_events", answer_events),
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

/// The frames of an answer of `openai:0.2`: what is taken is written the same again.
pub fn frames(data: &[u8]) {
    let mut reader = FrameReader::new(data);
    while let Some(Ok(frame)) = reader.next().now_or_never() {
        let mut bytes = bytes::BytesMut::new();
        match &frame {
            Frame::Head(head) => bytes.extend_from_slice(&Frame::head(head)),
            Frame::Data(data) if data.is_empty() => continue,
            Frame::Data(data) => Frame::put_data(data, &mut bytes),
            Frame::Epilogue(epilogue) => bytes.extend_from_slice(&Frame::epilogue(epilogue)),
            Frame::Failed(failed) => bytes.extend_from_slice(&Frame::failed(failed)),
        }
        let again = FrameReader::new(&bytes[..]).next().now_or_never();
        assert_eq!(again.and_then(Result::ok), Some(frame));
    }
}

/// The arguments of a job of `openai:0.2`.
pub fn request_head(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok((head, body)) = RequestHead::parse(text) else {
        return;
    };
    assert!(head.body_bytes <= v0_2::MAX_BODY_BYTES);
    let Body::Here(body) = body else { return };
    let again = head.to_args(body.as_bytes());
    assert_eq!(RequestHead::parse(&again), Ok((head, Body::Here(body))));
}

/// The payload of an offer of `openai:0.2`.
pub fn offer_0_2(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some(payload) = v0_2::OfferPayload::parse(text) else {
        return;
    };
    let again = v0_2::OfferPayload::parse(&payload.to_json());
    assert_eq!(again.as_ref(), Some(&payload));
    let terms = payload.terms();
    assert!(!terms.models.is_empty() && !terms.endpoints.is_empty());
    let used = Metered {
        input: u64::MAX,
        cached_input: 1,
        output: u64::MAX,
        images: 1,
        seconds: 1,
    };
    let nothing = terms.prices.cost(&Metered::default());
    if let Some(most) = terms.prices.cost(&used) {
        assert!(nothing.is_some_and(|least| least <= most));
    }
}

/// The events of an answer, or all of it, counted. The first byte chooses the endpoint.
pub fn answer_events(data: &[u8]) {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let endpoint = Endpoint::ALL.get(usize::from(*first) % Endpoint::ALL.len());
    let (mut events, mut meter) = (Splitter::default(), Meter::default());
    events.push(body);
    while let Ok(Some(event)) = events.next() {
        let value = serde_json::from_slice::<Value>(&event.data());
        if let (Ok(value), Some(endpoint)) = (value, endpoint) {
            meter.event(*endpoint, &value);
        }
    }
    if let (Ok(value), Some(endpoint)) = (serde_json::from_slice(body), endpoint) {
        meter.body(*endpoint, &value);
    }
    if let Some(used) = meter.reported() {
        assert!(used.cached_input <= used.input);
    }
}
