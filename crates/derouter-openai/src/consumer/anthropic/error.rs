//! Errors as Anthropic's clients know them: `{type: "error", error: {type, message}, request_id}`.

use hyper::StatusCode;
use serde_json::{Value, json};

/// Anthropic's own status for a service that can't take the request now; its clients retry.
const OVERLOADED: u16 = 529;

/// Words by which clients know that the conversation must get shorter.
const PROMPT_TOO_LONG: &str = "prompt is too long";

/// The status and the error type for a status of the OpenAI endpoints.
pub(crate) fn kind(status: StatusCode) -> (StatusCode, &'static str) {
    match status.as_u16() {
        401 => (status, "authentication_error"),
        402 => (status, "billing_error"),
        403 => (status, "permission_error"),
        404 => (status, "not_found_error"),
        413 => (status, "request_too_large"),
        429 => (status, "rate_limit_error"),
        503 | OVERLOADED => (overloaded(), "overloaded_error"),
        504 => (status, "timeout_error"),
        400..500 => (status, "invalid_request_error"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "api_error"),
    }
}

/// The error type for the code of an error event, as a stream that has begun has no status for it.
pub(crate) fn kind_of_code(code: Option<&str>) -> &'static str {
    match code.unwrap_or_default() {
        "all_providers_busy" | "gateway_full" | "spending_limit_reserved" => "rate_limit_error",
        "no_provider" | "node_unavailable" => "overloaded_error",
        "timeout" => "timeout_error",
        code if code.starts_with("spending_limit") => "billing_error",
        _ => "api_error",
    }
}

fn overloaded() -> StatusCode {
    StatusCode::from_u16(OVERLOADED).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

/// The body for an OpenAI error body with this type.
pub(crate) fn from_openai(kind: &str, body: &Value, request_id: &str) -> Value {
    let error = body.get("error");
    let field = |name| error.and_then(|error| error.get(name)?.as_str());
    let message = field("message").unwrap_or("The request failed.");
    let message = match field("code") {
        Some("context_length_exceeded") => format!("{PROMPT_TOO_LONG}: {message}"),
        _ => message.to_owned(),
    };
    let mut body = envelope(kind, &message);
    if let Some(fields) = body.as_object_mut() {
        fields.insert("request_id".into(), request_id.into());
    }
    body
}

/// An error without the id of its request, as streams have it.
pub(crate) fn envelope(kind: &str, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_type() {
        for (status, expected, name) in [
            (400, 400, "invalid_request_error"),
            (401, 401, "authentication_error"),
            (402, 402, "billing_error"),
            (403, 403, "permission_error"),
            (404, 404, "not_found_error"),
            (405, 405, "invalid_request_error"),
            (408, 408, "invalid_request_error"),
            (413, 413, "request_too_large"),
            (415, 415, "invalid_request_error"),
            (429, 429, "rate_limit_error"),
            (500, 500, "api_error"),
            (502, 500, "api_error"),
            (503, 529, "overloaded_error"),
            (504, 504, "timeout_error"),
        ] {
            let (status, kind) = kind(StatusCode::from_u16(status).unwrap());
            assert_eq!((status.as_u16(), kind), (expected, name));
        }
    }

    #[test]
    fn the_message_and_the_request_id_are_told() {
        let openai =
            json!({"error": {"message": "No.", "type": "x", "param": null, "code": "forbidden"}});
        assert_eq!(
            from_openai("permission_error", &openai, "req_1"),
            json!({"type": "error", "error": {"type": "permission_error", "message": "No."},
                "request_id": "req_1"})
        );
        let odd = from_openai("api_error", &json!([1]), "req_1");
        assert_eq!(odd["error"]["message"], "The request failed.");
    }

    #[test]
    fn a_conversation_that_is_too_long_is_told_in_words_that_clients_know() {
        let openai = json!({"error": {"message": "9 of 8.", "code": "context_length_exceeded"}});
        let error = from_openai("invalid_request_error", &openai, "req_1");
        assert_eq!(error["error"]["message"], "prompt is too long: 9 of 8.");
    }
}
