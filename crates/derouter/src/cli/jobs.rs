//! The command line of `derouter jobs`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::db::{DatabaseArgs, RoleArg};

/// What to do with jobs.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum JobsCommand {
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
