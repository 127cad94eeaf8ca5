//! The last lines of the log.

use axum::extract::{Extension, Query, State};
use axum::response::Html;
use maud::{Markup, html};

use super::page_of;
use crate::board::Topic;
use crate::filter::Asked;
use crate::logs::{LINES, Level};
use crate::sessions::Session;
use crate::state::App;
use crate::ui::{Page, badge, page};
use crate::{text, ui};

/// Lines on the page.
const SHOWN: usize = 300;

/// `GET /logs?only=LEVEL&q=TEXT`.
pub(super) async fn show(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    Query(asked): Query<Asked>,
) -> Html<String> {
    let Some(logs) = &app.modules.logs else {
        let content = ui::not_here("No log here", "This process keeps no lines of its log.");
        return page_of(&page(&app, &session, Page::Logs, None, &content));
    };
    let level = match asked.only.as_str() {
        "error" => Level::Error,
        "warn" => Level::Warn,
        "debug" => Level::Debug,
        _ => Level::Info,
    };
    let holds: String = asked.q.trim().chars().take(100).collect();
    let lines = logs.latest(level, &holds, SHOWN);
    let rows: Vec<Markup> = lines
        .iter()
        .map(|line| {
            let kind = match line.level {
                Level::Error => "bad",
                Level::Warn => "warn",
                Level::Info => "",
                Level::Debug => "plain",
            };
            html! {
                td.nowrap { (text::utc(line.at).chars().skip(11).collect::<String>()) }
                td { (badge(kind, line.level.name())) }
                td.wide { (text::plain(&line.text, crate::logs::LINE_BYTES)) }
                td.nowrap.dim { (text::plain(&line.target, 60)) }
            }
        })
        .collect();
    let content = html! {
        form.row method="get" action="/logs" role="search" {
            label { "Text" input type="search" name="q" value=(asked.q) maxlength="100"; }
            label { "At least"
                select name="only" { @for level in [Level::Error, Level::Warn, Level::Info, Level::Debug] {
                    option value=(level.name()) selected[level.name() == asked.only || (asked.only.is_empty() && level == Level::Info)] { (level.name()) }
                } }
            }
            button type="submit" { "Show" }
        }
        div #live { section.card.log {
            p.dim { "Newest first, times in UTC; the last " (LINES) " lines are kept in memory. What is logged is chosen by " code { "RUST_LOG" } "." }
            @if rows.is_empty() { p { "There is no such line." } }
            @else { (ui::table("Log", &["Time", "Level", "What", "Where"], &rows)) }
        } }
    };
    page_of(&page(
        &app,
        &session,
        Page::Logs,
        Some(Topic::Logs),
        &content,
    ))
}
