//! How the node is, at a glance.

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::Html;
use derouter_sdk::wire::rpc::network::Reachability;
use maud::{Markup, html};

use super::page_of;
use crate::board::Topic;
use crate::modules::Gateway;
use crate::pulse::Series;
use crate::sessions::Session;
use crate::state::App;
use crate::ui::{Page, copyable, figure, page};
use crate::{assets, chart, text, ui};

/// `GET /`.
pub(super) async fn show(
    State(app): State<App>,
    Extension(session): Extension<Session>,
) -> Html<String> {
    let content = html! {
        div #live {
            (figures(&app))
            (warnings(&app))
            (runs(&app))
        }
        (done(&app))
        @if let Some(gateway) = &app.modules.gateway {
            (connect(gateway.as_ref()))
        } @else {
            (ui::not_here("No gateway in this process", "To buy, add `openai: { consumer: {} }` to the configuration and start the node again."))
        }
    };
    page_of(&page(
        &app,
        &session,
        Page::Overview,
        Some(Topic::Overview),
        &content,
    ))
}

/// `GET /pulse`: what the chart goes on with.
pub(super) async fn pulse(State(app): State<App>) -> Json<Series> {
    Json(app.board.pulse())
}

/// What was done in the last minutes: drawn here, and by the script as it goes on. It is not in `#live`,
/// which is replaced as a whole.
fn done(app: &App) -> Markup {
    let series = app.board.pulse();
    html! {
        link rel="stylesheet" href=(assets::uplot_style());
        section.card {
            h2 { "The last minutes" span.key.first {} "jobs under way" span.key.second {} "tokens a second" }
            div #pulse.pulse role="img" aria-label="Jobs under way, and tokens a second, in the last five minutes" {
                (chart::lines(&series.jobs, &series.tokens))
            }
            p #pulse-now.dim { (series.now) }
        }
        script src=(assets::uplot()) defer {}
        script src=(assets::pulse()) defer {}
    }
}

fn figures(app: &App) -> Markup {
    let seen = app.board.seen();
    let tally = app.board.tally();
    let today = tally.day(text::now());
    let (bought, sold) = tally.running();
    let state = match (app.board.is_draining(), &seen.report) {
        (true, _) => "Stopping",
        (false, Some(_)) => "Serving",
        (false, None) => "Starting",
    };
    let (reached, how) =
        seen.report
            .as_ref()
            .map_or(("…", ""), |report| match report.reachability {
                Reachability::Public => ("Public", "others can dial this node"),
                Reachability::Private if !report.relays.is_empty() => {
                    ("Relayed", "behind a NAT, reached through relays")
                }
                Reachability::Private => ("Private", "others can't dial this node"),
                Reachability::Unknown => ("Unknown", "being found out"),
            });
    let peers = seen.report.as_ref().map_or(0, |report| report.peers);
    let more = |jobs: u64| format!("POL · {} jobs", text::count(jobs));
    html! {
        dl.figures {
            (figure("State", state, &format!("for {}", text::lasted(app.started.elapsed().as_secs()))))
            (figure("Reachability", reached, how))
            (figure("Peers", &peers.to_string(), "connected"))
            (figure("Jobs now", &(bought + sold).to_string(), &format!("{bought} bought, {sold} sold")))
            (figure("Spent today", &text::pol(today.spent), &more(today.bought)))
            (figure("Earned today", &text::pol(today.earned), &more(today.sold)))
        }
        @if !app.board.is_counted() {
            p.dim { "The jobs of earlier runs are being summed." }
        }
    }
}

/// What is wrong, and what to do.
fn warnings(app: &App) -> Markup {
    let mut all: Vec<String> = Vec::new();
    if app.board.is_draining() {
        all.push(
            "The node is on its way down: it finishes what runs and takes nothing new.".to_owned(),
        );
    }
    if let Some(report) = app.board.seen().report {
        all.extend(
            report
                .advice
                .iter()
                .map(|advice| text::plain(&advice.text, text::LONG)),
        );
    }
    if let Some(gateway) = &app.modules.gateway {
        let problem = gateway.problem();
        all.extend(
            problem.map(|it| format!("{}. Mend or remove the file.", text::plain(&it, text::LONG))),
        );
        let full = gateway.limits().into_iter().filter(|limit| {
            matches!((limit.most, limit.spent), (Some(most), Some(spent)) if !most.is_zero() && spent >= most)
        });
        all.extend(full.map(|limit| {
            format!(
                "The limit {} is used up. Raise {} in the configuration to buy more.",
                limit.what, limit.name
            )
        }));
    }
    if let Some(provider) = &app.modules.provider {
        let down = provider
            .backends()
            .into_iter()
            .filter(|backend| !backend.up);
        all.extend(down.map(|backend| {
            let state = text::plain(&backend.state, text::LONG);
            format!(
                "{} does not answer ({state}): start it, and its offers come back by themselves.",
                backend.url
            )
        }));
    }
    html! {
        @if !all.is_empty() {
            ul.warnings aria-label="Warnings" { @for one in &all { li { (one) } } }
        }
    }
}

fn runs(app: &App) -> Markup {
    let offers = app.modules.gateway.as_ref().map(|gateway| gateway.offers());
    let own = app
        .modules
        .provider
        .as_ref()
        .map(|provider| provider.offers());
    html! {
        div.grid {
            section.card {
                h2 { "Buying" }
                @match offers {
                    None => p.dim { "There is no gateway in this process." },
                    Some(offers) => {
                        @let models: std::collections::BTreeSet<&str> = offers.iter().map(|it| it.model.as_str()).collect();
                        p { strong { (offers.len()) } " offers of " strong { (models.len()) } " models on the market." }
                        p { a href="/offers" { "See offers" } " · " a href="/chat" { "Try one" } " · " a href="/money" { "Limits and keys" } }
                    }
                }
            }
            section.card {
                h2 { "Selling" }
                @match own {
                    None => p.dim { "There is no provider in this process." },
                    Some(own) => {
                        @let on = own.iter().filter(|offer| offer.on_market).count();
                        p { strong { (on) } " of " strong { (own.len()) } " own offers on the market." }
                        p { a href="/provide" { "Manage offers" } }
                    }
                }
            }
        }
    }
}

/// How programs reach the gateway.
fn connect(gateway: &dyn Gateway) -> Markup {
    let address = gateway.address();
    let url = format!("http://{address}/v1");
    let key = if gateway.wants_key() {
        "YOUR_KEY"
    } else {
        "any"
    };
    let model = gateway
        .offers()
        .into_iter()
        .find(|offer| offer.excluded.is_none());
    let model = model.map_or_else(
        || "MODEL".to_owned(),
        |offer| text::plain(&offer.model, text::SHORT),
    );
    // The name goes into text that people paste into a shell.
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./:@+".contains(c);
    let model = if model.chars().all(safe) {
        model
    } else {
        "MODEL".to_owned()
    };
    let curl = format!(
        "curl {url}/chat/completions -H 'Content-Type: application/json' \\\n  -H 'Authorization: Bearer {key}' \\\n  \
         -d '{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]}}'"
    );
    let python = format!(
        "from openai import OpenAI\n\nclient = OpenAI(base_url=\"{url}\", api_key=\"{key}\")\nanswer = client.chat.completions.create(\n    \
         model=\"{model}\",\n    messages=[{{\"role\": \"user\", \"content\": \"Hello!\"}}],\n)\nprint(answer.choices[0].message.content)"
    );
    let script = format!(
        "import OpenAI from \"openai\";\n\nconst client = new OpenAI({{ baseURL: \"{url}\", apiKey: \"{key}\" }});\nconst answer = await client.chat.completions.create({{\n  \
         model: \"{model}\",\n  messages: [{{ role: \"user\", content: \"Hello!\" }}],\n}});\nconsole.log(answer.choices[0].message.content);"
    );
    let webui = format!(
        "docker run --network host -e OPENAI_API_BASE_URL={url} -e OPENAI_API_KEY={key} \\\n  -e PORT=3000 ghcr.io/open-webui/open-webui:main"
    );
    html! {
        section.card {
            h2 { "Use it from your programs" }
            p { "Every program for OpenAI's API works with this base URL"
                @if gateway.wants_key() { " and a key (" a href="/money#keys" { "make one" } ")" } @else { " and any API key" }
                ":" }
            (copyable("base URL", &url))
            div.tabs {
                details #use-curl open { summary { "curl" } (copyable("curl", &curl)) }
                details #use-python { summary { "Python" } (copyable("Python", &python)) }
                details #use-javascript { summary { "JavaScript" } (copyable("JavaScript", &script)) }
                details #use-webui { summary { "Open WebUI" } (copyable("Open WebUI", &webui)) }
            }
        }
    }
}
