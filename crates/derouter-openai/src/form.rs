//! Forms with files: which model they are for.

use std::convert::Infallible;

use bytes::Bytes;
use multer::{Constraints, Multipart, SizeLimit};

use crate::terms::Endpoint;

/// The longest name of a model, in bytes.
const MAX_MODEL_BYTES: u64 = 256;

/// Whether an endpoint takes forms.
pub(crate) fn takes_forms(endpoint: Endpoint) -> bool {
    matches!(
        endpoint,
        Endpoint::Transcriptions | Endpoint::Translations | Endpoint::ImageEdits
    )
}

/// The model that a form names; `None` when it names none. The error is for whoever sent it.
pub(crate) async fn model(body: Bytes, content_type: &str) -> Result<Option<String>, String> {
    let unreadable = |error: multer::Error| format!("the form can't be read: {error}");
    let boundary = multer::parse_boundary(content_type).map_err(unreadable)?;
    let sizes = SizeLimit::new().for_field("model", MAX_MODEL_BYTES);
    let whole = futures::stream::once(async { Ok::<_, Infallible>(body) });
    let constraints = Constraints::new().size_limit(sizes);
    let mut form = Multipart::with_constraints(whole, boundary, constraints);
    let mut model = None;
    while let Some(field) = form.next_field().await.map_err(unreadable)? {
        if field.name() != Some("model") {
            continue;
        }
        if model.is_some() {
            // Servers differ in which of them they read.
            return Err("the form names its model twice".to_owned());
        }
        model = Some(field.text().await.map_err(unreadable)?);
    }
    Ok(model)
}
