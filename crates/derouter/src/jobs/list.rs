//! Jobs from the database, filtered: the latest as a table, or all of them as records.

use derouter_store::market::job::SignatureState;
use derouter_store::market::{Job, JobState};
use derouter_store::{Reader, StoredJob, StoredJobs};
use serde_json::json;

use crate::cli::jobs::{ExportArgs, FilterArgs, ListArgs, StateArg};
use crate::db::export::record::Record;
use crate::db::export::{Writer, ended};
use crate::db::open_current;
use crate::failure::Failure;
use crate::offers::end_of;
use crate::output::{self, Output};
use crate::table::Table;
use crate::text::{counted, cut, day_and_time, printable, short_amount};

/// Jobs that a list holds at most.
const MOST_LISTED: usize = 10_000;

pub(super) fn list(args: &ListArgs, output: Output) -> Result<(), Failure> {
    let reader = open_current(&args.database)?;
    let limit = args.limit.min(MOST_LISTED);
    let mut latest: Vec<StoredJob> = Vec::new();
    let mut more = false;
    let which = StoredJobs {
        newest_first: true,
        ..StoredJobs::default()
    };
    let unread = each(&reader, which, &args.filter, |stored| {
        more = latest.len() >= limit;
        if more {
            return Err(());
        }
        latest.push(stored);
        Ok(())
    })?;
    let records: Vec<Record<'_>> = latest
        .iter()
        .map(|stored| Record::new(stored, false))
        .collect();
    let told = json!({"jobs": records.iter().map(short).collect::<Vec<_>>(), "more": more});
    output.show("derouter.jobs/1", &told, |output| {
        table(&records, more, output.width())
    });
    complain(unread)
}

pub(super) fn export(args: &ExportArgs) -> Result<(), Failure> {
    let reader = open_current(&args.database)?;
    let mut writer = Writer::new(args.format, args.payloads);
    let mut stopped = None;
    let which = StoredJobs::default();
    let unread = each(&reader, which, &args.filter, |stored| {
        match writer.write(&stored) {
            Ok(()) => Ok(()),
            Err(error) => {
                stopped = Some(ended(&error));
                Err(())
            }
        }
    })?;
    if let Some(ended) = stopped {
        return ended;
    }
    if let Err(error) = writer.finish() {
        return ended(&error);
    }
    complain(unread)
}

fn complain(unread: u32) -> Result<(), Failure> {
    match unread {
        0 => Ok(()),
        _ => Err(Failure::failed(format_args!(
            "{} could not be read. `derouter db check` says more",
            counted(unread, "job")
        ))),
    }
}

/// Hands over each job that is asked for until one is not taken. Returns how many could not be read.
fn each(
    reader: &Reader,
    order: StoredJobs,
    filter: &FilterArgs,
    mut take: impl FnMut(StoredJob) -> Result<(), ()>,
) -> Result<u32, Failure> {
    let mut which = StoredJobs {
        role: filter.role.map(Into::into),
        since: filter.since,
        until: filter.until,
        ..order
    };
    let mut unread = 0_u32;
    loop {
        let page = reader.jobs(&which).map_err(Failure::failed)?;
        for stored in page.jobs {
            match stored {
                Ok(stored) if !fits(&stored.job, filter) => {}
                Ok(stored) => {
                    if take(stored).is_err() {
                        return Ok(unread);
                    }
                }
                Err(error) => {
                    unread = unread.saturating_add(1);
                    output::error_line(&printable(&format!("left out: {error}")));
                }
            }
        }
        match page.next {
            Some(row) => which.after = Some(row),
            None => return Ok(unread),
        }
    }
}

fn fits(job: &Job, filter: &FilterArgs) -> bool {
    let ends = |peer: String, end: &Option<String>| {
        end.as_ref().is_none_or(|end| peer.ends_with(end.as_str()))
    };
    let state = &filter.state;
    (state.is_empty() || state.iter().any(|state| is_in(&job.state, *state)))
        && ends(job.key.provider.to_string(), &filter.provider)
        && ends(job.consumer.to_string(), &filter.consumer)
}

fn is_in(state: &JobState, wanted: StateArg) -> bool {
    let signature = match state {
        JobState::Open(_) => return wanted == StateArg::Open,
        JobState::Failed(_) => return wanted == StateArg::Failed,
        JobState::Completed { signature, .. } => signature,
    };
    let named = match signature {
        SignatureState::Awaited | SignatureState::Undelivered { .. } => StateArg::Unsigned,
        SignatureState::Disputed { .. } | SignatureState::Refused { .. } => StateArg::Disputed,
        SignatureState::Confirmed { .. } => StateArg::Confirmed,
    };
    wanted == StateArg::Completed || wanted == named
}

/// What a list tells of a job: `show` and `export` tell all.
fn short(record: &Record<'_>) -> serde_json::Value {
    json!({
        "row": record.row,
        "role": record.role,
        "state": record.state,
        "provider": record.provider,
        "consumer": record.consumer,
        "job_id": printable(record.job_id),
        "protocol_id": printable(record.protocol_id),
        "offer_id": printable(record.offer_id),
        "amount": record.balance_pol,
        "currency": record.currency,
        "created_at": record.created_at_local,
        "completed_at": record.completed_at_local,
        "failure_cause": record.failure_cause,
        "reason": record.failure_reason.or(record.confirmation_error).map(printable),
    })
}

fn table(records: &[Record<'_>], more: bool, width: usize) -> String {
    if records.is_empty() {
        return "no such job".to_owned();
    }
    let mut table = Table::new(&[
        "CREATED (UTC)",
        "SIDE",
        "STATE",
        ">POL",
        "OTHER",
        "OFFER",
        "JOB",
        "WHY",
    ]);
    for record in records {
        let other = match record.role {
            "consumer" => &record.provider,
            _ => &record.consumer,
        };
        let created = day_and_time(record.created_at_local);
        let amount = record.balance_pol.as_deref().unwrap_or("-");
        let why = record.failure_reason.or(record.confirmation_error);
        table.row(vec![
            created.get(..16).unwrap_or(&created).replace('T', " "),
            record.role.get(..4).unwrap_or_default().to_owned(),
            record.state.to_owned(),
            short_amount(amount),
            end_of(other).to_owned(),
            cut(&printable(record.offer_id), 14),
            printable(record.job_id).chars().take(8).collect(),
            why.map(printable).unwrap_or_default(),
        ]);
    }
    let text = table.text(width);
    match more {
        true => format!(
            "{text}\nthe latest {}; --limit shows more",
            counted(u32::try_from(records.len()).unwrap_or(u32::MAX), "job")
        ),
        false => text,
    }
}
