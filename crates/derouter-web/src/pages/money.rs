//! What was spent and earned, the limits, and the keys.

use axum::extract::{Extension, Query, State};
use axum::response::Html;
use derouter_sdk::Wei;
use maud::{Markup, html};

use super::page_of;
use crate::board::Topic;
use crate::chart::{self, Bar};
use crate::filter::Asked;
use crate::sessions::Session;
use crate::state::App;
use crate::tally::{OTHERS, Sum};
use crate::ui::{Page, figure, page, pol};
use crate::{text, ui};

/// Days of the chart.
const DAYS: u64 = 30;

/// Models and peers that are listed.
const SHOWN: usize = 20;

/// `GET /money`.
pub(super) async fn show(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    Query(asked): Query<Asked>,
) -> Html<String> {
    let content = html! {
        (ui::said(&asked.said))
        div #live {
            (totals(&app))
            (days(&app))
            @if let Some(gateway) = &app.modules.gateway { (limits(&gateway.limits())) }
            div.grid { (models(&app)) (peers(&app)) }
        }
        @if let Some(gateway) = &app.modules.gateway {
            (super::keys::section(&session, gateway.as_ref(), None))
        } @else {
            (ui::not_here("No gateway in this process", "Limits and keys are the gateway's."))
        }
    };
    page_of(&page(
        &app,
        &session,
        Page::Money,
        Some(Topic::Jobs),
        &content,
    ))
}

fn totals(app: &App) -> Markup {
    let tally = app.board.tally();
    let today = tally.day(text::now());
    let jobs = |count: u64| format!("POL · {} jobs", text::count(count));
    html! {
        dl.figures {
            (figure("Spent today", &text::pol(today.spent), &jobs(today.bought)))
            (figure("Earned today", &text::pol(today.earned), &jobs(today.sold)))
            (figure("Spent in all", &text::pol(tally.total.spent), &jobs(tally.total.bought)))
            (figure("Earned in all", &text::pol(tally.total.earned), &jobs(tally.total.sold)))
            (figure("Tokens in all", &text::count(tally.total.tokens), "bought and sold"))
        }
    }
}

fn days(app: &App) -> Markup {
    let days = app.board.tally().last_days(text::now(), DAYS);
    let bars: Vec<Bar> = days
        .iter()
        .map(|(day, sum)| Bar {
            name: text::day(*day).chars().skip(5).collect(),
            first: sum.spent.approximately(),
            second: sum.earned.approximately(),
        })
        .collect();
    let used = days.iter().rev().filter(|(_, sum)| *sum != Sum::default());
    let rows: Vec<Markup> = used
        .map(|(day, sum)| {
            html! {
                td.nowrap { (text::day(*day)) }
                (cells(sum))
            }
        })
        .collect();
    html! {
        section.card {
            h2 { "The last " (DAYS) " days" span.key.first {} "spent" span.key.second {} "earned" }
            (chart::bars("POL spent and earned by day; the table below has the numbers", &bars))
            details #days { summary { "As a table" } (ui::table("Days", &["Day (UTC)", "#Spent", "#Earned", "#Bought", "#Sold", "#Tokens"], &rows)) }
        }
    }
}

fn cells(sum: &Sum) -> Markup {
    html! {
        td.num { (pol(sum.spent)) }
        td.num { (pol(sum.earned)) }
        td.num { (text::count(sum.bought)) }
        td.num { (text::count(sum.sold)) }
        td.num { (text::count(sum.tokens)) }
    }
}

fn limits(limits: &[crate::modules::Limit]) -> Markup {
    let amount = |amount: Option<Wei>| html! { @match amount { Some(amount) => (pol(amount)), None => span.dim { "–" } } };
    let share = |limit: &crate::modules::Limit| match (limit.most, limit.spent) {
        (Some(most), Some(spent)) if !most.is_zero() => {
            Some(spent.approximately() / most.approximately())
        }
        _ => None,
    };
    let rows: Vec<Markup> = limits.iter().map(|limit| html! {
        td { (limit.what) br; code.dim { (limit.name) } }
        td.num { @match limit.most { Some(most) => (pol(most)), None => span.dim { "no limit" } } }
        td.num { (amount(limit.spent)) }
        td.num { (amount(limit.reserved)) }
        td { @if let Some(share) = share(limit) { (chart::meter(&format!("{:.0} % of it spent", share * 100.0), share)) } }
    }).collect();
    html! {
        section.card {
            h2 { "Limits (POL)" }
            (ui::table("Limits", &["Limit", "#Most", "#Spent", "#Set aside", "Used"], &rows))
            p.dim { "They are set in the configuration (" code { "openai.consumer.limits" } ") and hold whatever a program asks." }
        }
    }
}

fn models(app: &App) -> Markup {
    let tally = app.board.tally();
    let mut all: Vec<(&String, &Sum)> = tally.models.iter().collect();
    all.sort_by(|one, other| {
        weight(other.1)
            .cmp(&weight(one.1))
            .then_with(|| one.0.cmp(other.0))
    });
    let rows: Vec<Markup> = all
        .into_iter()
        .take(SHOWN)
        .map(|(model, sum)| {
            html! {
                td.wide { (model) }
                (cells(sum))
            }
        })
        .collect();
    section("By model", "Model", &rows)
}

fn peers(app: &App) -> Markup {
    let tally = app.board.tally();
    let mut all: Vec<_> = tally.peers.iter().collect();
    all.sort_by(|one, other| {
        weight(other.1)
            .cmp(&weight(one.1))
            .then_with(|| one.0.cmp(other.0))
    });
    let mut rows: Vec<Markup> = all
        .into_iter()
        .take(SHOWN)
        .map(|(peer, sum)| {
            html! {
                td.wide { (ui::peer(app, peer)) }
                (cells(sum))
            }
        })
        .collect();
    if tally.other_peers != Sum::default() {
        rows.push(html! { td { (OTHERS) } (cells(&tally.other_peers)) });
    }
    section("By peer", "Peer", &rows)
}

fn weight(sum: &Sum) -> Wei {
    sum.spent.saturating_add(sum.earned)
}

fn section(title: &str, first: &str, rows: &[Markup]) -> Markup {
    html! {
        section.card {
            h2 { (title) }
            @if rows.is_empty() { p.dim { "There are no jobs yet." } }
            @else { (ui::table(title, &[first, "#Spent", "#Earned", "#Bought", "#Sold", "#Tokens"], rows)) }
        }
    }
}
