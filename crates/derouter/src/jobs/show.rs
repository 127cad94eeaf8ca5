//! The story of one job.

use derouter_sdk::wire::jobs::FailureCause;
use derouter_store::StoredJob;
use derouter_store::market::{Job, Role};
use serde_json::{Value, json};

use super::{first_of_one, no_job};
use crate::cli::jobs::ShowArgs;
use crate::db::export::record::Record;
use crate::db::open_current;
use crate::failure::Failure;
use crate::output::Output;
use crate::text::{day_and_time, printable, wrapped};

pub(super) fn show(args: &ShowArgs, output: Output) -> Result<(), Failure> {
    let reader = open_current(&args.database)?;
    let role = args.role.map(Role::from);
    let found = reader.jobs_named(&args.id, role).map_err(Failure::failed)?;
    let job = match found.as_slice() {
        [] => return Err(Failure::failed(no_job(&args.id))),
        [job] => job,
        [first, rest @ ..] => first_of_one(first, rest, &args.id)?,
    };
    let stored = StoredJob {
        job: job.clone(),
        job_args: None,
    };
    let record = Record::new(&stored, args.payloads);
    let cause = FailureCause::ALL
        .into_iter()
        .find(|cause| record.failure_cause == Some(cause.name()));
    let timeline = timeline(job, &record);
    let told = json!({
        "job": record,
        "caused_by": record.failure_cause.map(|_| caused_by(cause)),
        "timeline": timeline,
    });
    output.show("derouter.job/1", &told, |_| text(&record, cause, &timeline));
    Ok(())
}

/// Whose doing a failure was.
fn caused_by(cause: Option<FailureCause>) -> &'static str {
    match cause {
        Some(
            FailureCause::ConsumerGaveUp | FailureCause::ConsumerStopped | FailureCause::NotJoined,
        ) => "consumer",
        Some(
            FailureCause::ProviderGaveUp
            | FailureCause::ProviderStopped
            | FailureCause::NotAnswered,
        ) => "provider",
        Some(FailureCause::Idle | FailureCause::TooLong) => "nobody",
        _ => "unknown",
    }
}

/// A cause in words.
fn words(cause: Option<FailureCause>) -> &'static str {
    match cause {
        Some(FailureCause::ConsumerGaveUp) => "the consumer's module gave it up",
        Some(FailureCause::ProviderGaveUp) => "the provider's module gave it up",
        Some(FailureCause::ConsumerStopped) => "the consumer's node stopped before it was created",
        Some(FailureCause::ProviderStopped) => "the provider's node stopped while it was open",
        Some(FailureCause::NotAnswered) => "the provider did not answer its creation",
        Some(FailureCause::NotJoined) => "the consumer never joined it",
        Some(FailureCause::Idle) => "nobody was joined to it for too long",
        Some(FailureCause::TooLong) => "it was open for too long",
        _ => "another cause",
    }
}

/// Each step with its time, by the clock that noted it.
fn timeline(job: &Job, record: &Record<'_>) -> Vec<Value> {
    let mut steps = Vec::new();
    let mut step = |at: Option<u64>, clock: &str, what: &str| {
        if let Some(at) = at {
            steps.push(json!({"at": at, "clock": clock, "what": what}));
        }
    };
    let begun = match job.role {
        Role::Consumer => "this node asked for it",
        Role::Provider => "this node took it",
    };
    step(Some(record.created_at_local), "ours", begun);
    // A consumer that was never answered knows no time of the provider's.
    let created = Some(record.created_at_sync).filter(|at| *at > 0);
    step(created, "provider", "the provider created it");
    step(
        record.completed_at_sync,
        "provider",
        "the provider completed it",
    );
    let completed = match job.role {
        Role::Consumer => "this node checked the bill and signed",
        Role::Provider => "this node completed it",
    };
    step(record.completed_at_local, "ours", completed);
    step(
        record.confirmed_at_local,
        "ours",
        "the consumer's signature is with the provider",
    );
    step(
        record.disputed_at_local,
        "ours",
        "the consumer says that it does not sign",
    );
    step(record.failed_at_local, "ours", "it failed");
    steps.sort_by_key(|step| step.get("at").and_then(Value::as_u64));
    steps
}

fn text(record: &Record<'_>, cause: Option<FailureCause>, timeline: &[Value]) -> String {
    let mut lines = Vec::new();
    let mut line = |label: &str, value: &str| lines.push(format!("{label:<14}  {value}"));
    line("Job", &printable(record.job_id));
    line("State", record.state);
    line("This node is", &format!("the {}", record.role));
    line("Provider", &record.provider);
    line("Consumer", &record.consumer);
    line(
        "Offer",
        &format!(
            "{} of {}",
            printable(record.offer_id),
            printable(record.protocol_id)
        ),
    );
    let amount = match (&record.balance_pol, record.completed_at_local) {
        (Some(pol), _) => format!("{pol} {}", record.currency),
        (None, Some(_)) => "nothing: it was free".to_owned(),
        (None, None) => "nothing".to_owned(),
    };
    line("Owed", &amount);
    if record.failure_cause.is_some() {
        line(
            "Failed",
            &format!("{} ({})", words(cause), record.failure_cause.unwrap_or("?")),
        );
        line("Caused by", caused_by(cause));
    }
    if let Some(reason) = record.failure_reason {
        line("Reason", &printable(reason));
    }
    if let Some(error) = record.confirmation_error {
        line("Delivery", &printable(error));
    }
    signatures(record, &mut line);
    lines.push(String::new());
    for step in timeline {
        let at = step.get("at").and_then(Value::as_u64).unwrap_or(0);
        let what = step.get("what").and_then(Value::as_str).unwrap_or_default();
        let of_provider = step.get("clock").and_then(Value::as_str) == Some("provider");
        let clock = if of_provider { " (its clock)" } else { "" };
        lines.push(format!("{}  {what}{clock}", day_and_time(at)));
    }
    if let Some(payload) = record.public_payload {
        lines.push(String::new());
        lines.push("What both sides sign:".to_owned());
        lines.push(wrapped(&printable(payload), "  "));
    }
    lines.join("\n")
}

fn signatures(record: &Record<'_>, line: &mut impl FnMut(&str, &str)) {
    let none = "none";
    if let Some(hash) = &record.job_hash {
        line("Hash", hash);
    }
    line(
        "Signed by",
        match (&record.signature, &record.provider_signature) {
            (Some(_), Some(_)) => "both sides",
            (Some(_), None) => "the consumer",
            (None, Some(_)) => "the provider",
            (None, None) => "nobody",
        },
    );
    if record.signature.is_some() || record.provider_signature.is_some() {
        line(" consumer", record.signature.as_deref().unwrap_or(none));
        line(
            " provider",
            record.provider_signature.as_deref().unwrap_or(none),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_words_and_somebody_who_caused_it() {
        for cause in FailureCause::ALL {
            assert_ne!(words(Some(cause)), words(None), "{cause:?}");
            assert_ne!(caused_by(Some(cause)), "unknown", "{cause:?}");
        }
    }
}
