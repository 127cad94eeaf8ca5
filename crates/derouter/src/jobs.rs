//! `derouter jobs`: what was bought and sold, and proofs of what was signed.

mod list;
mod show;
mod watch;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use derouter_sdk::JobRecord;
use derouter_sdk::wire::job::{JobProof, Proven};
use derouter_sdk::wire::limits::{OFFER_PAYLOAD_BYTES, PUBLIC_PAYLOAD_BYTES};
use derouter_store::Reader;
use derouter_store::market::job::SignatureState;
use derouter_store::market::{Job, JobState, Role};
use serde_json::{Value, json};

use crate::cli::jobs::{JobsCommand, ProofArgs, VerifyArgs};
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::{db, text};

/// A proof as JSON: its two payloads, each byte of them at most six as JSON, and room for the rest.
const PROOF_BYTES: usize = 6 * (OFFER_PAYLOAD_BYTES + PUBLIC_PAYLOAD_BYTES) + 16 * 1024;

/// Does it.
pub(crate) async fn jobs(command: &JobsCommand, output: Output) -> Result<(), Failure> {
    match command {
        JobsCommand::List(args) => list::list(args, output),
        JobsCommand::Show(args) => show::show(args, output),
        JobsCommand::Watch(args) => watch::watch(args, output).await,
        JobsCommand::Export(args) => list::export(args),
        JobsCommand::Proof(args) => proof(args),
        JobsCommand::Verify(args) => verify(args, output),
    }
}

fn proof(args: &ProofArgs) -> Result<(), Failure> {
    let reader = db::open_current(&args.database)?;
    let role = args.role.map(Role::from);
    let found = reader.jobs_named(&args.id, role).map_err(Failure::failed)?;
    let job = match found.as_slice() {
        [] => return Err(Failure::failed(no_job(&args.id))),
        [job] => job,
        [first, rest @ ..] => first_of_one(first, rest, &args.id)?,
    };
    let proof = proof_of(job)?;
    let mut text = serde_json::to_string_pretty(&proof).map_err(Failure::failed)?;
    text.push('\n');
    match &args.output {
        Some(path) => write(path, &text),
        None => {
            output::text(&text);
            Ok(())
        }
    }
}

/// The proof of a job that the node has told, for the dashboard.
pub(crate) fn proof_of_record(database: &Path, record: &JobRecord) -> Result<String, String> {
    let reader = Reader::open(database).map_err(|error| error.to_string())?;
    let id = record.provider_job_id.as_str();
    let found = reader
        .jobs_named(id, None)
        .map_err(|error| error.to_string())?;
    let of_record = |job: &&Job| {
        job.key.provider == record.provider_peer_id && job.key.job_id == record.provider_job_id
    };
    let job = found.iter().find(of_record).ok_or_else(|| no_job(id))?;
    let proof = proof_of(job).map_err(|failure| failure.to_string())?;
    serde_json::to_string_pretty(&proof).map_err(|error| error.to_string())
}

pub(super) fn no_job(id: &str) -> String {
    format!(
        "there is no job {} here. `derouter db export` lists all",
        text::printable(id)
    )
}

/// The two sides of one job on an own offer prove the same; other jobs have to be told apart.
pub(super) fn first_of_one<'a>(first: &'a Job, rest: &[Job], id: &str) -> Result<&'a Job, Failure> {
    if rest.iter().all(|job| job.key == first.key) {
        return Ok(first);
    }
    Err(Failure::failed(format_args!(
        "several jobs begin with {}: give more of the id",
        text::printable(id)
    )))
}

fn proof_of(job: &Job) -> Result<JobProof, Failure> {
    let JobState::Completed {
        outcome,
        signature,
        provider_signature,
    } = &job.state
    else {
        return Err(Failure::failed(
            "this job has no outcome: there is nothing that anybody signed",
        ));
    };
    let signature = match signature {
        SignatureState::Awaited | SignatureState::Disputed { .. } => None,
        SignatureState::Undelivered { signature, .. }
        | SignatureState::Refused { signature, .. }
        | SignatureState::Confirmed { signature, .. } => Some(signature.as_slice()),
    };
    if signature.is_none() && provider_signature.is_none() {
        return Err(Failure::failed("nobody has signed this job yet"));
    }
    let outcome = job.outcome_to_hash(outcome);
    Ok(JobProof::new(
        &outcome,
        signature,
        provider_signature.as_deref(),
    ))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed =
        |error| Failure::environment(format_args!("can't write {}: {error}", path.display()));
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)
}

fn verify(args: &VerifyArgs, output: Output) -> Result<(), Failure> {
    let text = read(&args.file)?;
    let proof: JobProof = serde_json::from_str(&text).map_err(|error| {
        Failure::failed(format_args!("{} is no proof: {error}", args.file.display()))
    })?;
    let proven = proof
        .verify()
        .map_err(|error| Failure::failed(format_args!("the proof does not hold: {error}")))?;
    output.show("derouter.jobs.verify/1", &as_json(&proven), |_| {
        let lines = told(&proven);
        let lines = lines.iter().map(|line| text::printable(line));
        lines.collect::<Vec<_>>().join("\n")
    });
    Ok(())
}

/// Reads a file that may be anybody's.
fn read(path: &Path) -> Result<String, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::environment(format_args!("can't read {}: {error}", path.display()))
    };
    let file = File::open(path).map_err(|error| failed(&error))?;
    let mut text = String::new();
    let most = u64::try_from(PROOF_BYTES).unwrap_or(u64::MAX);
    let read = file.take(most + 1).read_to_string(&mut text);
    read.map_err(|error| failed(&error))?;
    if text.len() > PROOF_BYTES {
        return Err(failed(&"it is too large for a proof"));
    }
    Ok(text)
}

fn signers(proven: &Proven) -> &'static str {
    match (proven.by_consumer, proven.by_provider) {
        (true, true) => "both sides",
        (true, false) => "the consumer alone",
        _ => "the provider alone",
    }
}

fn told(proven: &Proven) -> Vec<String> {
    let outcome = &proven.outcome;
    let owed = match outcome.balance_delta {
        Some(wei) => format!("{} {}", wei.to_pol_text(), outcome.currency.code()),
        None => "nothing".to_owned(),
    };
    vec![
        format!("the proof holds: signed by {}", signers(proven)),
        format!("job        {}", outcome.key.job_id),
        format!("consumer   {}", outcome.consumer),
        format!("provider   {}", outcome.key.provider),
        format!("offer      {} of {}", outcome.offer_id, outcome.protocol_id),
        format!("owed       {owed}"),
        format!(
            "created    {}",
            text::day_and_time(outcome.created_at_sync.0)
        ),
        format!(
            "completed  {}",
            text::day_and_time(outcome.completed_at_sync.0)
        ),
        format!("result     {}", outcome.public_payload),
    ]
}

fn as_json(proven: &Proven) -> Value {
    let outcome = &proven.outcome;
    json!({
        "by_consumer": proven.by_consumer,
        "by_provider": proven.by_provider,
        "job_id": outcome.key.job_id,
        "consumer": outcome.consumer.to_string(),
        "provider": outcome.key.provider.to_string(),
        "protocol_id": outcome.protocol_id,
        "offer_id": outcome.offer_id,
        "offer_payload": outcome.offer_payload,
        "currency": outcome.currency.code(),
        "balance_delta": outcome.balance_delta.map(|wei| wei.to_string()),
        "created_at": outcome.created_at_sync,
        "completed_at": outcome.completed_at_sync,
        "public_payload": outcome.public_payload,
    })
}
