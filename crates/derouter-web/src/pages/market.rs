//! A model with its providers, and a single offer.

use axum::Form;
use axum::extract::{Extension, Query, State};
use axum::response::{IntoResponse, Response};
use derouter_sdk::PeerId;
use hyper::StatusCode;
use maud::{Markup, html};
use serde::Deserialize;

use super::offers::marks;
use super::{back, form_text, page_of};
use crate::board::Topic;
use crate::filter::Asked;
use crate::modules::{Gateway, MarketOffer, Quote, Standing};
use crate::sessions::Session;
use crate::state::App;
use crate::ui::{Page, measured, page, percent, pol};
use crate::{chart, text, ui};

/// Tokens that the calculator begins with, and takes at the most.
const USUAL_INPUT: u64 = 1000;
const USUAL_OUTPUT: u64 = 500;
const MOST_TOKENS: u64 = 100_000_000;

fn no_gateway(app: &App, session: &Session) -> Response {
    let how = "Add `openai: { consumer: {} }` to the configuration.";
    let content = ui::not_here("No gateway in this process", how);
    page_of(&page(app, session, Page::Offers, None, &content)).into_response()
}

/// `GET /model?model=NAME&in=N&out=N`.
pub(super) async fn model(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    Query(asked): Query<Asked>,
) -> Response {
    let Some(gateway) = app.modules.gateway.clone() else {
        return no_gateway(&app, &session);
    };
    let name = asked.model.as_str();
    let input = Asked::number(&asked.input, USUAL_INPUT, MOST_TOKENS);
    let output = Asked::number(&asked.out, USUAL_OUTPUT, MOST_TOKENS);
    let quote = gateway.quote(name, input, output).await;
    let offers: Vec<MarketOffer> = gateway
        .offers()
        .into_iter()
        .filter(|offer| offer.model == name)
        .collect();
    let content = html! {
        p { a href="/offers" { "Offers" } " / " strong { (text::plain(name, text::SHORT)) } }
        form.row method="get" action="/model" {
            input type="hidden" name="model" value=(name);
            label { "Tokens of the prompt" input type="number" name="in" min="0" value=(input); }
            label { "Tokens of the answer" input type="number" name="out" min="0" value=(output); }
            button type="submit" { "Calculate" }
            a.button.quiet href=(format!("/chat?model={}", form_text(name))) { "Chat" }
        }
        div #live {
            @match quote {
                Err(why) => section.card { h2 { "Can't be bought now" } p { (text::plain(&why, text::LONG)) } },
                Ok(quote) => (quoted(&app, &quote, &offers)),
            }
            @if !offers.is_empty() { (providers(&app, &offers)) }
        }
    };
    page_of(&page(
        &app,
        &session,
        Page::Offers,
        Some(Topic::Offers),
        &content,
    ))
    .into_response()
}

/// A provider by its peer id as text.
fn by_id(app: &App, id: &str) -> Markup {
    match id.parse::<PeerId>() {
        Ok(peer) => ui::peer(app, &peer),
        Err(_) => html! { (text::plain(id, text::SHORT)) },
    }
}

fn quoted(app: &App, quote: &Quote, offers: &[MarketOffer]) -> Markup {
    let head = ["#", "Provider", "#Cost (POL)", "#Score", "Why"];
    let head: Vec<&str> = head
        .into_iter()
        .map(|it| if it == "#" { "Order" } else { it })
        .collect();
    let rows: Vec<Markup> = quote.offers.iter().enumerate().map(|(place, offer)| {
        let parts = offer.parts.iter().map(|(name, value)| format!("{name} {:.3}", value + 0.0));
        let parts: Vec<String> = parts.collect();
        html! {
            td { (place + 1) @if place == 0 { " " (ui::badge("good", "first choice")) } }
            td { (by_id(app, &offer.provider)) " " span.dim { (text::plain(&offer.offer, 40)) } }
            td.num { (text::plain(&offer.cost, 32)) }
            td.num { (format!("{:.3}", offer.score)) }
            td.wide.dim { (parts.join(" · ")) }
        }
    }).collect();
    html! {
        section.card {
            h2 { "What this request would cost, and who would be asked first" }
            @if rows.is_empty() { p { "No offer fits." } }
            @else {
                (ui::table("Quote", &head, &rows))
                p.dim { "The lowest score is asked first. It is the sum of the parts, weighed as the configuration says (" code { "openai.consumer.routing.weights" } ")." }
            }
            @if !quote.left_out.is_empty() {
                h3 { "Left out" }
                ul { @for out in quote.left_out.iter().take(20) {
                    li { (by_id(app, &out.provider)) " " span.dim { (text::plain(&out.offer, 40)) } ": " (text::plain(&out.rule, 40)) " " (text::plain(&out.detail, 200)) }
                } }
            }
            @if offers.is_empty() { p.dim { "No offer has this model under its own name." } }
        }
    }
}

fn providers(app: &App, offers: &[MarketOffer]) -> Markup {
    let head = [
        "Provider",
        "#In",
        "#Out",
        "#Context",
        "#First token",
        "#Tokens/s",
        "#Uptime",
        "What it can",
        "",
    ];
    let rows: Vec<Markup> = offers
        .iter()
        .map(|offer| {
            html! {
                td { (ui::peer(app, &offer.provider)) }
                td.num { (pol(offer.input_price)) }
                td.num { (pol(offer.output_price)) }
                td.num { (text::count(offer.context)) }
                td.num { (measured(offer.first_token, "s", 2)) }
                td.num { (measured(offer.speed, "", 1)) }
                td.num { (percent(offer.uptime)) }
                td.wide { (marks(offer)) }
                td { a href=(offer_url(offer)) { "Details" } }
            }
        })
        .collect();
    html! { section.card { h2 { "Its providers" } (ui::table("Providers of this model", &head, &rows)) } }
}

fn offer_url(offer: &MarketOffer) -> String {
    format!(
        "/offer?q={}",
        form_text(&format!("{}/{}", offer.provider, offer.offer_id))
    )
}

/// An offer by `PEER/ID`.
fn find(gateway: &dyn Gateway, key: &str) -> Option<MarketOffer> {
    let (peer, id) = key.split_once('/')?;
    let peer: PeerId = peer.parse().ok()?;
    let mut offers = gateway.offers().into_iter();
    offers.find(|offer| offer.provider == peer && offer.offer_id == id)
}

/// `GET /offer?q=PEER/ID`.
pub(super) async fn offer(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    Query(asked): Query<Asked>,
) -> Response {
    let Some(gateway) = &app.modules.gateway else {
        return no_gateway(&app, &session);
    };
    let Some(offer) = find(gateway.as_ref(), &asked.q) else {
        let content = html! { p { "This offer is not on the market now." } p { a href="/offers" { "All offers" } } };
        let shown = page_of(&page(&app, &session, Page::Offers, None, &content));
        return (StatusCode::NOT_FOUND, shown).into_response();
    };
    let content = html! {
        (ui::said(&asked.said))
        p { a href="/offers" { "Offers" } " / " a href=(format!("/model?model={}", form_text(&offer.model))) { (text::plain(&offer.model, text::SHORT)) }
            " / " strong { (text::plain(&offer.offer_id, text::SHORT)) } }
        div #live { div.grid { (facts(&app, &offer)) (history(&app, &offer)) } }
        (standing(&session, &offer))
    };
    page_of(&page(
        &app,
        &session,
        Page::Offers,
        Some(Topic::Offers),
        &content,
    ))
    .into_response()
}

fn facts(app: &App, offer: &MarketOffer) -> Markup {
    let record = app.board.provider(&offer.provider);
    let teaser = record.as_ref().and_then(|record| record.teaser.clone());
    let about = record
        .as_ref()
        .and_then(|record| record.description.clone());
    html! {
        section.card {
            h2 { "The offer" }
            dl.facts {
                dt { "Provider" } dd { (ui::peer(app, &offer.provider)) }
                @if let Some(teaser) = teaser { dt { "It says" } dd { (text::plain(&teaser, text::LONG)) } }
                @if let Some(about) = about { dt { "More" } dd { (text::plain(&about, text::LONG)) } }
                @if let Some(about) = &offer.description { dt { "About the offer" } dd { (text::plain(about, text::LONG)) } }
                dt { "Price in, out" } dd { (pol(offer.input_price)) ", " (pol(offer.output_price)) " POL for 1,000,000 tokens" }
                dt { "Context" } dd { (text::count(offer.context)) " tokens" }
                dt { "What it can" } dd { (marks(offer)) }
                dt { "First token" } dd { (measured(offer.first_token, "s", 2)) }
                dt { "Tokens a second" } dd { (measured(offer.speed, "", 1)) }
                dt { "Success, uptime" } dd { (percent(offer.success)) ", " (percent(offer.uptime)) }
                dt { "Path" } dd { (text::plain(&offer.path, 20)) }
                @if let Some(load) = offer.load { dt { "Load" } dd { (load) " %" } }
                @if let Some(why) = &offer.excluded { dt { "Not bought" } dd { (text::plain(why, text::LONG)) } }
            }
        }
    }
}

fn history(app: &App, offer: &MarketOffer) -> Markup {
    let gateway = app.modules.gateway.as_ref();
    let prices = gateway.map(|it| it.prices(offer.provider, &offer.offer_id));
    let prices = prices.unwrap_or_default();
    let values: Vec<f64> = prices
        .iter()
        .map(|price| price.output.approximately())
        .collect();
    let rows: Vec<Markup> = prices
        .iter()
        .rev()
        .map(|price| {
            html! {
                td.nowrap { (text::utc(price.since)) }
                td.num { (pol(price.input)) }
                td.num { (pol(price.output)) }
            }
        })
        .collect();
    html! {
        section.card {
            h2 { "Price history" }
            @if rows.is_empty() { p.dim { "Prices are noted from now on." } }
            @else {
                p { (chart::spark("Price of the answer over time", &values)) }
                (ui::table("Prices of this offer", &["Since (UTC)", "#In", "#Out"], &rows))
                p.dim { "As this node saw it, while it ran." }
            }
        }
    }
}

fn standing(session: &Session, offer: &MarketOffer) -> Markup {
    let button = |standing: &str, title: &str, class: &str| {
        html! {
            form method="post" action="/offers/standing" {
                (ui::csrf(session))
                input type="hidden" name="provider" value=(offer.provider);
                input type="hidden" name="to" value=(format!("{}/{}", offer.provider, offer.offer_id));
                input type="hidden" name="standing" value=(standing);
                button class=(class) type="submit" { (title) }
            }
        }
    };
    html! {
        section.card {
            h2 { "This provider" }
            p { "A pinned provider is asked before all others that fit, a blocked one never. It counts from the next request on, and is kept." }
            div.actions {
                @if offer.standing != Standing::Pinned { (button("pinned", "Pin", "")) }
                @if offer.standing != Standing::Blocked { (button("blocked", "Block", "bad")) }
                @if offer.standing != Standing::Usual { (button("usual", "Neither", "quiet")) }
            }
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct StandingForm {
    provider: String,
    standing: String,
    to: String,
}

/// `POST /offers/standing`.
pub(super) async fn set_standing(
    State(app): State<App>,
    Form(form): Form<StandingForm>,
) -> Response {
    let to = format!("/offer?q={}", form_text(&form.to));
    let (standing, said) = match form.standing.as_str() {
        "pinned" => (Standing::Pinned, "Pinned."),
        "blocked" => (Standing::Blocked, "Blocked."),
        _ => (Standing::Usual, "Neither pinned nor blocked."),
    };
    let (Ok(peer), Some(gateway)) = (form.provider.parse::<PeerId>(), &app.modules.gateway) else {
        return back(&to, "There is no such provider.");
    };
    let done = gateway.set_standing(peer, standing);
    app.board.changed(&[Topic::Offers]);
    back(&to, &done.map_or_else(|why| why, |()| said.to_owned()))
}
