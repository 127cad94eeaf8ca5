//! The command line of `derouter jobs`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use derouter_sdk::UnixSeconds;

use super::db::{DatabaseArgs, ExportFormat, RoleArg, moment};
use super::network::NodeArgs;

/// What to do with jobs.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// List the latest jobs of both sides, with what they cost and how they ended; a node may run
    #[command(after_help = "Examples:\n  \
        derouter jobs list\n  \
        derouter jobs list --role provider --state failed --since 2026-01-01 --limit 200\n  \
        derouter jobs list --provider 6vnc6iDEp --json\n\n\
        Exit codes: 0 told, 1 some rows could not be read, 2 usage, 3 no database that can be read.")]
    List(ListArgs),
    /// Tell the story of one job: each step with its time, why and by whom it ended, money, signatures
    #[command(after_help = "Examples:\n  \
        derouter jobs show 0f8fad5b\n  \
        derouter jobs show 0f8fad5b --json\n\n\
        Exit codes: 0 told, 1 there is no such job, or several begin so, 2 usage, 3 no database that can be \
        read.")]
    Show(ShowArgs),
    /// Follow jobs as they change
    #[command(after_help = "Examples:\n  \
        derouter jobs watch\n  \
        derouter jobs watch --json --since-cursor \"$LAST\"\n\n\
        With --json one object a line, each with the `cursor` to go on from, also after the node was started \
        again: --since-cursor misses nothing. Ends with Ctrl-C.\n\n\
        Exit codes: 0 ended as asked, 1 failed, 2 usage, 3 configuration, 4 no node runs.")]
    Watch(WatchArgs),
    /// Write jobs to the standard output, as JSON lines or for a spreadsheet; a node may run
    #[command(after_help = "Examples:\n  \
        derouter jobs export --format csv --role consumer > spent.csv\n  \
        derouter jobs export --state confirmed --since 2026-01-01 > jobs.jsonl\n\n\
        Exit codes: 0 all written, 1 some rows could not be read, 2 usage, 3 no database that can be read.")]
    Export(ExportArgs),
    /// Write down what was signed of a job, for others to check; a node may run
    #[command(after_help = "Examples:\n  \
        derouter jobs proof 0f8fad5b-d9cb-469f-a165-70867728950e > proof.json\n  \
        derouter jobs proof 0f8fad5b --data-dir ~/derouter --output proof.json\n\n\
        The proof holds everything that the signatures cover, the price and the usage among it, but \
        neither the prompt nor the answer.\n\n\
        Exit codes: 0 written, 1 there is no such job or nobody has signed it, 2 usage, 3 no database \
        that can be read.")]
    Proof(ProofArgs),
    /// Check a proof; needs no node, no database and no network
    #[command(after_help = "Example:\n  derouter jobs verify proof.json\n\n\
        Exit codes: 0 it holds, 1 it does not, 2 usage, 3 the file can't be read.")]
    Verify(VerifyArgs),
}

/// Which job.
#[derive(Clone, Debug, Args)]
pub(crate) struct ProofArgs {
    /// The job's id, or how it begins; `derouter db export` lists them
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// On which side of it, where this node is on both
    #[arg(long, value_enum)]
    pub(crate) role: Option<RoleArg>,
    /// Where to write the proof; without, to the standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Which database.
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
}

/// Which proof.
#[derive(Clone, Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The proof, as `derouter jobs proof` writes it
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// Which jobs.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FilterArgs {
    /// Only the jobs of one side
    #[arg(long, value_enum, value_name = "SIDE")]
    pub(crate) role: Option<RoleArg>,
    /// Only those in such a state; may be repeated
    #[arg(long, value_enum, value_name = "STATE")]
    pub(crate) state: Vec<StateArg>,
    /// Only jobs made then or later: a day (UTC) such as 2026-01-31, or Unix seconds
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) since: Option<UnixSeconds>,
    /// Only jobs made before that
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) until: Option<UnixSeconds>,
    /// Only those of a provider: its peer id, or the end of it
    #[arg(long, value_name = "PEER")]
    pub(crate) provider: Option<String>,
    /// Only those of a consumer: its peer id, or the end of it
    #[arg(long, value_name = "PEER")]
    pub(crate) consumer: Option<String>,
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StateArg {
    /// Neither completed nor failed
    Open,
    /// It has an outcome
    Completed,
    /// Its consumer's signature is with the provider
    Confirmed,
    /// Completed, and not yet signed, or the signature is not delivered
    Unsigned,
    /// The consumer says that it will not sign, or the provider refused its signature
    Disputed,
    /// Given up: nothing is owed
    Failed,
}

/// Which jobs to list.
#[derive(Clone, Debug, Args)]
pub(crate) struct ListArgs {
    /// Which jobs.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// How many of the latest
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(crate) limit: usize,
    /// Which database.
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
}

/// Which job.
#[derive(Clone, Debug, Args)]
pub(crate) struct ShowArgs {
    /// The job's id, or how it begins
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// On which side of it, where this node is on both
    #[arg(long, value_enum, value_name = "SIDE")]
    pub(crate) role: Option<RoleArg>,
    /// Requests and answers too, where they are kept
    #[arg(long)]
    pub(crate) payloads: bool,
    /// Which database.
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
}

/// Which changes to follow.
#[derive(Clone, Debug, Args)]
pub(crate) struct WatchArgs {
    /// Only the jobs of one side
    #[arg(long, value_enum, value_name = "SIDE")]
    pub(crate) role: Option<RoleArg>,
    /// Go on behind this cursor of an earlier watch; `start` tells of all jobs there are
    #[arg(long, value_name = "CURSOR")]
    pub(crate) since_cursor: Option<String>,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Which jobs to write, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct ExportArgs {
    /// Which jobs.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// How to write them
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "jsonl")]
    pub(crate) format: ExportFormat,
    /// Requests and answers too, where they are kept (jsonl only)
    #[arg(long)]
    pub(crate) payloads: bool,
    /// Which database.
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
}
