//! Requests that are forms: files of sound and images, with the model in a field of its own.

use std::convert::Infallible;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use multer::{Constraints, Multipart, SizeLimit};
use serde_json::Map;

use super::error::ApiError;
use super::request::Asked;
use super::router::Preferences;
use super::router::preferences::merge_headers;
use crate::terms::Endpoint;

/// The longest name of a model, in bytes.
const MAX_MODEL_BYTES: u64 = 256;

/// The boundary of a form; `None` when the request is none.
pub(crate) fn boundary(headers: &HeaderMap) -> Option<String> {
    multer::parse_boundary(content_type(headers)?).ok()
}

/// Reads which model a form is for. Everything else in it is the provider's business.
pub(crate) async fn read(
    endpoint: Endpoint,
    headers: &HeaderMap,
    boundary: String,
    body: Vec<u8>,
) -> Result<Asked, ApiError> {
    let mut fields = Map::new();
    merge_headers(&mut fields, Preferences::of_headers(headers)?)?;
    let preferences = Preferences::take(&mut fields)?;
    let takes_files = matches!(
        endpoint,
        Endpoint::Transcriptions | Endpoint::Translations | Endpoint::ImageEdits
    );
    if !takes_files {
        return Err(ApiError::not_json());
    }
    let body = Bytes::from(body);
    let model = model(body.clone(), boundary)
        .await
        .map_err(|error| ApiError::invalid(format!("The form can't be read: {error}.")))?;
    let model = model.filter(|model| !model.is_empty());
    let model =
        model.ok_or_else(|| ApiError::invalid_param("model", "You must provide a model."))?;
    let content_type = content_type(headers).unwrap_or_default().to_owned();
    Ok(Asked::form(
        endpoint,
        content_type,
        model,
        body,
        preferences,
    ))
}

async fn model(body: Bytes, boundary: String) -> multer::Result<Option<String>> {
    let sizes = SizeLimit::new().for_field("model", MAX_MODEL_BYTES);
    let whole = futures::stream::once(async { Ok::<_, Infallible>(body) });
    let constraints = Constraints::new().size_limit(sizes);
    let mut form = Multipart::with_constraints(whole, boundary, constraints);
    while let Some(field) = form.next_field().await? {
        if field.name() == Some("model") {
            return field.text().await.map(Some);
        }
    }
    Ok(None)
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
        let boundary = boundary(&headers()).unwrap();
        read(endpoint, &headers(), boundary, text.as_bytes().to_vec()).await
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
        assert_eq!(boundary(&HeaderMap::new()), None);
    }
}
