//! The jobs of both sides: lists, one with its timeline, proofs, and all as CSV.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::response::{Html, IntoResponse, Response};
use bytes::Bytes;
use derouter_sdk::{JobFilter, JobQuery, JobRecord, NodeError, RowId, Wei};
use futures::stream;
use hyper::StatusCode;
use hyper::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use maud::{Markup, html};

use super::page_of;
use crate::board::Topic;
use crate::filter::Asked;
use crate::modules::JobFacts;
use crate::sessions::Session;
use crate::state::App;
use crate::ui::{Page, badge, page, pol};
use crate::{text, ui};

/// Jobs on a page, and rows that are looked at for them.
const SHOWN: usize = 50;
const MOST_LOOKED_AT: usize = 2000;

/// Rows of one question to the node.
const STEP: u32 = 100;

/// Rows of a file at most; `derouter db export` has no end.
const MOST_EXPORTED: usize = 200_000;

/// `GET /jobs?only=bought|sold|open|failed&q=MODEL&before=ROW`.
pub(super) async fn list(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    Query(asked): Query<Asked>,
) -> Html<String> {
    let found = find(&app, &asked).await;
    let content = html! {
        form.row method="get" action="/jobs" role="search" {
            label { "Model or peer" input type="search" name="q" value=(asked.q) maxlength="100"; }
            label { "Which"
                select name="only" { @for (name, title) in [("", "all"), ("bought", "bought"), ("sold", "sold"), ("open", "running"), ("failed", "failed")] {
                    option value=(name) selected[name == asked.only] { (title) }
                } }
            }
            button type="submit" { "Show" }
            a.button.quiet href="/jobs.csv" download="jobs.csv" { "CSV of all" }
        }
        div #live { section.card {
            @match found {
                Err(error) => p { "The node does not tell its jobs: " (error) },
                Ok(Found { jobs, next }) => {
                    @if jobs.is_empty() { p { "There is no such job." } } @else { (rows(&app, &jobs)) }
                    @if let Some(RowId(row)) = next.filter(|row| row.0 > 1) {
                        p { a.button.quiet href=(format!("/jobs?only={}&q={}&before={row}", super::form_text(&asked.only), super::form_text(&asked.q))) { "Older" } }
                    }
                }
            }
        } }
    };
    let topic = asked.before.is_empty().then_some(Topic::Jobs);
    page_of(&page(&app, &session, Page::Jobs, topic, &content))
}

struct Found {
    jobs: Vec<(JobRecord, JobFacts)>,
    next: Option<RowId>,
}

/// The newest jobs that fit, before a row.
async fn find(app: &App, asked: &Asked) -> Result<Found, NodeError> {
    let mut after = asked.before.trim().parse().ok().map(RowId);
    let (mut looked_at, mut jobs) = (0, Vec::new());
    while looked_at < MOST_LOOKED_AT {
        let some = step(app, after, true).await?;
        if some.is_empty() {
            return Ok(Found { jobs, next: None });
        }
        looked_at = looked_at.saturating_add(some.len());
        for mut job in some {
            // Pages show none of it, and it may be megabytes.
            job.private_payload = None;
            after = Some(job.job_rowid);
            let facts = app.board.facts(&job);
            if fits(app, &job, &facts, asked) {
                jobs.push((job, facts));
            }
            if jobs.len() >= SHOWN {
                return Ok(Found { jobs, next: after });
            }
        }
    }
    Ok(Found { jobs, next: after })
}

async fn step(
    app: &App,
    after: Option<RowId>,
    newest_first: bool,
) -> Result<Vec<JobRecord>, NodeError> {
    let query = JobQuery {
        after,
        newest_first,
        filter: JobFilter::default(),
        limit: STEP,
    };
    app.node.jobs(&query).await
}

fn fits(app: &App, job: &JobRecord, facts: &JobFacts, asked: &Asked) -> bool {
    let role = match asked.only.as_str() {
        "bought" => job.consumer_peer_id == app.own,
        "sold" => job.provider_peer_id == app.own,
        "open" => job.completed_at_local.is_none(),
        "failed" => job.reason.is_some(),
        _ => true,
    };
    let wanted = asked.wanted();
    let named = |text: &str| text.to_lowercase().contains(&wanted);
    role && (wanted.is_empty()
        || facts.model.as_deref().is_some_and(named)
        || named(&job.provider_peer_id.to_string())
        || named(&job.consumer_peer_id.to_string())
        || named(job.provider_job_id.as_str()))
}

fn amount(job: &JobRecord) -> Option<Wei> {
    job.balance_delta.as_deref()?.parse().ok()
}

fn state(job: &JobRecord) -> Markup {
    if job.reason.is_some() {
        return badge("bad", "failed");
    }
    match (
        job.completed_at_local,
        job.signature_confirmed_at_local,
        &job.confirmation_error,
    ) {
        (None, ..) => badge("", "running"),
        (Some(_), Some(_), _) => badge("good", "signed"),
        (Some(_), None, Some(_)) => badge("warn", "not taken"),
        (Some(_), None, None) => badge("plain", "completed"),
    }
}

fn rows(app: &App, jobs: &[(JobRecord, JobFacts)]) -> Markup {
    let now = text::now();
    let head = [
        "#Job",
        "State",
        "Side",
        "Model",
        "Peer",
        "#Tokens in",
        "#Out",
        "#POL",
        "When",
        "#Took",
    ];
    let rows: Vec<Markup> = jobs.iter().map(|(job, facts)| {
        let bought = job.consumer_peer_id == app.own;
        let other = if bought { &job.provider_peer_id } else { &job.consumer_peer_id };
        let took = job.completed_at_local.map(|end| end.0.saturating_sub(job.created_at_local.0));
        html! {
            td.num { a href=(format!("/jobs/{}", job.job_rowid)) { (job.job_rowid.0) } }
            td { (state(job)) }
            td { @if bought { "bought" } @else { "sold" } }
            td.wide { (text::plain(facts.model.as_deref().unwrap_or("–"), text::SHORT)) }
            td.nowrap { (ui::peer(app, other)) }
            td.num { (facts.input.map_or_else(|| "–".to_owned(), text::count)) }
            td.num { (facts.output.map_or_else(|| "–".to_owned(), text::count)) }
            td.num { @match amount(job) { Some(amount) => (pol(amount)), None => "–" } }
            td.nowrap title=(text::utc(job.created_at_local)) { (text::ago(job.created_at_local, now)) }
            td.num { (took.map_or_else(|| "–".to_owned(), text::lasted)) }
        }
    }).collect();
    ui::table("Jobs", &head, &rows)
}

async fn get(app: &App, row: u64) -> Option<JobRecord> {
    let after = row.checked_sub(1)?;
    let query = JobQuery {
        after: (after > 0).then_some(RowId(after)),
        limit: 1,
        ..JobQuery::default()
    };
    let found = app.node.jobs(&query).await.ok()?;
    found.into_iter().find(|job| job.job_rowid.0 == row)
}

/// `GET /jobs/ROW`.
pub(super) async fn one(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    Path(row): Path<u64>,
) -> Response {
    let Some(job) = get(&app, row).await else {
        return super::not_found().await;
    };
    let facts = app.board.facts(&job);
    let content = html! {
        p { a href="/jobs" { "Jobs" } " / " strong { (row) } }
        div #live { div.grid {
            section.card { h2 { "Outcome" } (outcome(&app, &job, &facts)) }
            section.card { h2 { "Timeline" } (timeline(&job)) }
        } }
        @if app.modules.proofs.is_some() && job.completed_at_local.is_some() && job.reason.is_none() {
            section.card {
                h2 { "Proof" }
                p { "What both sides signed, for others to check with " code { "derouter jobs verify" } "." }
                p { a.button href=(format!("/jobs/{row}/proof")) download=(format!("job-{row}.json")) { "Download the proof" } }
            }
        }
        @if let Some(payload) = &job.public_payload {
            section.card { h2 { "What both sides sign" } (ui::copyable("public payload", &text::plain(payload, 4000))) }
        }
    };
    page_of(&page(
        &app,
        &session,
        Page::Jobs,
        Some(Topic::Jobs),
        &content,
    ))
    .into_response()
}

fn outcome(app: &App, job: &JobRecord, facts: &JobFacts) -> Markup {
    html! {
        dl.facts {
            dt { "State" } dd { (state(job)) }
            dt { "Provider" } dd { (ui::peer(app, &job.provider_peer_id)) }
            dt { "Consumer" } dd { (ui::peer(app, &job.consumer_peer_id)) }
            dt { "Job" } dd { code { (text::plain(job.provider_job_id.as_str(), 100)) } }
            dt { "Offer" } dd { (text::plain(job.offer_id.as_str(), 100)) " " span.dim { (text::plain(job.offer_protocol_id.as_str(), 40)) } }
            @if let Some(model) = &facts.model { dt { "Model" } dd { (text::plain(model, text::SHORT)) } }
            @if let (Some(input), Some(output)) = (facts.input, facts.output) { dt { "Tokens" } dd { (text::count(input)) " in, " (text::count(output)) " out" } }
            @if let Some(amount) = amount(job) { dt { "Owed" } dd { (amount.to_pol_text()) " POL" } }
            @if let Some(reason) = &job.reason { dt { "Failed" } dd { (text::plain(reason, text::LONG)) } }
            @if let Some(error) = &job.confirmation_error { dt { "Signature" } dd { (text::plain(error, text::LONG)) } }
        }
    }
}

fn timeline(job: &JobRecord) -> Markup {
    let end = if job.reason.is_some() {
        "given up"
    } else {
        "completed and signed for here"
    };
    let steps = [
        (
            Some(job.created_at_sync),
            "created by the provider, by its clock",
        ),
        (Some(job.created_at_local), "known here"),
        (
            job.completed_at_sync,
            "completed by the provider, by its clock",
        ),
        (job.completed_at_local, end),
        (
            job.signature_confirmed_at_local,
            "the provider has the signature",
        ),
    ];
    html! {
        ol.timeline { @for (at, what) in steps { @if let Some(at) = at {
            li class=[(what == "given up").then_some("bad")] { strong { (what) } br; span.dim { (text::utc(at)) " UTC" } }
        } } }
    }
}

/// `GET /jobs/ROW/proof`.
pub(super) async fn proof(State(app): State<App>, Path(row): Path<u64>) -> Response {
    let Some(proofs) = app.modules.proofs.clone() else {
        return super::not_found().await;
    };
    let Some(job) = get(&app, row).await else {
        return super::not_found().await;
    };
    match proofs.proof(&job).await {
        Ok(proof) => {
            let kind = [(CONTENT_TYPE, "application/json")];
            (kind, proof).into_response()
        }
        Err(why) => (StatusCode::NOT_FOUND, text::plain(&why, text::LONG)).into_response(),
    }
}

const COLUMNS: [&str; 14] = [
    "job",
    "id",
    "side",
    "provider",
    "consumer",
    "protocol",
    "offer",
    "model",
    "input_tokens",
    "output_tokens",
    "owed_wei",
    "created",
    "completed",
    "failed",
];

/// A cell that no spreadsheet takes for a formula.
fn cell(text: &str) -> String {
    let text = text::plain(text, text::LONG);
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text,
    }
}

fn record(app: &App, job: &JobRecord) -> [String; 14] {
    let facts = app.board.facts(job);
    let number = |it: Option<u64>| it.map(|it| it.to_string()).unwrap_or_default();
    let bought = job.consumer_peer_id == app.own;
    [
        job.job_rowid.0.to_string(),
        cell(job.provider_job_id.as_str()),
        if bought { "bought" } else { "sold" }.to_owned(),
        job.provider_peer_id.to_string(),
        job.consumer_peer_id.to_string(),
        cell(job.offer_protocol_id.as_str()),
        cell(job.offer_id.as_str()),
        cell(facts.model.as_deref().unwrap_or("")),
        number(facts.input),
        number(facts.output),
        amount(job).map(|wei| wei.to_string()).unwrap_or_default(),
        text::utc(job.created_at_local),
        job.completed_at_local.map(text::utc).unwrap_or_default(),
        cell(job.reason.as_deref().unwrap_or("")),
    ]
}

fn lines(records: impl Iterator<Item = [String; 14]>) -> Bytes {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for record in records {
        // Writing into memory does not fail.
        let _ = writer.write_record(&record);
    }
    Bytes::from(writer.into_inner().unwrap_or_default())
}

/// `GET /jobs.csv`: all jobs, oldest first, as they come from the node: nothing is gathered.
pub(super) async fn csv(State(app): State<App>) -> Response {
    let first = lines(std::iter::once(COLUMNS.map(str::to_owned)));
    let begin = (app, None, 0_usize, Some(first));
    let chunks = stream::unfold(begin, |(app, after, sent, head)| async move {
        if let Some(head) = head {
            return Some((Ok::<_, Infallible>(head), (app, after, sent, None)));
        }
        if sent >= MOST_EXPORTED {
            return None;
        }
        let jobs = step(&app, after, false).await.ok()?;
        let last = Some(jobs.last()?.job_rowid);
        let chunk = lines(jobs.iter().map(|job| record(&app, job)));
        Some((
            Ok(chunk),
            (app, last, sent.saturating_add(jobs.len()), None),
        ))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/csv; charset=utf-8"),
    );
    let name = HeaderValue::from_static("attachment; filename=\"jobs.csv\"");
    headers.insert(CONTENT_DISPOSITION, name);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula() {
        for text in ["=1+1", "+1", "-1", "@x"] {
            assert_eq!(cell(text), format!("'{text}"));
        }
        assert_eq!(cell("a\nb"), "ab");
        let line = lines(std::iter::once(COLUMNS.map(|name| format!("{name},\""))));
        assert!(line.starts_with(b"\"job,\"\"\""));
    }
}
