//! What this node sells: its servers, its offers, how they stand on the market.

use axum::Form;
use axum::extract::{Extension, Query, State};
use axum::response::{Html, Response};
use derouter_sdk::Wei;
use maud::{Markup, html};
use serde::Deserialize;

use super::{back, form_text, page_of};
use crate::board::Topic;
use crate::filter::Asked;
use crate::modules::{Backend, MarketOffer, OfferDraft, ProvidedOffer};
use crate::sessions::Session;
use crate::state::App;
use crate::ui::{Page, badge, page, pol};
use crate::{text, ui};

/// `GET /provide`.
pub(super) async fn show(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    Query(asked): Query<Asked>,
) -> Html<String> {
    let Some(provider) = &app.modules.provider else {
        let how = "To sell, add `openai: { provider: {...} }` to the configuration (`derouter init` finds the servers of this machine) \
                   and start the node again.";
        let content = ui::not_here("No provider in this process", how);
        return page_of(&page(&app, &session, Page::Provide, None, &content));
    };
    let (offers, backends) = (provider.offers(), provider.backends());
    let market = app.modules.gateway.as_ref().map(|gateway| gateway.offers());
    let edited = offers.iter().find(|offer| offer.id == asked.q);
    let content = html! {
        (ui::said(&asked.said))
        div #live {
            (servers(&backends))
            section.card {
                h2 { "Offers" }
                @if offers.is_empty() { p { "Nothing is offered yet." } }
                @else { (list(&session, &offers, market.as_deref())) }
                @if market.is_none() { p.dim { "Ranks by price are known where a gateway runs in the same process." } }
            }
        }
        (editor(&session, &backends, edited))
    };
    page_of(&page(
        &app,
        &session,
        Page::Provide,
        Some(Topic::Provide),
        &content,
    ))
}

fn servers(backends: &[Backend]) -> Markup {
    html! {
        section.card {
            h2 { "Servers" }
            ul { @for backend in backends { li {
                code { (text::plain(&backend.url, 200)) } " "
                @if backend.up { (badge("good", "answers")) } @else { (badge("bad", "does not answer")) }
                " " span.dim { (text::plain(&backend.state, text::LONG)) }
            } } }
        }
    }
}

/// Which share of the others' offers of a model is cheaper, in words.
fn rank(offer: &ProvidedOffer, market: &[MarketOffer]) -> String {
    let own = offer.input_price.saturating_add(offer.output_price);
    let others = market
        .iter()
        .filter(|it| !it.own && it.model == offer.model);
    let prices: Vec<Wei> = others
        .map(|it| it.input_price.saturating_add(it.output_price))
        .collect();
    if prices.is_empty() {
        return "the only one".to_owned();
    }
    let cheaper = prices.iter().filter(|price| **price < own).count();
    format!("{}. of {} by price", cheaper + 1, prices.len() + 1)
}

fn list(session: &Session, offers: &[ProvidedOffer], market: Option<&[MarketOffer]>) -> Markup {
    let rows: Vec<Markup> = offers.iter().map(|offer| html! {
        td.wide { strong { (text::plain(&offer.id, text::SHORT)) } br; span.dim { (text::plain(&offer.model, text::SHORT)) } }
        td { @if offer.paused { (badge("warn", "paused")) } @else if offer.on_market { (badge("good", "on the market")) } @else { (badge("bad", "off the market")) }
            @if !offer.state.is_empty() { br; span.dim { (text::plain(&offer.state, 200)) } } }
        td.num { (pol(offer.input_price)) }
        td.num { (pol(offer.output_price)) }
        td.nowrap { (market.map_or_else(|| "–".to_owned(), |market| rank(offer, market))) }
        td.num { (offer.running) " of " (offer.places) }
        td.num { (offer.waiting) }
        td.num { (text::count(offer.asked)) @if offer.turned_away > 0 { br; span.dim { (text::count(offer.turned_away)) " turned away" } } }
        td.num { (pol(offer.earned_today)) }
        td { div.actions { (actions(session, offer)) } }
    }).collect();
    let head = [
        "Offer", "State", "#In", "#Out", "Rank", "#Answers", "#Waiting", "#Asked", "#Today", "",
    ];
    ui::table("Own offers", &head, &rows)
}

fn actions(session: &Session, offer: &ProvidedOffer) -> Markup {
    let button = |to: &str, title: &str, class: &str, ask: Option<&str>, paused: Option<bool>| {
        html! {
            form method="post" action=(to) data-confirm=[ask] {
                (ui::csrf(session))
                input type="hidden" name="id" value=(offer.id);
                @if let Some(paused) = paused { input type="hidden" name="paused" value=(paused); }
                button class=(class) type="submit" aria-label=(format!("{title} {}", text::plain(&offer.id, 40))) { (title) }
            }
        }
    };
    html! {
        @if offer.paused { (button("/provide/pause", "Resume", "", None, Some(false))) }
        @else { (button("/provide/pause", "Pause", "quiet", None, Some(true))) }
        (button("/provide/test", "Test", "quiet", None, None))
        a.button.quiet href=(format!("/provide?q={}#edit", form_text(&offer.id))) { "Edit" }
        @if offer.of_config {
            @if offer.edited { (button("/provide/restore", "Restore", "quiet", Some("Drop what was changed? It is as the configuration has it then."), None)) }
        } @else { (button("/provide/remove", "Remove", "bad", Some("Remove this offer?"), None)) }
    }
}

fn editor(session: &Session, backends: &[Backend], offer: Option<&ProvidedOffer>) -> Markup {
    let text_of = |of: fn(&ProvidedOffer) -> String| offer.map(of).unwrap_or_default();
    let price =
        |of: fn(&ProvidedOffer) -> Wei| offer.map(|it| of(it).to_pol_text()).unwrap_or_default();
    html! {
        section #edit.card {
            h2 { @if offer.is_some() { "Edit the offer" } @else { "Add an offer" } }
            form.row method="post" action="/provide/save" {
                (ui::csrf(session))
                label { "Id" input name="id" required maxlength="128" value=(text_of(|it| it.id.clone())) readonly[offer.is_some()]; }
                label { "Model" input name="model" required maxlength="256" value=(text_of(|it| it.model.clone())); }
                input type="hidden" name="is_new" value=(offer.is_none());
                (server(backends, offer))
                label { "Context (tokens)" input type="number" name="context" min="1" max="16777216" required value=(offer.map_or(8192, |it| it.context)); }
                label { "POL for 1,000,000 in" input name="input_price" required inputmode="decimal" pattern="[0-9]+([.][0-9]+)?" size="9" value=(price(|it| it.own_input_price)); }
                label { "POL for 1,000,000 out" input name="output_price" required inputmode="decimal" pattern="[0-9]+([.][0-9]+)?" size="9" value=(price(|it| it.own_output_price)); }
                label { "Answers at a time" input type="number" name="places" min="1" max="10000" required value=(offer.map_or(8, |it| it.places)); }
                button type="submit" { "Save" }
                @if offer.is_some() { a.button.quiet href="/provide" { "Cancel" } }
            }
            p.dim { "It counts as soon as it is saved, and is kept over restarts beside the configuration file, which stays as it is." }
        }
    }
}

/// Which server answers: to choose, but for an offer whose server the configuration says.
fn server(backends: &[Backend], offer: Option<&ProvidedOffer>) -> Markup {
    if let Some(offer) = offer.filter(|it| it.of_config) {
        let why = "The configuration says which server answers this offer.";
        return html! {
            label title=(why) { "Server (of the configuration)" input name="backend" readonly value=(offer.backend); }
        };
    }
    let is_own = |url: &str| offer.is_some_and(|it| it.backend == url);
    html! {
        label { "Server" select name="backend" {
            @for backend in backends { option value=(backend.url) selected[is_own(&backend.url)] { (text::plain(&backend.url, 100)) } }
        } }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct OfferForm {
    id: String,
    is_new: bool,
    model: String,
    backend: String,
    context: u64,
    input_price: String,
    output_price: String,
    places: u32,
}

fn draft(form: OfferForm) -> Result<OfferDraft, String> {
    let price = |text: &str| {
        Wei::from_pol_text(text.trim()).map_err(|error| format!("The price: {error}."))
    };
    Ok(OfferDraft {
        input_price: price(&form.input_price)?,
        output_price: price(&form.output_price)?,
        id: form.id.trim().to_owned(),
        is_new: form.is_new,
        model: form.model.trim().to_owned(),
        backend: form.backend,
        context: form.context,
        places: form.places,
    })
}

fn told(app: &App, done: Result<String, String>) -> Response {
    app.board.changed(&[Topic::Provide, Topic::Overview]);
    back("/provide", &done.unwrap_or_else(|why| why))
}

const NOT_HERE: &str = "There is no provider in this process.";

/// `POST /provide/save`.
pub(super) async fn save(State(app): State<App>, Form(form): Form<OfferForm>) -> Response {
    let Some(provider) = app.modules.provider.clone() else {
        return back("/provide", NOT_HERE);
    };
    let done = match draft(form) {
        Ok(draft) => provider.save(draft).await.map(|()| "Saved.".to_owned()),
        Err(why) => Err(why),
    };
    told(&app, done)
}

#[derive(Debug, Deserialize)]
pub(super) struct PauseForm {
    id: String,
    paused: bool,
}

/// `POST /provide/pause`.
pub(super) async fn pause(State(app): State<App>, Form(form): Form<PauseForm>) -> Response {
    let Some(provider) = app.modules.provider.clone() else {
        return back("/provide", NOT_HERE);
    };
    let done = provider.set_paused(&form.id, form.paused).await;
    let said = if form.paused {
        "Paused: it leaves the market now."
    } else {
        "Resumed."
    };
    told(&app, done.map(|()| said.to_owned()))
}

#[derive(Debug, Deserialize)]
pub(super) struct OfferName {
    id: String,
}

/// `POST /provide/remove`.
pub(super) async fn remove(State(app): State<App>, Form(form): Form<OfferName>) -> Response {
    let Some(provider) = app.modules.provider.clone() else {
        return back("/provide", NOT_HERE);
    };
    let done = provider.remove(&form.id).await;
    told(&app, done.map(|()| "Removed.".to_owned()))
}

/// `POST /provide/restore`.
pub(super) async fn restore(State(app): State<App>, Form(form): Form<OfferName>) -> Response {
    let Some(provider) = app.modules.provider.clone() else {
        return back("/provide", NOT_HERE);
    };
    let done = provider.restore(&form.id).await;
    told(
        &app,
        done.map(|()| "As the configuration has it.".to_owned()),
    )
}

/// `POST /provide/test`.
pub(super) async fn test(State(app): State<App>, Form(form): Form<OfferName>) -> Response {
    let Some(provider) = app.modules.provider.clone() else {
        return back("/provide", NOT_HERE);
    };
    told(&app, provider.test(&form.id).await)
}
