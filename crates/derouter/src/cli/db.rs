//! The command line of `derouter db`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use derouter_sdk::UnixSeconds;
use time::{Date, Month};

/// What to do with the database.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Check the file, every row and every signature; changes nothing, and a node may run
    #[command(after_help = "Examples:\n  \
        derouter db check\n  \
        derouter db check -c config.json --quick\n  \
        derouter db check --database backup.sqlite\n\n\
        Exit codes: 0 sound, 1 something is wrong, 2 usage, 3 no database that can be read.")]
    Check(CheckArgs),
    /// Copy the database to a new file, also while a node runs
    #[command(after_help = "Examples:\n  \
        derouter db backup backup.sqlite\n  \
        derouter db backup -c config.json /mnt/backups/derouter-$(date +%F).sqlite\n\n\
        To restore: stop the node, move derouter.sqlite and the files beside it that begin with its \
        name away, and put the copy in its place. docs/ledger.md says what to look out for.\n\n\
        Exit codes: 0 copied, 1 failed (nothing is left), 2 usage, 3 no database that can be read.")]
    Backup(BackupArgs),
    /// Write the database anew, without its free space; the node must be stopped
    #[command(after_help = "Example:\n  derouter db vacuum -c config.json\n\n\
        Needs as much free space as the database is large.\n\n\
        Exit codes: 0 done, 2 usage, 3 not done: the database is in use, can't be read, or has no room.")]
    Vacuum(DatabaseArgs),
    /// Write all jobs to the standard output, also while a node runs
    #[command(after_help = "Examples:\n  \
        derouter db export > jobs.jsonl\n  \
        derouter db export --format csv --role provider --since 2026-01-01 --until 2026-02-01\n\n\
        Exit codes: 0 all written, 1 some rows could not be read, 2 usage, 3 no database that can be \
        read.")]
    Export(ExportArgs),
}

/// Which database.
#[derive(Clone, Debug, Args)]
pub(crate) struct DatabaseArgs {
    /// The node's configuration (JSON5), for its `data_dir` and `database_path`
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The node's data directory
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The database itself, for example a backup
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "data_dir"])]
    pub(crate) database: Option<PathBuf>,
}

/// How to check.
#[derive(Clone, Debug, Args)]
pub(crate) struct CheckArgs {
    /// Which database.
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    /// Leave out what takes long: signatures, and whether indices and tables agree
    #[arg(long)]
    pub(crate) quick: bool,
}

/// Where to copy to.
#[derive(Clone, Debug, Args)]
pub(crate) struct BackupArgs {
    /// Which database.
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    /// The copy; nothing of that name may be there
    #[arg(value_name = "FILE")]
    pub(crate) to: PathBuf,
}

/// How to write jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// One JSON object a line, with all that was signed
    #[default]
    Jsonl,
    /// For spreadsheets: without payloads
    Csv,
}

/// A side of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// This node bought
    Consumer,
    /// This node sold
    Provider,
}

/// Which jobs to write, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct ExportArgs {
    /// Which database.
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    /// How to write them
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "jsonl")]
    pub(crate) format: ExportFormat,
    /// Only the jobs of one side
    #[arg(long, value_enum, value_name = "SIDE")]
    pub(crate) role: Option<RoleArg>,
    /// Only jobs made then or later: a day (UTC) such as 2026-01-31, or Unix seconds
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) since: Option<UnixSeconds>,
    /// Only jobs made before that
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) until: Option<UnixSeconds>,
    /// Requests and answers too, where they are kept (jsonl only)
    #[arg(long)]
    pub(crate) payloads: bool,
}

/// A day at its begin, or Unix seconds.
pub(crate) fn moment(text: &str) -> Result<UnixSeconds, String> {
    let wrong = || format!("{text:?} is neither a day such as 2026-01-31 nor Unix seconds");
    if let Ok(seconds) = text.parse() {
        return Ok(UnixSeconds(seconds));
    }
    let mut parts = text.split('-');
    let (Some(year), Some(month), Some(day), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong());
    };
    let month: u8 = month.parse().map_err(|_| wrong())?;
    let month = Month::try_from(month).map_err(|_| wrong())?;
    let (year, day) = (year.parse(), day.parse());
    let (Ok(year), Ok(day)) = (year, day) else {
        return Err(wrong());
    };
    let date = Date::from_calendar_date(year, month, day).map_err(|_| wrong())?;
    let seconds = date.midnight().assume_utc().unix_timestamp();
    u64::try_from(seconds).map(UnixSeconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_day_or_seconds() {
        assert_eq!(moment("2026-01-31"), Ok(UnixSeconds(1_769_817_600)));
        assert_eq!(moment("1769817600"), Ok(UnixSeconds(1_769_817_600)));
        for wrong in [
            "",
            "2026",
            "2026-02-30",
            "2026-1",
            "1960-01-01",
            "-5",
            "2026-01-01-1",
        ] {
            // A year alone is seconds, which nobody means, but which is what it says.
            assert_eq!(moment(wrong).is_err(), wrong != "2026", "{wrong}");
        }
    }
}
