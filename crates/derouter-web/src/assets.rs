//! The files that pages load, in the binary. Their names hold a hash of what is in them, so that
//! browsers keep them and a new version is a new name. assets/VENDORED.md tells where they are from.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};
use sha2::{Digest, Sha256};

/// A file.
struct Asset {
    /// `name.hash.ending`.
    name: String,
    hash: String,
    kind: &'static str,
    bytes: &'static [u8],
}

impl Asset {
    fn new(stem: &str, ending: &str, kind: &'static str, bytes: &'static [u8]) -> Self {
        let hash = hex::encode(Sha256::digest(bytes));
        let short = hash.get(..16).unwrap_or_default();
        Self {
            name: format!("{stem}.{short}.{ending}"),
            hash,
            kind,
            bytes,
        }
    }
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLESHEET: &str = "text/css; charset=utf-8";

static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    let bytes = include_bytes!("../assets/style.css");
    Asset::new("style", "css", STYLESHEET, bytes)
});
static HTMX: LazyLock<Asset> = LazyLock::new(|| {
    let bytes = include_bytes!("../assets/htmx-2.0.11.min.js");
    Asset::new("htmx", "js", SCRIPT, bytes)
});
static APP: LazyLock<Asset> = LazyLock::new(|| {
    let bytes = include_bytes!("../assets/app.js");
    Asset::new("app", "js", SCRIPT, bytes)
});
static PULSE: LazyLock<Asset> = LazyLock::new(|| {
    let bytes = include_bytes!("../assets/pulse.js");
    Asset::new("pulse", "js", SCRIPT, bytes)
});
static UPLOT: LazyLock<Asset> = LazyLock::new(|| {
    let bytes = include_bytes!("../assets/uplot-1.6.32.iife.min.js");
    Asset::new("uplot", "js", SCRIPT, bytes)
});
static UPLOT_STYLE: LazyLock<Asset> = LazyLock::new(|| {
    let bytes = include_bytes!("../assets/uplot-1.6.32.min.css");
    Asset::new("uplot", "css", STYLESHEET, bytes)
});
static ICON: LazyLock<Asset> = LazyLock::new(|| {
    let bytes = include_bytes!("../assets/icon.svg");
    Asset::new("icon", "svg", "image/svg+xml", bytes)
});

fn all() -> [&'static Asset; 7] {
    [&STYLE, &HTMX, &APP, &PULSE, &UPLOT, &UPLOT_STYLE, &ICON]
}

fn url(asset: &Asset) -> String {
    format!("/assets/{}", asset.name)
}

/// Where the stylesheet is.
pub(crate) fn style() -> String {
    url(&STYLE)
}

/// Where htmx is.
pub(crate) fn htmx() -> String {
    url(&HTMX)
}

/// Where the pages' own script is.
pub(crate) fn app() -> String {
    url(&APP)
}

/// Where the script of the overview's chart is.
pub(crate) fn pulse() -> String {
    url(&PULSE)
}

/// Where uPlot is.
pub(crate) fn uplot() -> String {
    url(&UPLOT)
}

/// Where its stylesheet is.
pub(crate) fn uplot_style() -> String {
    url(&UPLOT_STYLE)
}

/// Where the icon is.
pub(crate) fn icon() -> String {
    url(&ICON)
}

/// Serves one by its exact name; nothing is ever looked for on the disk.
pub(crate) async fn serve(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(asset) = all().into_iter().find(|asset| asset.name == name) else {
        return (StatusCode::NOT_FOUND, "there is no such file\n").into_response();
    };
    let tag = format!("\"{}\"", asset.hash);
    let known = headers
        .get(IF_NONE_MATCH)
        .is_some_and(|given| given.as_bytes() == tag.as_bytes());
    let mut response = match known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => asset.bytes.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    let keep = HeaderValue::from_static("private, max-age=31536000, immutable");
    headers.insert(CACHE_CONTROL, keep);
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(ETAG, tag);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_vendored_is_what_the_list_says() {
        let list = include_str!("../assets/VENDORED.md");
        for asset in [&*HTMX, &UPLOT, &UPLOT_STYLE] {
            assert!(
                list.contains(&asset.hash),
                "{} is {}",
                asset.name,
                asset.hash
            );
        }
    }

    #[test]
    fn own_files_name_no_other_site() {
        for asset in [&*STYLE, &APP, &PULSE, &ICON] {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !text.contains("http:") && !text.contains("https:"),
                "{}",
                asset.name
            );
        }
    }
}
