//! What an offer's context size allows: which prompts are taken, how long answers get, and what is
//! billed at most. Consumers know the context size from the offer and sign for no more, so that what
//! is beyond it would be served for nothing:
//! - A prompt that can't fit is refused.
//! - A limit of the client above the context size is lowered to it for the backend. Where the client
//!   sets none, none is sent: backends take their own.
//! - No answer is billed with more tokens than its limit, no prompt with more than the context size,
//!   whatever the backend counts.

use serde_json::{Map, Value, json};

use super::usage::prompt_bytes;
use crate::protocol::{Endpoint, Usage};

/// Answers to one request. OpenAI's own limit for a prompt; each costs the backend like a request.
const MAX_ANSWERS: u64 = 128;

/// No usual text has more bytes in a token: what is too long even so does not fit.
const MOST_BYTES_PER_TOKEN: u64 = 8;

/// Checks that a request asks for no more than [`MAX_ANSWERS`], over all its prompts, and that its
/// prompts may fit. The error is for the consumer.
pub(super) fn check(request: &Map<String, Value>, context_size: u64) -> Result<(), String> {
    for field in ["n", "best_of"] {
        let count = request.get(field).filter(|count| !count.is_null());
        if count.is_some_and(|count| !count.is_u64()) {
            return Err(format!("{field} must be a whole number"));
        }
        if count.and_then(Value::as_u64) > Some(MAX_ANSWERS) {
            return Err(format!("{field} is over {MAX_ANSWERS}"));
        }
    }
    if answers(request) > MAX_ANSWERS {
        return Err(format!("n times prompts is over {MAX_ANSWERS} answers"));
    }
    let tokens = least_prompt_tokens(request);
    if tokens > context_size {
        return Err(format!(
            "the prompt is too long: it has at least {tokens} tokens, and this offer's context {context_size}"
        ));
    }
    Ok(())
}

/// Lowers the limits of the answer to the context size.
pub(super) fn clamp(request: &mut Map<String, Value>, context_size: u64) {
    for field in ["max_tokens", "max_completion_tokens"] {
        if let Some(limit) = request.get_mut(field)
            && limit.as_u64() > Some(context_size)
        {
            *limit = json!(context_size);
        }
    }
}

/// The most that is billed.
pub(super) fn most_billed(request: &Map<String, Value>, context_size: u64) -> Usage {
    let limit = |field| request.get(field).and_then(Value::as_u64);
    let chat = Endpoint::of(request) == Endpoint::Chat;
    let chat_limit = chat.then(|| limit("max_completion_tokens")).flatten();
    let longest = limit("max_tokens").max(chat_limit).unwrap_or(context_size);
    Usage {
        prompt_tokens: context_size.saturating_mul(prompts(request)),
        completion_tokens: longest.min(context_size).saturating_mul(answers(request)),
    }
}

/// Prompts in a request: a completion may have several, as texts or as arrays of tokens.
fn prompts(request: &Map<String, Value>) -> u64 {
    match request.get("prompt") {
        Some(Value::Array(prompts)) if !prompts.iter().any(Value::is_number) => {
            length(prompts).max(1)
        }
        _ => 1,
    }
}

/// Answers over all prompts. Of `best_of` answers all are made, and `n` are seen.
pub(super) fn answers(request: &Map<String, Value>) -> u64 {
    let count = |field: &str| request.get(field).and_then(Value::as_u64);
    let per_prompt = count("n").max(count("best_of")).unwrap_or(1).max(1);
    per_prompt.saturating_mul(prompts(request))
}

/// The fewest tokens that the longest prompt can have.
fn least_prompt_tokens(request: &Map<String, Value>) -> u64 {
    match request.get("prompt") {
        Some(Value::Array(prompts)) if !prompts.iter().any(Value::is_number) => {
            prompts.iter().map(least_tokens).max().unwrap_or(0)
        }
        Some(prompt) => least_tokens(prompt),
        None => {
            let read = ["messages", "tools", "functions"];
            let read = read.iter().filter_map(|field| request.get(*field));
            read.map(least_tokens).fold(0, u64::saturating_add)
        }
    }
}

fn least_tokens(prompt: &Value) -> u64 {
    match prompt {
        Value::Array(tokens) if tokens.iter().all(Value::is_number) => length(tokens),
        texts => prompt_bytes(texts) / MOST_BYTES_PER_TOKEN,
    }
}

fn length(items: &[Value]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(request: &Value) -> Map<String, Value> {
        request.as_object().unwrap().clone()
    }

    fn refusal(request: &Value) -> Option<String> {
        check(&object(request), 10).err()
    }

    #[test]
    fn a_prompt_that_cannot_fit_is_refused() {
        for request in [
            json!({"messages": [{"role": "user", "content": "x".repeat(88)}]}),
            json!({"prompt": "x".repeat(88)}),
            json!({"prompt": ["x", "x".repeat(88)]}),
            json!({"prompt": vec![1; 11]}),
            json!({"prompt": [vec![1], vec![2; 11]]}),
        ] {
            let refusal = refusal(&request).unwrap();
            assert!(refusal.contains("at least 11 tokens"), "{refusal}");
        }
        let image = format!("data:image/png;base64,{}", "A".repeat(1_000));
        for request in [
            json!({"messages": [{"role": "user", "content": "x".repeat(87)}]}),
            json!({"prompt": ["x".repeat(80), "x".repeat(80)]}),
            json!({"prompt": [vec![1; 10], vec![2; 10]]}),
            json!({"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": image}}]}]}),
        ] {
            assert_eq!(refusal(&request), None);
        }
    }

    #[test]
    fn answers_are_counted_over_all_prompts() {
        for (request, reason) in [
            (json!({"n": 129}), "n is over"),
            (json!({"prompt": "x", "best_of": 129}), "best_of is over"),
            (json!({"prompt": vec!["x"; 129]}), "answers"),
            (json!({"prompt": vec!["x"; 65], "n": 2}), "answers"),
            (json!({"prompt": "x", "n": 200.0}), "whole number"),
            (json!({"prompt": "x", "best_of": -1}), "whole number"),
        ] {
            let refusal = refusal(&request).unwrap();
            assert!(refusal.contains(reason), "{refusal}");
        }
        for request in [
            json!({"n": 128, "best_of": null}),
            json!({"prompt": vec!["x"; 64], "n": 2}),
        ] {
            assert_eq!(refusal(&request), None);
        }
    }

    #[test]
    fn a_limit_above_the_context_size_is_lowered_and_none_is_added() {
        let mut request = object(&json!({"max_tokens": 5, "max_completion_tokens": 11, "x": 99}));
        clamp(&mut request, 10);
        let expected = json!({"max_tokens": 5, "max_completion_tokens": 10, "x": 99});
        assert_eq!(Value::Object(request), expected);
        let mut unlimited = object(&json!({"max_tokens": null}));
        clamp(&mut unlimited, 10);
        assert_eq!(Value::Object(unlimited), json!({"max_tokens": null}));
    }

    #[test]
    fn no_more_is_billed_than_the_offer_and_the_client_allow() {
        for (request, prompt_tokens, completion_tokens) in [
            (json!({}), 10, 10),
            (json!({"max_tokens": 4}), 10, 4),
            (json!({"max_tokens": 4, "max_completion_tokens": 6}), 10, 6),
            (json!({"max_tokens": 400, "n": 3}), 10, 30),
            (
                json!({"prompt": ["a", "b"], "best_of": 2, "max_tokens": 4}),
                20,
                16,
            ),
            (json!({"prompt": "a", "max_completion_tokens": 4}), 10, 10),
        ] {
            let most = Usage {
                prompt_tokens,
                completion_tokens,
            };
            assert_eq!(most_billed(&object(&request), 10), most);
        }
    }
}
