//! What pages are made of.

use derouter_sdk::{PeerId, Wei};
use maud::{DOCTYPE, Markup, html};

use crate::board::Topic;
use crate::modules::Measured;
use crate::sessions::Session;
use crate::state::App;
use crate::{assets, text};

/// The pages of the menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Overview,
    Offers,
    Chat,
    Jobs,
    Money,
    Network,
    Provide,
    Modules,
    Settings,
    Logs,
}

impl Page {
    const ALL: [(Page, &'static str, &'static str); 10] = [
        (Page::Overview, "/", "Overview"),
        (Page::Offers, "/offers", "Offers"),
        (Page::Chat, "/chat", "Chat"),
        (Page::Jobs, "/jobs", "Jobs"),
        (Page::Money, "/money", "Money"),
        (Page::Network, "/network", "Network"),
        (Page::Provide, "/provide", "Provide"),
        (Page::Modules, "/modules", "Modules"),
        (Page::Settings, "/settings", "Settings"),
        (Page::Logs, "/logs", "Logs"),
    ];

    fn title(self) -> &'static str {
        let mut all = Self::ALL.into_iter();
        all.find(|(page, ..)| *page == self)
            .map_or("", |(.., title)| title)
    }
}

/// htmx without what the policy forbids: evaluated attributes and styles that it would write.
const HTMX: &str = r#"{"allowEval":false,"allowScriptTags":false,"includeIndicatorStyles":false,"selfRequestsOnly":true,"historyCacheSize":0,"historyEnabled":false}"#;

/// A page: its head, the menu, and what it shows. What is in `#live` is asked for anew when `topic`
/// changes.
pub(crate) fn page(
    app: &App,
    session: &Session,
    page: Page,
    topic: Option<Topic>,
    content: &Markup,
) -> Markup {
    html! {
        (head(page.title()))
        body data-csrf=(session.csrf) data-topic=[topic.map(Topic::name)] data-version=[topic.map(|topic| session.versions.of(topic))] {
            a.skip href="#content" { "Skip to the content" }
            header.top {
                a.brand href="/" { img src=(assets::icon()) alt="" width="24" height="24"; "derouter" }
                nav aria-label="Pages" {
                    @for (other, url, title) in Page::ALL {
                        a href=(url) aria-current=[(other == page).then_some("page")] { (title) }
                    }
                }
                form.leave method="post" action="/logout" {
                    (csrf(session))
                    button.quiet type="submit" { "Log out" }
                }
                p.version { "Version " (app.version) }
            }
            main #content tabindex="-1" {
                h1 { (page.title()) }
                (content)
            }
            p #said role="status" aria-live="polite" {}
        }
    }
}

/// The head of a page.
fn head(title: &str) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en";
        meta charset="utf-8";
        meta name="viewport" content="width=device-width, initial-scale=1";
        meta name="color-scheme" content="light dark";
        meta name="htmx-config" content=(HTMX);
        title { (title) " · derouter" }
        link rel="icon" href=(assets::icon()) type="image/svg+xml";
        link rel="stylesheet" href=(assets::style());
        script src=(assets::htmx()) defer {}
        script src=(assets::app()) defer {}
    }
}

/// A page without a menu, for whoever is not let in yet.
pub(crate) fn bare(title: &str, content: &Markup) -> Markup {
    html! {
        (head(title))
        body.bare {
            main #content {
                p.brand { img src=(assets::icon()) alt="" width="24" height="24"; "derouter" }
                h1 { (title) }
                (content)
            }
        }
    }
}

/// The field that every form carries.
pub(crate) fn csrf(session: &Session) -> Markup {
    html! { input type="hidden" name="csrf" value=(session.csrf); }
}

/// What a change said, above the page's content.
pub(crate) fn said(text: &str) -> Markup {
    html! {
        @if !text.is_empty() {
            p.notice role="status" { (text::plain(text, text::LONG)) }
        }
    }
}

/// Says that a module is not in this process.
pub(crate) fn not_here(what: &str, how: &str) -> Markup {
    html! {
        section.card.empty {
            h2 { (what) }
            p { (how) }
        }
    }
}

/// A number with what it is.
pub(crate) fn figure(label: &str, value: &str, more: &str) -> Markup {
    html! {
        div.figure {
            dt { (label) }
            dd { strong { (value) } @if !more.is_empty() { span.dim { (more) } } }
        }
    }
}

/// A short mark: `good`, `bad`, `warn` or `plain`.
pub(crate) fn badge(kind: &str, text: &str) -> Markup {
    html! { span class=(format!("badge {kind}")) { (text) } }
}

/// A table that scrolls by itself where it is too wide; keys scroll it too.
pub(crate) fn table(label: &str, head: &[&str], rows: &[Markup]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(label) {
            table {
                thead { tr { @for name in head {
                    @match name.strip_prefix('#') {
                        Some(name) => th.num scope="col" { (name) },
                        None => th scope="col" { (name) },
                    }
                } } }
                tbody { @for row in rows { tr { (row) } } }
            }
        }
    }
}

/// A peer: the end of its id, whole on demand, with the name that it gives itself.
pub(crate) fn peer(app: &App, peer: &PeerId) -> Markup {
    let id = peer.to_string();
    if *peer == app.own {
        return html! { span title=(id) { "this node" } };
    }
    let name = app.board.provider(peer).and_then(|record| record.name);
    html! {
        span.peer {
            @if let Some(name) = name { (text::plain(&name, 28)) " " }
            code.dim title=(id) { (text::short_id(&id)) }
        }
    }
}

/// An amount of POL.
pub(crate) fn pol(amount: Wei) -> Markup {
    html! { span title=(format!("{} POL", amount.to_pol_text())) { (text::pol(amount)) } }
}

/// A measured time or speed: the middle, and the high or low value behind it.
pub(crate) fn measured(measured: Option<Measured>, unit: &str, digits: usize) -> Markup {
    html! {
        @match measured {
            Some(Measured { p50, p90 }) => {
                (format!("{p50:.digits$}")) span.dim { " / " (format!("{p90:.digits$}")) " " (unit) }
            }
            None => span.dim { "–" }
        }
    }
}

/// A share in percent.
pub(crate) fn percent(share: Option<f64>) -> Markup {
    html! {
        @match share {
            Some(share) => (format!("{:.0} %", share.clamp(0.0, 1.0) * 100.0)),
            None => span.dim { "–" }
        }
    }
}

/// Text to copy; the script puts a button beside it.
pub(crate) fn copyable(label: &str, content: &str) -> Markup {
    html! {
        div.copy data-copy=(label) { pre tabindex="0" role="region" aria-label=(label) { code { (content) } } }
    }
}
