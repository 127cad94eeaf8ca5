//! `derouter db`: looks after the node's database.

pub(crate) mod export;

use std::path::{Path, PathBuf};

use derouter_store::{CheckReport, Finding, OpenError, Reader};
use serde_json::json;

use crate::cli::db::{BackupArgs, CheckArgs, DatabaseArgs, DbCommand};
use crate::config::node::RunConfig;
use crate::config::paths;
use crate::failure::Failure;
use crate::output::Output;
use crate::text;

/// Does it.
pub(crate) fn db(command: &DbCommand, output: Output) -> Result<(), Failure> {
    match command {
        DbCommand::Check(args) => check(args, output),
        DbCommand::Backup(args) => backup(args, output),
        DbCommand::Vacuum(args) => vacuum(args, output),
        DbCommand::Export(args) => export::export(args),
    }
}

/// Where the database is.
fn path(args: &DatabaseArgs) -> Result<PathBuf, Failure> {
    let path = match (&args.database, &args.data_dir) {
        (Some(path), _) => path.clone(),
        (None, Some(directory)) => paths::in_data_dir(directory),
        (None, None) => RunConfig::load(args.config.as_deref())?.node.database_path,
    };
    if path.exists() {
        return Ok(path);
    }
    Err(Failure::environment(format_args!(
        "there is no database at {}. Say where it is with `-c FILE`, `--data-dir DIR` or \
         `--database FILE`",
        path.display()
    )))
}

fn unreadable(error: OpenError) -> Failure {
    match error {
        OpenError::InUse { path } => Failure::environment(format_args!(
            "{} is in use: stop the node (or whatever reads it), then try again",
            path.display()
        )),
        error => Failure::environment(error),
    }
}

fn open(args: &DatabaseArgs) -> Result<Reader, Failure> {
    Reader::open(&path(args)?).map_err(unreadable)
}

pub(crate) fn open_current(args: &DatabaseArgs) -> Result<Reader, Failure> {
    let reader = open(args)?;
    reader.expect_current().map_err(unreadable)?;
    Ok(reader)
}

fn check(args: &CheckArgs, output: Output) -> Result<(), Failure> {
    let reader = open_current(&args.database)?;
    let mut progress = output.progress();
    let report = reader.check(args.quick, |jobs| {
        progress.say(&format!("checking: {jobs} jobs read ..."));
    });
    drop(progress);
    let report = report.map_err(Failure::failed)?;
    let findings = report.findings.iter();
    let findings: Vec<String> = findings
        .map(|finding| text::printable(&finding.to_string()))
        .collect();
    let told = json!({
        "database": reader.path(),
        "jobs": report.jobs,
        "signatures": report.signatures,
        "found": report.found,
        "findings": findings,
    });
    output.show("derouter.db.check/1", &told, |_| {
        let summary = summary(reader.path(), &report);
        let lines = findings.iter().map(String::as_str);
        lines
            .chain([summary.as_str()])
            .collect::<Vec<_>>()
            .join("\n")
    });
    match advice(&report) {
        Some(advice) => Err(Failure::failed(advice)),
        None => Ok(()),
    }
}

fn summary(path: &Path, report: &CheckReport) -> String {
    let count =
        |number: u64, what: &str| text::counted(u32::try_from(number).unwrap_or(u32::MAX), what);
    let found = match report.found {
        0 => "sound".to_owned(),
        number => count(number, "finding"),
    };
    format!(
        "{}: {}, {} checked: {found}",
        path.display(),
        count(report.jobs, "job"),
        count(report.signatures, "signature")
    )
}

fn advice(report: &CheckReport) -> Option<&'static str> {
    if report.findings.iter().any(Finding::is_damage) {
        return Some(
            "the database is damaged. Stop the node, copy the file and what lies beside it, save what \
             can be read with `derouter db export`, and restore a backup (docs/ledger.md)",
        );
    }
    (report.found > 0).then_some(
        "some signatures don't fit what was signed. The file itself is sound: jobs of 0.1.0 may be so, \
         and so may a database that another program changed",
    )
}

fn backup(args: &BackupArgs, output: Output) -> Result<(), Failure> {
    let reader = open(&args.database)?;
    let mut progress = output.progress();
    let copied = reader.backup(&args.to, |step| {
        let percent = step.copied.saturating_mul(100).checked_div(step.pages);
        progress.say(&format!("copying: {} % ...", percent.unwrap_or(100)));
    });
    drop(progress);
    copied.map_err(Failure::failed)?;
    let copied = std::fs::metadata(&args.to).map_or(0, |copy| copy.len());
    let told = json!({"database": reader.path(), "copy": args.to, "bytes": copied});
    output.show("derouter.db.backup/1", &told, |_| {
        format!(
            "copied {} to {} ({})",
            reader.path().display(),
            args.to.display(),
            text::bytes(copied)
        )
    });
    Ok(())
}

fn vacuum(args: &DatabaseArgs, output: Output) -> Result<(), Failure> {
    let path = path(args)?;
    let done = derouter_store::vacuum(&path).map_err(unreadable)?;
    let told = json!({"database": path, "bytes_before": done.before, "bytes": done.after});
    output.show("derouter.db.vacuum/1", &told, |_| {
        format!(
            "{}: {} before, {} now",
            path.display(),
            text::bytes(done.before),
            text::bytes(done.after)
        )
    });
    Ok(())
}
