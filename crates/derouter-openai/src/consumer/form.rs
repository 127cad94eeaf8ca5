//! Requests that are forms: files of sound and images, with the model in a field of its own.

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Map;

use super::error::ApiError;
use super::request::Asked;
use super::router::Preferences;
use super::router::preferences::merge_headers;
use crate::form;
use crate::protocol::v0_2::media_type;
use crate::terms::Endpoint;

/// Whether a request is a form.
pub(crate) fn is_form(headers: &HeaderMap) -> bool {
    content_type(headers).is_some_and(|value| media_type(value) == "multipart/form-data")
}

/// Reads which model a form is for. Everything else in it is the provider's business.
pub(crate) async fn read(
    endpoint: Endpoint,
    headers: &HeaderMap,
    body: Vec<u8>,
) -> Result<Asked, ApiError> {
    let mut fields = Map::new();
    merge_headers(&mut fields, Preferences::of_headers(headers)?)?;
    let preferences = Preferences::take(&mut fields)?;
    if !form::takes_forms(endpoint) {
        return Err(ApiError::not_json());
    }
    let body = Bytes::from(body);
    let content_type = content_type(headers).unwrap_or_default().to_owned();
    let model = form::model(body.clone(), &content_type).await;
    let model = model.map_err(ApiError::invalid)?;
    let model = model.filter(|model| !model.is_empty());
    let model =
        model.ok_or_else(|| ApiError::invalid_param("model", "You must provide a model."))?;
    Ok(Asked::form(
        endpoint,
        content_type,
        model,
        body,
        preferences,
    ))
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_TYPE)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const FORM: &str = "--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\0\r\n--x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--x--\r\n";

    fn headers() -> HeaderMap {
        let value = HeaderValue::from_static("multipart/form-data; boundary=x");
        HeaderMap::from_iter([(CONTENT_TYPE, value)])
    }

    async fn form(endpoint: Endpoint, text: &str) -> Result<Asked, ApiError> {
        assert!(is_form(&headers()));
        read(endpoint, &headers(), text.as_bytes().to_vec()).await
    }

    #[tokio::test]
    async fn a_form_says_which_model_it_is_for() {
        let asked = form(Endpoint::Transcriptions, FORM).await.unwrap();
        assert_eq!(asked.model, "whisper");
        assert_eq!(asked.body, FORM.as_bytes());
        assert_eq!(asked.args_0_1(), None);
        let none = form(Endpoint::Transcriptions, "--x--\r\n")
            .await
            .unwrap_err();
        assert_eq!(none.param, Some("model"));
        let long = FORM.replace("whisper", &"w".repeat(300));
        for text in [long.as_str(), "", "--x\r\nbad"] {
            let error = form(Endpoint::Transcriptions, text).await.unwrap_err();
            assert_eq!(error.status, 400, "{text}");
        }
        assert!(form(Endpoint::Embeddings, FORM).await.is_err());
        assert!(!is_form(&HeaderMap::new()));
        let twice = FORM.replacen(
            "--x\r\n",
            "--x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nother\r\n--x\r\n",
            1,
        );
        assert!(form(Endpoint::Transcriptions, &twice).await.is_err());
    }
}
