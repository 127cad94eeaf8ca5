//! The chat playground: the same question to two providers, side by side.

use axum::body::{Body, to_bytes};
use axum::extract::{Extension, Query, Request, State};
use axum::response::{Html, IntoResponse, Response};
use hyper::StatusCode;
use maud::{Markup, html};

use super::page_of;
use crate::filter::Asked;
use crate::guard::CHAT_BYTES;
use crate::modules::MarketOffer;
use crate::sessions::Session;
use crate::state::App;
use crate::ui::{Page, page};
use crate::{text, ui};

/// Models and providers to choose from.
const MOST_SHOWN: usize = 500;

/// `GET /chat`.
pub(super) async fn show(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    Query(asked): Query<Asked>,
) -> Html<String> {
    let Some(gateway) = &app.modules.gateway else {
        let how = "Chats are bought through the gateway. Add `openai: { consumer: {} }` to the configuration.";
        let content = ui::not_here("No gateway in this process", how);
        return page_of(&page(&app, &session, Page::Chat, None, &content));
    };
    let mut offers = gateway.offers();
    offers.retain(|offer| offer.excluded.is_none());
    let content = html! {
        p { "Ask two providers the same question. It costs what they ask for it, within the limits of the configuration." }
        noscript { p.notice { "Chats need JavaScript, which this browser does not run. Everything else works without." } }
        div.pair {
            (side(&app, &offers, &asked.model, "Left", true))
            (side(&app, &offers, &asked.model, "Right", false))
        }
        form #chat.card method="post" action="/chat" data-prices=(prices(&offers)) {
            label for="prompt" { "Your question" }
            p { textarea #prompt name="prompt" rows="3" maxlength="20000" required {} }
            div.actions {
                button type="submit" { "Send" }
                label.check for="max" { "At most" input #max type="number" min="1" max="100000" value="512"; "tokens" }
            }
        }
    };
    page_of(&page(&app, &session, Page::Chat, None, &content))
}

/// The prices of offers for the script, which shows what an answer came to.
fn prices(offers: &[MarketOffer]) -> String {
    let price = |offer: &MarketOffer| {
        let key = format!("{}/{}", offer.provider, offer.offer_id);
        let prices = [
            offer.input_price.to_pol_text(),
            offer.output_price.to_pol_text(),
        ];
        (key, serde_json::json!(prices))
    };
    let all: serde_json::Map<_, _> = offers.iter().take(MOST_SHOWN).map(price).collect();
    serde_json::Value::Object(all).to_string()
}

fn side(app: &App, offers: &[MarketOffer], model: &str, name: &str, asks: bool) -> Markup {
    let mut models: Vec<&str> = offers.iter().map(|offer| offer.model.as_str()).collect();
    models.sort_unstable();
    models.dedup();
    let mut providers: Vec<_> = offers.iter().map(|offer| offer.provider).collect();
    providers.sort_unstable();
    providers.dedup();
    let chosen = if models.contains(&model) {
        model
    } else {
        models.first().copied().unwrap_or("")
    };
    html! {
        section.card data-side=(name) aria-label=(format!("{name} answer")) {
            form.row {
                label { "Model"
                    select name="model" {
                        @if !asks { option value="" { "none" } }
                        @for it in models.iter().take(MOST_SHOWN) { option value=(it) selected[asks && *it == chosen] { (text::plain(it, text::SHORT)) } }
                    }
                }
                label { "Provider"
                    select name="provider" {
                        option value="" { "as the router picks" }
                        @for peer in providers.iter().take(MOST_SHOWN) {
                            @let id = peer.to_string();
                            @let named = app.board.provider(peer).and_then(|record| record.name).map(|it| text::plain(&it, 30)).unwrap_or_default();
                            option value=(id) { (named) " " (text::short_id(&id)) }
                        }
                    }
                }
            }
            div.answer tabindex="0" role="region" aria-live="polite" aria-label=(format!("{name} answer's text")) {}
            p.answer-figures {}
        }
    }
}

/// `POST /chat`: a chat completion on account of the node's owner. The guard has checked who asks.
pub(super) async fn ask(State(app): State<App>, request: Request<Body>) -> Response {
    let Some(gateway) = app.modules.gateway.clone() else {
        let text = "There is no gateway in this process.";
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let Ok(body) = to_bytes(request.into_body(), CHAT_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    gateway.chat(body).await
}
