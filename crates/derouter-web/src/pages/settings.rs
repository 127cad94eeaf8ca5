//! What the configuration says, and what is in this process.

use axum::extract::{Extension, Query, State};
use axum::response::Html;
use derouter_sdk::wire::rpc::module::{ModulePlace, ModuleReport};
use maud::{Markup, html};

use super::page_of;
use crate::filter::Asked;
use crate::sessions::Session;
use crate::state::App;
use crate::ui::{Page, badge, page};
use crate::{text, ui};

/// `GET /settings?q=TEXT`.
pub(super) async fn show(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    Query(asked): Query<Asked>,
) -> Html<String> {
    let Some(settings) = &app.modules.settings else {
        let content = ui::not_here(
            "No configuration here",
            "This process does not tell its configuration.",
        );
        return page_of(&page(&app, &session, Page::Settings, None, &content));
    };
    let wanted = asked.wanted();
    let all = settings.all();
    let shown = all
        .iter()
        .filter(|setting| setting.key.to_lowercase().contains(&wanted));
    let rows: Vec<Markup> = shown
        .map(|setting| {
            let kind = if setting.origin == "default" {
                "plain"
            } else {
                ""
            };
            html! {
                td.wide { code { (text::plain(&setting.key, 200)) } }
                td.wide { code { (text::plain(&setting.value, text::LONG)) } }
                td { (badge(kind, &text::plain(&setting.origin, 60))) }
            }
        })
        .collect();
    let content = html! {
        p { @match settings.file() {
            Some(file) => { "The file is " code { (text::plain(&file, 400)) } ". It is read at the start: change it there and restart the node." },
            None => "No file was given: these are the defaults. `derouter init` writes one.",
        } }
        form.row method="get" action="/settings" role="search" {
            label { "Key" input type="search" name="q" value=(asked.q) maxlength="100"; }
            button type="submit" { "Show" }
        }
        section.card {
            @if rows.is_empty() { p { "There is no such key." } }
            @else { (ui::table("Settings", &["Key", "Value", "From"], &rows)) }
        }
    };
    page_of(&page(&app, &session, Page::Settings, None, &content))
}

/// Modules that are listed.
const MOST_MODULES: usize = 200;

fn connected(all: &[ModuleReport]) -> Markup {
    let now = text::now();
    let rows: Vec<Markup> = all.iter().take(MOST_MODULES).map(|module| html! {
        td { (text::plain(&module.name, text::SHORT)) " " span.dim { (module.version.as_deref().map(|it| text::plain(it, 40)).unwrap_or_default()) } }
        td { @match module.place {
            ModulePlace::Node => "in this process",
            ModulePlace::Connection => { "over the RPC " span.dim { (module.from.as_deref().map(|it| text::plain(it, 80)).unwrap_or_default()) } }
        } }
        td { (text::plain(&module.capabilities.join(", "), text::SHORT)) }
        td.nowrap { (text::ago(module.since, now)) }
    }).collect();
    ui::table("Modules", &["Module", "Where", "May", "Since"], &rows)
}

/// `GET /modules`.
pub(super) async fn modules(
    State(app): State<App>,
    Extension(session): Extension<Session>,
) -> Html<String> {
    let modules = &app.modules;
    let part = |name: &str, here: bool, what: &str, more: Markup| {
        html! {
            section.card {
                h2 { (name) " " @if here { (badge("good", "in this process")) } @else { (badge("plain", "not in this process")) } }
                p { (what) }
                (more)
            }
        }
    };
    let gateway = modules.gateway.as_ref();
    let provider = modules.provider.as_ref();
    let content = html! {
        p { "Modules speak a service's protocol. They run in the node's process, or beside it over the RPC ("
            code { "derouter openai provide" } ", " code { "derouter openai consume" } ", programs of others): those beside it have a state of their own, which other pages do not see; their jobs are in the ledger all the same." }
        @match app.node.modules(false).await {
            Err(error) => p.notice { "The node does not tell its modules: " (error) },
            Ok(all) => section.card {
                h2 { "All modules of this node" }
                @if all.is_empty() { p { "There is none." } } @else { (connected(&all)) }
            }
        }
        div.grid {
            (part("OpenAI gateway", gateway.is_some(), "Buys: an endpoint for programs on this machine.", html! {
                @if let Some(gateway) = gateway { dl.facts {
                    dt { "Address" } dd { code { "http://" (gateway.address()) "/v1" } }
                    dt { "Keys" } dd { @if gateway.wants_key() { "needed" } @else { "not needed" } }
                    dt { "Offers known" } dd { (gateway.offers().len()) }
                } }
            }))
            (part("OpenAI provider", provider.is_some(), "Sells what servers answer.", html! {
                @if let Some(provider) = provider { dl.facts {
                    dt { "Offers" } dd { (provider.offers().len()) }
                    @for backend in provider.backends() {
                        dt { "Server" } dd { code { (text::plain(&backend.url, 200)) } " " @if backend.up { (badge("good", "answers")) } @else { (badge("bad", "does not answer")) } }
                    }
                } }
            }))
        }
    };
    page_of(&page(&app, &session, Page::Modules, None, &content))
}
