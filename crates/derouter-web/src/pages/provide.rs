//! What this node sells: its servers, its offers, how they stand on the market.

use std::str::FromStr;

use axum::Form;
use axum::extract::{Extension, Query, State};
use axum::response::{Html, Response};
use derouter_sdk::Wei;
use maud::{Markup, html};
use serde::Deserialize;

use super::{back, form_text, page_of};
use crate::board::Topic;
use crate::filter::Asked;
use crate::modules::{Backend, MarketOffer, OfferDraft, OfferTerms, ProvidedOffer};
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

/// The place of an offer's price among the market's offers of its model, and which share of the others'
/// is cheaper.
fn rank(offer: &ProvidedOffer, market: &[MarketOffer]) -> Markup {
    let own = offer.input_price.saturating_add(offer.output_price);
    let others = market
        .iter()
        .filter(|it| !it.own && it.model == offer.model);
    let prices: Vec<Wei> = others
        .map(|it| it.input_price.saturating_add(it.output_price))
        .collect();
    if prices.is_empty() {
        return html! { "the only one" };
    }
    let cheaper = prices.iter().filter(|price| **price < own).count();
    let percentile = cheaper * 100 / prices.len();
    let meaning = format!("{percentile} % of the others' offers of this model cost less");
    html! {
        (cheaper + 1) ". of " (prices.len() + 1)
        br; span.dim title=(meaning) { "percentile " (percentile) }
    }
}

fn list(session: &Session, offers: &[ProvidedOffer], market: Option<&[MarketOffer]>) -> Markup {
    let rows: Vec<Markup> = offers.iter().map(|offer| html! {
        td.wide { strong { (text::plain(&offer.id, text::SHORT)) } br; span.dim { (text::plain(&offer.model, text::SHORT)) } }
        td { @if offer.paused { (badge("warn", "paused")) } @else if offer.on_market { (badge("good", "on the market")) } @else { (badge("bad", "off the market")) }
            @if !offer.state.is_empty() { br; span.dim { (text::plain(&offer.state, 200)) } } }
        td.num { (pol(offer.input_price)) }
        td.num { (pol(offer.output_price)) }
        td.nowrap { @match market { Some(market) => (rank(offer, market)), None => "–" } }
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
                (more(offer.map(|it| &it.terms)))
                button type="submit" { "Save" }
                @if offer.is_some() { a.button.quiet href="/provide" { "Cancel" } }
            }
            p.dim { "It counts as soon as it is saved, and is kept over restarts beside the configuration file, which stays as it is." }
        }
    }
}

/// What most offers have no need of.
fn more(terms: Option<&OfferTerms>) -> Markup {
    let own = terms.cloned().unwrap_or_default();
    let names = |names: Option<Vec<String>>| names.unwrap_or_default().join(", ");
    let amount = |amount: Option<Wei>| match amount.filter(|it| !it.is_zero()) {
        Some(amount) => amount.to_pol_text(),
        None => String::new(),
    };
    let count = |count: Option<u64>| match count.filter(|it| *it > 0) {
        Some(count) => count.to_string(),
        None => String::new(),
    };
    let text = |title: &str, name: &str, most: &str, value: String| {
        html! { label { (title) input name=(name) maxlength=(most) value=(value); } }
    };
    let pol = |title: &str, name: &str, value: String| {
        html! { label { (title) input name=(name) inputmode="decimal" pattern="[0-9]+([.][0-9]+)?" placeholder="none" size="9" value=(value); } }
    };
    let number = |title: &str, name: &str, most: &str, value: String| {
        html! { label { (title) input type="number" name=(name) min="0" max=(most) placeholder="none" value=(value); } }
    };
    html! {
        details #more.more { summary { "More" }
            div.fields {
                label.broad { "About the offer" textarea name="description" rows="2" maxlength="4000" { (own.description.unwrap_or_default()) } }
                label.broad { "Prices by the clock (UTC), one window a line, the first that holds counts: sat,sun 22:00-06:00 x0.5, or in POL 22:00-06:00 0.1/0.4"
                    textarea name="schedule" rows="2" spellcheck="false" { (own.schedule.unwrap_or_default().join("\n")) } }
                (text("Model as the server names it", "backend_model", "256", own.backend_model.unwrap_or_default()))
                (text("Other names of the model (comma between)", "aliases", "1000", names(own.aliases)))
                (pol("POL for a request", "request_price", amount(own.request_price)))
                (pol("POL free for each new consumer", "trial", amount(own.trial)))
                (number("Longest answer (tokens)", "max_output", "16777216", count(own.max_output)))
                (number("Of the answers at a time, for one consumer", "places_per_consumer", "10000", count(own.places_per_consumer.map(u64::from))))
                (number("Requests that wait", "queue", "1000", count(own.queue.map(u64::from))))
                (text("What the model can, such as tools, json_schema", "features", "1000", names(own.features)))
                (text("How its weights are stored, such as q4_k_m", "quantization", "64", own.quantization.unwrap_or_default()))
                (text("Where it is (two letters)", "region", "2", own.region.unwrap_or_default()))
            }
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
    #[serde(flatten)]
    terms: TermsForm,
}

/// What is absent stays as it is; what is empty is none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TermsForm {
    backend_model: Option<String>,
    aliases: Option<String>,
    description: Option<String>,
    schedule: Option<String>,
    request_price: Option<String>,
    trial: Option<String>,
    max_output: Option<String>,
    places_per_consumer: Option<String>,
    queue: Option<String>,
    features: Option<String>,
    quantization: Option<String>,
    region: Option<String>,
}

impl TermsForm {
    fn read(self) -> Result<OfferTerms, String> {
        // Browsers send lines of a text area with `\r\n` between them.
        let text = |text: Option<String>| text.map(|text| text.trim().replace("\r\n", "\n"));
        let list = |text: Option<String>, between: char| {
            let parts = |text: String| {
                let parts = text.split(between).map(str::trim);
                let parts = parts.filter(|part| !part.is_empty());
                parts.map(str::to_owned).collect::<Vec<_>>()
            };
            text.map(parts)
        };
        let amount = |text: Option<String>| match text.as_deref().map(str::trim) {
            None => Ok(None),
            Some("") => Ok(Some(Wei::ZERO)),
            Some(text) => price(text).map(Some),
        };
        Ok(OfferTerms {
            backend_model: text(self.backend_model),
            aliases: list(self.aliases, ','),
            description: text(self.description),
            schedule: list(self.schedule, '\n'),
            request_price: amount(self.request_price)?,
            trial: amount(self.trial)?,
            max_output: count(self.max_output.as_deref())?,
            // There is no such thing as none for one consumer.
            places_per_consumer: count(self.places_per_consumer.as_deref())?.filter(|it| *it > 0),
            queue: count(self.queue.as_deref())?,
            features: list(self.features, ','),
            quantization: text(self.quantization),
            region: text(self.region),
        })
    }
}

fn count<N: FromStr + Default>(text: Option<&str>) -> Result<Option<N>, String> {
    match text.map(str::trim) {
        None => Ok(None),
        Some("") => Ok(Some(N::default())),
        Some(text) => match text.parse() {
            Ok(count) => Ok(Some(count)),
            Err(_) => Err(format!("{text:?} is not a number.")),
        },
    }
}

fn price(text: &str) -> Result<Wei, String> {
    Wei::from_pol_text(text.trim()).map_err(|error| format!("The price: {error}."))
}

fn draft(form: OfferForm) -> Result<OfferDraft, String> {
    Ok(OfferDraft {
        terms: form.terms.read()?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_touched_is_no_change() {
        let was = OfferTerms {
            description: Some(" One line,\nand another.\n".to_owned()),
            aliases: Some(vec![" a".to_owned()]),
            schedule: Some(vec!["sat x0.5 ".to_owned(), " sun x0.5".to_owned()]),
            ..OfferTerms::none()
        };
        let form = |description: &str| TermsForm {
            description: Some(description.to_owned()),
            aliases: Some(" a".to_owned()),
            schedule: Some("sat x0.5 \r\n sun x0.5".to_owned()),
            region: Some(String::new()),
            ..TermsForm::default()
        };
        let untouched = form(" One line,\r\nand another.\r\n").read().unwrap();
        assert_eq!(untouched.other_than(&was), OfferTerms::default());
        let changed = form("One line,\r\nand a third.").read().unwrap();
        let other = OfferTerms {
            description: Some("One line,\nand a third.".to_owned()),
            ..OfferTerms::default()
        };
        assert_eq!(changed.other_than(&was), other);
    }

    #[test]
    fn what_a_form_does_not_say_stays_and_what_is_empty_is_none() {
        let form = TermsForm {
            aliases: Some(" a, b,".to_owned()),
            schedule: Some("sat x0.5\r\n\r\n22:00-06:00 0.1/0.4\r\n".to_owned()),
            trial: Some(" ".to_owned()),
            max_output: Some(String::new()),
            places_per_consumer: Some(String::new()),
            queue: Some("3".to_owned()),
            ..TermsForm::default()
        };
        let terms = form.read().unwrap();
        let wanted = OfferTerms {
            aliases: Some(vec!["a".to_owned(), "b".to_owned()]),
            schedule: Some(vec![
                "sat x0.5".to_owned(),
                "22:00-06:00 0.1/0.4".to_owned(),
            ]),
            trial: Some(Wei::ZERO),
            max_output: Some(0),
            queue: Some(3),
            ..OfferTerms::default()
        };
        assert_eq!(terms, wanted);
        assert_eq!(terms.clone().other_than(&terms), OfferTerms::default());
        for (queue, trial) in [("-1", ""), ("many", ""), ("5000000000", ""), ("1", "much")] {
            let form = TermsForm {
                queue: Some(queue.to_owned()),
                trial: Some(trial.to_owned()),
                ..TermsForm::default()
            };
            assert!(form.read().is_err(), "{queue} {trial}");
        }
    }

    #[test]
    fn a_price_has_its_place_and_percentile_among_the_offers_of_its_model() {
        let own = offer(40);
        let market: Vec<MarketOffer> = [10, 20, 30, 40, 50].map(on_market).into_iter().collect();
        let shown = rank(&own, &market).into_string();
        assert!(
            shown.contains("4. of 6") && shown.contains("percentile 60"),
            "{shown}"
        );
        let cheapest = rank(&offer(1), &market).into_string();
        assert!(cheapest.contains("percentile 0<"), "{cheapest}");
        let mut mine = on_market(1);
        mine.own = true;
        let mut other = on_market(1);
        other.model = "other".to_owned();
        let alone = rank(&own, &[mine, other]).into_string();
        assert_eq!(alone, "the only one");
    }

    fn offer(price: u128) -> ProvidedOffer {
        ProvidedOffer {
            id: "o".to_owned(),
            model: "m".to_owned(),
            backend: String::new(),
            on_market: true,
            paused: false,
            state: String::new(),
            context: 1,
            input_price: Wei::from_wei(price),
            output_price: Wei::ZERO,
            places: 1,
            running: 0,
            waiting: 0,
            own_input_price: Wei::ZERO,
            own_output_price: Wei::ZERO,
            asked: 0,
            turned_away: 0,
            earned_today: Wei::ZERO,
            of_config: false,
            edited: false,
            terms: OfferTerms::none(),
        }
    }

    fn on_market(price: u128) -> MarketOffer {
        MarketOffer {
            provider: derouter_sdk::PeerId::random(),
            offer_id: "o".to_owned(),
            model: "m".to_owned(),
            context: 1,
            input_price: Wei::from_wei(price),
            output_price: Wei::ZERO,
            features: None,
            quantization: None,
            region: None,
            description: None,
            first_token: None,
            speed: None,
            success: None,
            uptime: None,
            path: String::new(),
            last_seen: None,
            load: None,
            cooling: false,
            own: false,
            excluded: None,
            standing: crate::modules::Standing::Usual,
        }
    }
}
