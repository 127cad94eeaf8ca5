//! The pages. Each reads what it shows when it is asked for, and says plainly what is not in this
//! process.

mod chat;
mod jobs;
mod keys;
mod logs;
mod market;
mod money;
mod network;
mod offers;
mod overview;
mod provide;
mod settings;

use axum::Router;

use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use hyper::StatusCode;
use maud::{Markup, html};

use crate::state::App;
use crate::{text, ui};

/// All of them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/", get(overview::show))
        .route("/pulse", get(overview::pulse))
        .route("/offers", get(offers::show))
        .route("/offers/standing", post(market::set_standing))
        .route("/model", get(market::model))
        .route("/offer", get(market::offer))
        .route("/chat", get(chat::show).post(chat::ask))
        .route("/jobs", get(jobs::list))
        .route("/jobs.csv", get(jobs::csv))
        .route("/jobs/{row}", get(jobs::one))
        .route("/jobs/{row}/proof", get(jobs::proof))
        .route("/money", get(money::show))
        .route("/keys", post(keys::create))
        .route("/keys/revoke", post(keys::revoke))
        .route("/network", get(network::show))
        .route("/provide", get(provide::show))
        .route("/provide/save", post(provide::save))
        .route("/provide/pause", post(provide::pause))
        .route("/provide/remove", post(provide::remove))
        .route("/provide/restore", post(provide::restore))
        .route("/provide/test", post(provide::test))
        .route("/modules", get(settings::modules))
        .route("/settings", get(settings::show))
        .route("/logs", get(logs::show))
}

/// What is shown for an address that is none.
pub(crate) async fn not_found() -> Response {
    let content = html! {
        p { "There is no such page." }
        p { a.button href="/" { "To the overview" } }
    };
    (
        StatusCode::NOT_FOUND,
        page_of(&ui::bare("Not found", &content)),
    )
        .into_response()
}

/// A page as an answer.
fn page_of(markup: &Markup) -> axum::response::Html<String> {
    axum::response::Html(markup.0.clone())
}

/// What is shown to who is not let in yet.
pub(crate) fn login(app: &App, why: Option<&str>) -> axum::response::Html<String> {
    let content = html! {
        @if let Some(why) = why { p.notice role="alert" { (why) } }
        p { "On the machine of the node, run" }
        (ui::copyable("command", "derouter open"))
        p { "It opens this dashboard with a link that works once." }
        @if app.token.is_some() {
            form method="post" action="/login" {
                label for="token" { "Or enter the token of the configuration (" code { "web.token" } ")" }
                p { input #token type="password" name="token" autocomplete="current-password" required; }
                button type="submit" { "Log in" }
            }
        }
    };
    page_of(&ui::bare("Who is there?", &content))
}

/// Back to a page, with a sentence about what was done.
fn back(to: &str, said: &str) -> Response {
    let said: String = text::plain(said, text::LONG);
    let mut url = form_text(&said);
    url.insert_str(0, if to.contains('?') { "&said=" } else { "?said=" });
    Redirect::to(&format!("{to}{url}")).into_response()
}

/// Text as a part of a URL.
fn form_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                out.push(char::from(byte));
            }
            _ => {
                out.push('%');
                out.push_str(&hex::encode_upper([byte]));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_urls_is_escaped() {
        assert_eq!(form_text("a b&c=ü/"), "a%20b%26c%3D%C3%BC%2F");
    }
}
