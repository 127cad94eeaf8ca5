//! `derouter db export`: jobs as lines of JSON or CSV, page by page.

pub(crate) mod record;

use std::io::{self, BufWriter, ErrorKind, Stdout, Write};

use derouter_store::market::Role;
use derouter_store::{StoredJob, StoredJobs};

use super::open_current;
use crate::cli::db::{ExportArgs, ExportFormat, RoleArg};
use crate::failure::Failure;
use crate::{output, text};
use record::{Record, Row};

/// Writes the jobs that are asked for.
pub(crate) fn export(args: &ExportArgs) -> Result<(), Failure> {
    let reader = open_current(&args.database)?;
    let mut which = StoredJobs {
        role: args.role.map(Into::into),
        since: args.since,
        until: args.until,
        ..StoredJobs::default()
    };
    let mut writer = Writer::new(args.format, args.payloads);
    let mut unread = 0_u32;
    loop {
        let page = reader.jobs(&which).map_err(Failure::failed)?;
        for stored in page.jobs {
            match stored {
                Ok(stored) => match writer.write(&stored) {
                    Ok(()) => {}
                    Err(error) => return ended(&error),
                },
                Err(error) => {
                    unread = unread.saturating_add(1);
                    output::error_line(&text::printable(&format!("left out: {error}")));
                }
            }
        }
        match page.next {
            Some(row) => which.after = Some(row),
            None => break,
        }
    }
    if let Err(error) = writer.finish() {
        return ended(&error);
    }
    match unread {
        0 => Ok(()),
        _ => Err(Failure::failed(format_args!(
            "{} could not be read. `derouter db check` says more",
            text::counted(unread, "job")
        ))),
    }
}

/// Whoever reads may have enough.
pub(crate) fn ended(error: &io::Error) -> Result<(), Failure> {
    match error.kind() {
        ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Failure::failed(format_args!("can't write: {error}"))),
    }
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Consumer => Self::Consumer,
            RoleArg::Provider => Self::Provider,
        }
    }
}

/// Where the records go.
pub(crate) enum Writer {
    Jsonl {
        out: BufWriter<Stdout>,
        payloads: bool,
    },
    Csv(Box<csv::Writer<Stdout>>),
}

impl Writer {
    pub(crate) fn new(format: ExportFormat, payloads: bool) -> Self {
        match format {
            ExportFormat::Jsonl => Self::Jsonl {
                out: BufWriter::new(io::stdout()),
                payloads,
            },
            ExportFormat::Csv => Self::Csv(Box::new(csv::Writer::from_writer(io::stdout()))),
        }
    }

    pub(crate) fn write(&mut self, stored: &StoredJob) -> io::Result<()> {
        match self {
            Self::Jsonl { out, payloads } => {
                serde_json::to_writer(&mut *out, &Record::new(stored, *payloads))?;
                out.write_all(b"\n")
            }
            Self::Csv(out) => {
                let row = Row::from(Record::new(stored, false));
                out.serialize(row).map_err(csv_error)
            }
        }
    }

    pub(crate) fn finish(self) -> io::Result<()> {
        match self {
            Self::Jsonl { mut out, .. } => out.flush(),
            Self::Csv(mut out) => out.flush(),
        }
    }
}

fn csv_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}
