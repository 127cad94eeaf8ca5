//! What a consumer gets, and what it owes for it.

use derouter_openai::protocol::{Endpoint, OfferPayload, Prologue, Usage, public_payload};
use derouter_openai::provider::{BackendCheck, Limits, ProviderConfig, start_echo_backend};
use derouter_sdk::Wei;
use derouter_testkit::backend::answer;
use derouter_testkit::{Backend, Outcome};
use serde_json::{Value, json};

use super::provider_support::{
    Bought, COMPLETED_AT, MODEL, Market, RawBackend, chat, config, faulty, offer, read_all,
};

/// Checks that job, epilogue and answer say the same, as a 0.1 consumer does before it signs.
async fn check_bill(market: &Market, request: &Value, key: &derouter_sdk::JobKey, bought: &Bought) {
    assert_eq!(bought.prologue, Prologue::Ok);
    let usage = &bought.answer().last().unwrap()["usage"];
    let counts = Usage::from_json(usage).unwrap();
    let payload = OfferPayload::parse(&market.offers().unwrap().0[0].protocol_payload).unwrap();
    let completion = market.completion(key).await;
    assert_eq!(completion.balance_delta, payload.cost(&counts));
    assert_eq!(completion.private_payload, None);
    let expected = public_payload(request.as_object().unwrap(), usage);
    assert_eq!(completion.public_payload, expected);

    let epilogue = bought.epilogue().unwrap();
    let streamed = request["stream"] == true;
    assert_eq!(epilogue.object.is_some(), streamed);
    assert_eq!(epilogue.public_payload, completion.public_payload);
    assert_eq!(epilogue.balance_delta, completion.balance_delta);
    assert_eq!(epilogue.completed_at_sync, COMPLETED_AT);
}

fn streamed_text(answer: &[Value]) -> String {
    let deltas = answer.iter().filter_map(|chunk| {
        let choice = chunk["choices"].get(0)?;
        choice["delta"]["content"]
            .as_str()
            .or(choice["text"].as_str())
    });
    deltas.collect()
}

#[tokio::test]
async fn a_streamed_chat_comes_chunk_by_chunk_and_is_billed() {
    let market = Market::open().await;
    let request = chat(true);
    let (key, bought) = market.buy(&request).await;
    check_bill(&market, &request, &key, &bought).await;
    let answer = bought.answer();
    assert!(answer.len() > 8, "{answer:?}");
    assert_eq!(
        streamed_text(answer),
        answer::text(answer::Kind::Chat, &request, 8)
    );
    let usage = answer.last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 8);
    for chunk in &answer[..answer.len() - 1] {
        let choice = &chunk["choices"][0];
        assert_eq!(choice["delta"]["role"], "assistant");
        assert!(choice["delta"]["content"].is_string());
        assert!(choice.as_object().unwrap().contains_key("finish_reason"));
        assert_eq!(chunk.get("usage"), None);
    }
}

#[tokio::test]
async fn a_plain_chat_comes_in_one_value_and_is_billed() {
    let market = Market::open().await;
    let request = chat(false);
    let (key, bought) = market.buy(&request).await;
    check_bill(&market, &request, &key, &bought).await;
    let [answer] = bought.answer() else {
        panic!("{bought:?}");
    };
    let text = answer::text(answer::Kind::Chat, &request, 8);
    assert_eq!(answer["choices"][0]["message"]["content"], text);
}

#[tokio::test]
async fn completions_are_served_streamed_and_plain() {
    let market = Market::open().await;
    for stream in [true, false] {
        let request = json!({"model": MODEL, "prompt": "once upon", "stream": stream});
        let (key, bought) = market.buy(&request).await;
        check_bill(&market, &request, &key, &bought).await;
        let text = answer::text(answer::Kind::Text, &request, 8);
        assert_eq!(streamed_text(bought.answer()), text);
    }
    let seen = market.backend.seen();
    let chats = seen
        .iter()
        .filter(|seen| seen.path == "/v1/chat/completions");
    assert_eq!(chats.count(), 0);
}

#[tokio::test]
async fn a_tool_call_arrives_whole() {
    let market = Market::open().await;
    for stream in [true, false] {
        let mut request = chat(stream);
        request["tools"] = json!([{"type": "function", "function": {"name": "weather"}}]);
        let (key, bought) = market.buy(&request).await;
        check_bill(&market, &request, &key, &bought).await;
        let part = if stream { "delta" } else { "message" };
        let calls = bought.answer().iter().filter_map(|value| {
            value["choices"].get(0)?[part]["tool_calls"][0]["function"]["arguments"].as_str()
        });
        assert_eq!(calls.collect::<String>(), answer::TOOL_ARGUMENTS);
    }
}

#[tokio::test]
async fn usage_is_counted_for_a_backend_that_reports_none() {
    let market = Market::open().await;
    for stream in [true, false] {
        let request = faulty("no-usage", stream);
        let (key, bought) = market.buy(&request).await;
        check_bill(&market, &request, &key, &bought).await;
        let usage = Usage::from_json(&bought.answer().last().unwrap()["usage"]).unwrap();
        // 13 bytes of prompt; 8 words of 6 bytes, in 8 chunks or at once.
        let completion_tokens = if stream { 8 } else { 12 };
        assert_eq!(
            usage,
            Usage {
                prompt_tokens: 4,
                completion_tokens
            }
        );
    }
    assert_eq!(market.provider.counters().snapshot().usage_estimated, 2);
}

#[tokio::test]
async fn a_chunk_of_300_000_characters_passes() {
    let market = Market::open().await;
    let request = faulty("huge-chunk", true);
    let (key, bought) = market.buy(&request).await;
    check_bill(&market, &request, &key, &bought).await;
    assert!(streamed_text(bought.answer()).len() > answer::HUGE_CHUNK_CHARS);
}

#[tokio::test]
async fn the_backend_gets_the_request_and_our_key_and_nothing_of_the_consumer() {
    let mut renamed = offer();
    renamed.backend_model = Some("name-at-the-backend".to_owned());
    let models = vec!["name-at-the-backend".to_owned()];
    let backend = Backend::start_with(derouter_testkit::BackendOptions {
        models,
        ..Default::default()
    });
    let backend = backend.await;
    let config = config(backend.url(), renamed);
    let market = Market::open_at(backend, config).await;
    let mut request = chat(true);
    request["user"] = json!("someone");
    request["unknown_field"] = json!({"kept": [1, null]});
    let (key, bought) = market.buy(&request).await;
    check_bill(&market, &request, &key, &bought).await;
    for chunk in bought.answer() {
        assert_eq!(chunk["model"], MODEL);
    }
    let seen = market
        .backend
        .wait_seen("the request", |seen| seen.outcome == Outcome::Answered)
        .await;
    request["model"] = json!("name-at-the-backend");
    request["stream_options"] = json!({"include_usage": true});
    assert_eq!(seen.body, request);
    assert_eq!(seen.header("authorization"), Some("Bearer sk-ours"));
    let names: Vec<&str> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    let mut known = names.clone();
    known.retain(|name| {
        [
            "authorization",
            "content-type",
            "content-length",
            "host",
            "accept",
            "user-agent",
        ]
        .contains(name)
    });
    assert_eq!(names, known);
}

#[tokio::test]
async fn a_free_offer_owes_nothing() {
    let mut free = offer();
    (free.input_token_price, free.output_token_price) = (Wei::ZERO, Wei::ZERO);
    let market = Market::open_with(free, Limits::default()).await;
    let (key, bought) = market.buy(&chat(true)).await;
    assert_eq!(bought.epilogue().unwrap().balance_delta, None);
    assert_eq!(market.completion(&key).await.balance_delta, None);
}

#[tokio::test]
async fn payloads_are_stored_only_when_the_operator_wants_it() {
    let backend = Backend::start().await;
    let config = ProviderConfig {
        store_payloads: true,
        ..config(backend.url(), offer())
    };
    let market = Market::open_at(backend, config).await;
    let request = chat(false);
    let (key, bought) = market.buy(&request).await;
    let kept = market.completion(&key).await.private_payload.unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    let response = &bought.answer()[0];
    assert_eq!(
        kept,
        json!({"request": request, "response": response, "cut": false})
    );
}

#[tokio::test]
async fn a_node_that_comes_back_still_gets_the_completion() {
    let market = Market::open().await;
    market.make_unreachable(2);
    let request = chat(true);
    let (key, bought) = market.buy(&request).await;
    check_bill(&market, &request, &key, &bought).await;
}

#[tokio::test]
async fn offers_are_on_the_market_until_the_provider_stops() {
    let market = Market::open().await;
    let (offers, options) = market.offers().unwrap();
    assert_eq!(offers.len(), 1);
    assert_eq!(options.max_unsigned, Some(Wei::from_wei(7)));
    let payload = OfferPayload::parse(&offers[0].protocol_payload).unwrap();
    assert_eq!(payload, offer().payload());
    assert_eq!(Endpoint::Chat.path(), "/chat/completions");
    let Market { node, provider, .. } = market;
    provider.shutdown(std::time::Duration::from_secs(1)).await;
    assert_eq!(
        std::sync::Arc::strong_count(&node),
        1,
        "nothing is left running"
    );
}

#[tokio::test]
async fn streams_that_differ_from_openais_are_understood() {
    let head = r#"{"id":"c","created":5,"model":"m","choices":[{"index":0,"delta":{"content":"hé"},"finish_reason":null}]}"#;
    let last = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":1}}"#;
    let whole = format!(": ping\r\n\r\ndata:{head}\r\n\r\ndata:{last}\r\n\r\n");
    // Without [DONE], usage in a chunk with choices, split anywhere.
    let (begin, end) = whole.split_at(whole.find('é').unwrap());
    let mut parts = vec![begin.to_owned(), end.to_owned()];
    for _ in 0..2 {
        let raw = RawBackend::start(parts.clone()).await;
        let market = Market::open_before(&raw, Limits::default()).await;
        let request = chat(true);
        let (key, bought) = market.buy(&request).await;
        check_bill(&market, &request, &key, &bought).await;
        let expected = [
            json!({"id": "c", "created": 5, "model": "m", "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": {"content": "hé", "role": "assistant"}, "finish_reason": null}]}),
            json!({"object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": "stop"}]}),
            json!({"id": "c", "created": 5, "model": "m", "object": "chat.completion.chunk", "choices": [],
                "usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}}),
        ];
        assert_eq!(bought.answer(), expected);
        parts = vec![whole.trim_end().to_owned()];
    }
}

#[tokio::test]
async fn the_echo_says_that_it_is_one() {
    let echo = start_echo_backend().await.unwrap();
    let mut config = config(echo.base_url(), offer());
    // It answers under any name.
    config.backends[0].options.check = BackendCheck::Alive;
    let market = Market::open_at(Backend::start().await, config).await;
    for stream in [true, false] {
        let request = chat(stream);
        let (key, bought) = market.buy(&request).await;
        check_bill(&market, &request, &key, &bought).await;
        let said = if stream {
            streamed_text(bought.answer())
        } else {
            bought.answer()[0]["choices"][0]["message"]["content"].to_string()
        };
        assert!(said.contains("only an echo"), "{said}");
        assert!(said.contains("Say something"), "{said}");
    }
}

#[tokio::test]
async fn each_offer_is_served_by_its_own_backend() {
    let models = vec!["other-model".to_owned()];
    let other = Backend::start_with(derouter_testkit::BackendOptions {
        models,
        ..Default::default()
    });
    let (one, other) = (Backend::start().await, other.await);
    let mut config = config(one.url(), offer());
    let mut second = config.backends[0].clone();
    second.base_url = other.url();
    let mut renamed = offer();
    renamed.model_id = "other-model".to_owned();
    second.offers = [("other".to_owned(), renamed)].into();
    config.backends.push(second);
    let market = Market::open_at(one, config).await;
    for (offer_id, model) in [("offer", MODEL), ("other", "other-model"), ("offer", MODEL)] {
        let mut request = chat(true);
        request["model"] = json!(model);
        let args = Some(request.to_string());
        let key = market.create_at(offer_id, args).await.unwrap();
        let bought = read_all(market.connect(&key).await.unwrap()).await;
        assert_eq!(bought.answer()[0]["model"], model);
        market.completion(&key).await;
    }
    let models = |backend: &Backend| -> Vec<Value> {
        let seen = backend.seen().into_iter();
        seen.map(|seen| seen.body["model"].clone()).collect()
    };
    assert_eq!(models(&market.backend), [MODEL, MODEL]);
    assert_eq!(models(&other), ["other-model"]);
    let wrong = market
        .create_at("other", Some(chat(true).to_string()))
        .await;
    assert!(wrong.is_err(), "a model of another offer");
}

#[tokio::test]
async fn no_more_is_billed_than_a_consumer_signs_for() {
    let market = Market::open().await;
    for stream in [true, false] {
        let mut request = faulty("inflated-usage", stream);
        request["max_tokens"] = json!(20);
        let (key, bought) = market.buy(&request).await;
        check_bill(&market, &request, &key, &bought).await;
        let usage = Usage::from_json(&bought.answer().last().unwrap()["usage"]).unwrap();
        assert_eq!(usage.completion_tokens, 20);
        assert!(usage.prompt_tokens <= offer().context_size);
    }
}
