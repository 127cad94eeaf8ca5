//! What every command takes.

use clap::{ArgAction, Args, ValueEnum};

/// What every command takes, in front of its name or behind it.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct FrameArgs {
    /// Print JSON on the standard output: objects that name their shape in `schema`
    /// (docs/schemas), one a line. Errors are JSON on the standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing beside the answer but what is wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more on the standard error; twice, still more. RUST_LOG goes before it
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Colours; with `auto` on a terminal, unless NO_COLOR is set [env: DEROUTER_COLOR]
    #[arg(long, global = true, value_enum, value_name = "WHEN")]
    pub(crate) color: Option<ColorChoice>,
}

/// When to write colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Also into files and pipes
    Always,
    /// Never
    Never,
}

/// Consent to what would be asked otherwise.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct ConsentArgs {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}
