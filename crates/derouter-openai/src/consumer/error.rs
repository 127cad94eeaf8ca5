//! Errors as OpenAI clients know them: `{error: {message, type, param, code}}`.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::protocol::v0_2::REQUEST_STATUSES;

/// An error that a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) kind: &'static str,
    pub(crate) param: Option<&'static str>,
    pub(crate) code: Option<&'static str>,
    /// After how many seconds trying again makes sense.
    pub(crate) retry_after: Option<u64>,
    /// Clients must not try again by themselves: money may be owed already.
    pub(crate) may_owe: bool,
}

/// Tells client libraries whether to try again, over what they make of the status.
pub(crate) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Seconds after which a busy or missing provider is worth another try: heartbeats and answers
/// both change things within that time.
const RETRY_SECONDS: u64 = 5;

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            kind,
            param: None,
            code: None,
            retry_after: None,
            may_owe: false,
        }
    }

    /// Money may be owed for the request already: trying it again may cost a second time.
    pub(crate) fn after_money(mut self) -> Self {
        self.may_owe = true;
        self.retry_after = None;
        self
    }

    fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    fn param(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    fn retry(mut self) -> Self {
        self.retry_after = Some(RETRY_SECONDS);
        self
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// A provider's backend has something against the request itself, and says what by this status.
    pub(crate) fn refused(status: Option<u16>, message: String) -> Self {
        let status = status.filter(|status| REQUEST_STATUSES.contains(status));
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.unwrap_or(StatusCode::BAD_REQUEST);
        Self::new(status, "invalid_request_error", message)
    }

    pub(crate) fn invalid_param(param: &'static str, message: impl Into<String>) -> Self {
        Self::invalid(message).param(param)
    }

    /// No offer can do what the request asks for.
    pub(crate) fn unsupported(message: String) -> Self {
        Self::invalid(message).code("not_offered")
    }

    pub(crate) fn context_too_long(message: String) -> Self {
        Self::invalid_param("messages", message).code("context_length_exceeded")
    }

    /// A spending limit is reached; `code` names it.
    pub(crate) fn spending_limit(code: &'static str, message: String) -> Self {
        let status = StatusCode::PAYMENT_REQUIRED;
        Self::new(status, "insufficient_quota", message).code(code)
    }

    /// The client must show a key, and another one than it did.
    pub(crate) fn unauthorized(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", message).code(code)
    }

    pub(crate) fn model_not_allowed(model: &str, key: &str) -> Self {
        let model: String = model.chars().take(256).collect();
        let message = format!(
            "The key {key} may not be used for {model}. `derouter token set {key} --models` says for which it may."
        );
        Self::new(StatusCode::FORBIDDEN, "invalid_request_error", message)
            .param("model")
            .code("model_not_allowed")
    }

    pub(crate) fn price_limit(message: String) -> Self {
        let status = StatusCode::PAYMENT_REQUIRED;
        Self::new(status, "insufficient_quota", message)
            .param("model")
            .code("price_limit_exceeded")
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "invalid_request_error", message).code("forbidden")
    }

    pub(crate) fn model_not_found(message: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
            .param("model")
            .code("model_not_found")
    }

    pub(crate) fn unknown_url(method: &Method, path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        let message = format!(
            "Unknown request URL: {method} {path}. This gateway serves GET /v1/models, POST /v1/chat/completions, POST /v1/completions and POST /v1/messages."
        );
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message).code("unknown_url")
    }

    pub(crate) fn method_not_allowed(method: &Method) -> Self {
        let message = format!("Not allowed to {method} on this URL.");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "invalid_request_error", message).code("method_not_supported")
    }

    pub(crate) fn body_too_slow() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "invalid_request_error",
            "The request body did not arrive in time.",
        )
    }

    pub(crate) fn too_large(message: String) -> Self {
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self::new(status, "invalid_request_error", message).code("request_too_large")
    }

    pub(crate) fn not_json() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid_request_error",
            "The content-type must be application/json.",
        )
        .code("unsupported_content_type")
    }

    pub(crate) fn busy(message: impl Into<String>) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self::new(status, "rate_limit_error", message)
            .code("all_providers_busy")
            .retry()
    }

    pub(crate) fn gateway_full() -> Self {
        let message = "This gateway has too many requests running.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
            .code("gateway_full")
            .retry()
    }

    pub(crate) fn spending_reserved(message: String) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self::new(status, "rate_limit_error", message)
            .code("spending_limit_reserved")
            .retry()
    }

    pub(crate) fn provider_failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "server_error", message).code("provider_failed")
    }

    pub(crate) fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "server_error", message)
            .code(code)
            .retry()
    }

    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", message).code("timeout")
    }

    /// The body.
    pub(crate) fn to_json(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json().to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.may_owe {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_after_money_tells_clients_not_to_try_again() {
        let busy = ApiError::busy("all are busy");
        let before = busy.clone().into_response();
        assert!(before.headers().contains_key(RETRY_AFTER));
        assert!(!before.headers().contains_key(SHOULD_RETRY));
        let after = busy.after_money().into_response();
        assert!(!after.headers().contains_key(RETRY_AFTER));
        assert_eq!(after.headers()[SHOULD_RETRY], "false");
    }

    #[test]
    fn every_error_has_openais_shape() {
        let errors = [
            ApiError::invalid("x"),
            ApiError::unauthorized("invalid_api_key", "x"),
            ApiError::spending_limit("spending_limit_day", "x".into()),
            ApiError::model_not_allowed("m", "k"),
            ApiError::model_not_found("x".into()),
            ApiError::refused(Some(409), "x".into()),
            ApiError::refused(Some(422), "x".into()),
            ApiError::refused(Some(204), "x".into()),
            ApiError::busy("x"),
            ApiError::provider_failed("x"),
            ApiError::unavailable("starting", "x"),
            ApiError::timeout("x"),
        ];
        let statuses = errors.iter().map(|error| error.status.as_u16());
        let right = [400, 401, 402, 403, 404, 409, 422, 400, 429, 502, 503, 504];
        assert_eq!(statuses.collect::<Vec<_>>(), right);
        for error in errors {
            let body = error.to_json();
            let fields = body["error"].as_object().unwrap();
            let names: Vec<&str> = fields.keys().map(String::as_str).collect();
            assert_eq!(names, ["message", "type", "param", "code"]);
        }
    }
}
