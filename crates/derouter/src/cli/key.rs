//! The command line of `derouter key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::daemon::PlaceArgs;

/// What to do with the node's identity.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Show the node's peer id, and where its key is
    #[command(
        after_help = "Examples:\n  derouter key show\n  derouter key show --json\n\n\
        Exit codes: 0 shown, 2 usage, 3 there is no key that can be read."
    )]
    Show(ShowArgs),
    /// Write the key to a file that a passphrase protects; a node may run
    #[command(after_help = "Examples:\n  \
        derouter key backup identity.backup\n  \
        derouter key backup - --passphrase-file secret.txt > identity.backup\n\n\
        Who has the file and the passphrase can be this node. docs/cli.md tells the format.\n\n\
        Exit codes: 0 written, 2 usage, 3 no key that can be read, or the file is there already.")]
    Backup(BackupArgs),
    /// Put a key back from such a file; the node must be stopped
    #[command(after_help = "Examples:\n  \
        derouter key restore identity.backup\n  \
        derouter key restore identity.backup --data-dir /var/lib/derouter --passphrase-file secret.txt\n\n\
        Two nodes must never run with one key.\n\n\
        Exit codes: 0 restored, 2 usage, 3 the file is no backup, another key is there (--force), or a node \
        runs, 5 the passphrase is wrong.")]
    Restore(RestoreArgs),
}

/// Whose key.
#[derive(Clone, Debug, Args)]
pub(crate) struct ShowArgs {
    /// Which node.
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// From where the passphrase comes.
#[derive(Clone, Debug, Args)]
pub(crate) struct PassphraseArgs {
    /// A file whose first line is the passphrase; without it, DEROUTER_KEY_PASSPHRASE, else it is asked for
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// Where to write.
#[derive(Clone, Debug, Args)]
pub(crate) struct BackupArgs {
    /// The backup; nothing of that name may be there. `-`: the standard output
    #[arg(value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// From where the passphrase comes.
    #[command(flatten)]
    pub(crate) passphrase: PassphraseArgs,
    /// Whose key.
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// What to put back.
#[derive(Clone, Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub(crate) from: PathBuf,
    /// Also in place of another key, which is kept beside it
    #[arg(long)]
    pub(crate) force: bool,
    /// From where the passphrase comes.
    #[command(flatten)]
    pub(crate) passphrase: PassphraseArgs,
    /// Where to.
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}
