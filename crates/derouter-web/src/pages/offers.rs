//! The market: all offers, to filter, sort and compare.

use axum::extract::{Extension, Query, State};
use axum::response::Html;
use maud::{Markup, html};

use super::{form_text, page_of};
use crate::board::Topic;
use crate::filter::Asked;
use crate::modules::{MarketOffer, Standing};
use crate::sessions::Session;
use crate::state::App;
use crate::ui::{Page, badge, measured, page, percent, pol};
use crate::{text, ui};

/// Offers on one page; the filter finds the others.
const MOST_SHOWN: usize = 200;

/// Offers that are compared side by side.
const MOST_COMPARED: usize = 4;

/// What offers are sorted by: its name in the URL, and what people read.
const SORTS: [(&str, &str); 6] = [
    ("price", "Price"),
    ("first", "First token"),
    ("speed", "Speed"),
    ("uptime", "Uptime"),
    ("context", "Context"),
    ("model", "Model"),
];

/// `GET /offers`.
pub(super) async fn show(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    Query(asked): Query<Asked>,
) -> Html<String> {
    let Some(gateway) = &app.modules.gateway else {
        let how = "Offers are seen and measured by the gateway. Add `openai: { consumer: {} }` to the \
                   configuration, or ask the process that buys.";
        let content = ui::not_here("No gateway in this process", how);
        return page_of(&page(&app, &session, Page::Offers, None, &content));
    };
    let mut offers = gateway.offers();
    let all = offers.len();
    let features = features_of(&offers);
    filter(&mut offers, &asked);
    sort(&mut offers, &asked.sort);
    let found = offers.len();
    let compared = compared(&offers, &asked.compare);
    let content = html! {
        (form(&asked, &features))
        div #live {
            @if !compared.is_empty() { (side_by_side(&app, &compared)) }
            section.card.offers {
                p.dim { (found) " of " (all) " offers"
                    @if found > MOST_SHOWN { ", the first " (MOST_SHOWN) " shown" } ". Prices are POL for 1,000,000 tokens. Times and speeds were measured by this node: half of them were below the first value, nine of ten below the second. Below the answers that went well is how much of the time the offer was there; below when its provider was heard, how it is reached." }
                @if found == 0 { p { "No offer fits. A node that has just started hears of offers within a minute." } }
                @else { (list(&app, &offers, &asked)) }
            }
        }
    };
    page_of(&page(
        &app,
        &session,
        Page::Offers,
        Some(Topic::Offers),
        &content,
    ))
}

fn features_of(offers: &[MarketOffer]) -> Vec<String> {
    let all = offers.iter().filter_map(|offer| offer.features.as_deref());
    let all: std::collections::BTreeSet<&String> = all.flatten().collect();
    all.into_iter()
        .take(40)
        .map(|name| text::plain(name, 30))
        .collect()
}

fn filter(offers: &mut Vec<MarketOffer>, asked: &Asked) {
    let wanted = asked.wanted();
    let feature = asked.only.trim();
    offers.retain(|offer| {
        let found = wanted.is_empty()
            || offer.model.to_lowercase().contains(&wanted)
            || offer.offer_id.to_lowercase().contains(&wanted)
            || offer.provider.to_string().to_lowercase().contains(&wanted);
        let has = feature.is_empty()
            || offer
                .features
                .as_ref()
                .is_some_and(|all| all.iter().any(|it| it == feature));
        found && has
    });
}

fn sort(offers: &mut [MarketOffer], by: &str) {
    let first = |offer: &MarketOffer| offer.first_token.map_or(f64::MAX, |it| it.p50);
    let speed = |offer: &MarketOffer| offer.speed.map_or(0.0, |it| it.p50);
    let uptime = |offer: &MarketOffer| offer.uptime.unwrap_or(0.0);
    offers.sort_by(|one, other| {
        let order = match by {
            "first" => first(one).total_cmp(&first(other)),
            "speed" => speed(other).total_cmp(&speed(one)),
            "uptime" => uptime(other).total_cmp(&uptime(one)),
            "context" => other.context.cmp(&one.context),
            "model" => one.model.cmp(&other.model),
            _ => price(one).cmp(&price(other)),
        };
        order.then_with(|| price(one).cmp(&price(other)))
    });
}

/// What offers are compared by: prompts are longer than answers.
fn price(offer: &MarketOffer) -> derouter_sdk::Wei {
    offer.input_price.saturating_add(offer.output_price)
}

fn key(offer: &MarketOffer) -> String {
    format!("{}/{}", offer.provider, offer.offer_id)
}

fn compared<'a>(offers: &'a [MarketOffer], asked: &str) -> Vec<&'a MarketOffer> {
    let keys: Vec<&str> = asked.split(',').filter(|key| !key.is_empty()).collect();
    let named = offers
        .iter()
        .filter(|offer| keys.contains(&key(offer).as_str()));
    named.take(MOST_COMPARED).collect()
}

fn form(asked: &Asked, features: &[String]) -> Markup {
    html! {
        form.row method="get" action="/offers" role="search" {
            label { "Model, offer or provider" input type="search" name="q" value=(asked.q) maxlength="100"; }
            label { "Feature"
                select name="only" {
                    option value="" { "any" }
                    @for name in features { option value=(name) selected[*name == asked.only] { (name) } }
                }
            }
            label { "Sort by"
                select name="sort" { @for (name, title) in SORTS { option value=(name) selected[name == asked.sort] { (title) } } }
            }
            button type="submit" { "Show" }
        }
    }
}

fn list(app: &App, offers: &[MarketOffer], asked: &Asked) -> Markup {
    let head = [
        "Model",
        "Provider",
        "#In",
        "#Out",
        "#Context",
        "#First token",
        "#Tokens/s",
        "#Success",
        "Last seen",
        "",
    ];
    let rows: Vec<Markup> = offers
        .iter()
        .take(MOST_SHOWN)
        .map(|offer| row(app, offer, asked))
        .collect();
    ui::table("Offers", &head, &rows)
}

/// What an offer can do, in marks.
pub(super) fn marks(offer: &MarketOffer) -> Markup {
    html! {
        @if offer.own { (badge("plain", "own")) " " }
        @match offer.standing {
            Standing::Pinned => { (badge("good", "pinned")) " " }
            Standing::Blocked => { (badge("bad", "blocked")) " " }
            Standing::Usual => {}
        }
        @if offer.cooling { (badge("warn", "failed lately")) " " }
        @if let Some(why) = &offer.excluded { span title=(text::plain(why, text::LONG)) { (badge("warn", "not bought")) } " " }
        @if let Some(how) = &offer.quantization { (badge("plain", &text::plain(how, 16))) " " }
        @for name in offer.features.iter().flatten().take(6) { (badge("plain", &text::plain(name, 24))) " " }
    }
}

fn row(app: &App, offer: &MarketOffer, asked: &Asked) -> Markup {
    let now = text::now();
    let heard = app
        .board
        .provider(&offer.provider)
        .map(|record| record.latest_heartbeat_at);
    let seen = offer.last_seen.max(heard).filter(|_| !offer.own);
    let mut keys: Vec<String> = asked
        .compare
        .split(',')
        .filter(|it| !it.is_empty())
        .map(str::to_owned)
        .collect();
    let own = key(offer);
    let shown = keys.contains(&own);
    match shown {
        true => keys.retain(|it| *it != own),
        false if keys.len() >= MOST_COMPARED => {
            keys.remove(0);
            keys.push(own.clone());
        }
        false => keys.push(own.clone()),
    }
    let compare = format!(
        "/offers?q={}&only={}&sort={}&compare={}",
        form_text(&asked.q),
        form_text(&asked.only),
        form_text(&asked.sort),
        form_text(&keys.join(","))
    );
    html! {
        td.wide {
            a href=(format!("/model?model={}", form_text(&offer.model))) { (text::plain(&offer.model, text::SHORT)) }
            div { (marks(offer)) }
        }
        td { (ui::peer(app, &offer.provider)) @if let Some(region) = &offer.region { br; span.dim { (text::plain(region, 8)) } } }
        td.num { (pol(offer.input_price)) }
        td.num { (pol(offer.output_price)) }
        td.num { (text::count(offer.context)) }
        td.num { (measured(offer.first_token, "s", 2)) }
        td.num { (measured(offer.speed, "", 1)) }
        td.num { (percent(offer.success)) @if offer.uptime.is_some() { br; span.dim { "up " (percent(offer.uptime)) } } }
        td.nowrap { (seen.map_or_else(|| "–".to_owned(), |at| text::ago(at, now))) br; span.dim { (text::plain(&offer.path, 20)) } }
        td { div.links {
            a href=(format!("/offer?q={}", form_text(&own))) { "Details" }
            a href=(compare) { @if shown { "Compared" } @else { "Compare" } }
        } }
    }
}

fn side_by_side(app: &App, offers: &[&MarketOffer]) -> Markup {
    let mut head = vec![""];
    let names: Vec<String> = offers
        .iter()
        .map(|offer| text::plain(&offer.model, 40))
        .collect();
    head.extend(names.iter().map(String::as_str));
    let line = |title: &str, cell: &dyn Fn(&MarketOffer) -> Markup| {
        html! { th scope="row" { (title) } @for offer in offers { td { (cell(offer)) } } }
    };
    let rows = [
        line("Provider", &|offer| ui::peer(app, &offer.provider)),
        line("Price in", &|offer| pol(offer.input_price)),
        line("Price out", &|offer| pol(offer.output_price)),
        line("Context", &|offer| html! { (text::count(offer.context)) }),
        line("First token", &|offer| measured(offer.first_token, "s", 2)),
        line("Tokens/s", &|offer| measured(offer.speed, "", 1)),
        line("Success", &|offer| percent(offer.success)),
        line("Uptime", &|offer| percent(offer.uptime)),
        line("Path", &|offer| html! { (text::plain(&offer.path, 20)) }),
        line("What it can", &marks),
    ];
    html! {
        section.card {
            h2 { "Compared" }
            (ui::table("Compared offers", &head, &rows))
            p { a href="/offers" { "Compare no more" } }
        }
    }
}
