//! The command line of `derouter config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::init::InitArgs;
use crate::config::schema::FileKind;

/// What to do with the configuration.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Write a configuration: the same as `derouter init`
    #[command(after_help = "Example:\n  derouter config init --yes --role buy")]
    Init(Box<InitArgs>),
    /// Show what holds, defaults included
    #[command(
        after_help = "Examples:\n  derouter config show\n  derouter config show --origin --json"
    )]
    Show(ShowArgs),
    /// Print one value as it holds
    #[command(after_help = "Examples:\n  \
        derouter config get server.port\n  \
        derouter config get \"openai.provider.offers.'llama3.2'.input_token_price\"\n\n\
        Exit codes: 0 printed, 1 nothing is set there, 2 no such key, 3 configuration.")]
    Get(GetArgs),
    /// Change one value in the file; its comments stay
    #[command(after_help = "Examples:\n  \
        derouter config set openai.consumer.limits.daily 2.5\n  \
        derouter config set server.port 4270\n  \
        derouter config set bootstrap \"['/ip4/203.0.113.5/tcp/4001/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp']\"\n  \
        derouter config set openai.provider.openai_api_key - < key.txt\n\n\
        The file is written only if a node takes it as it is then. An amount of money may be written as a number.\n\n\
        Exit codes: 0 changed, 2 usage, 3 the file can't be read, or can't hold that.")]
    Set(SetArgs),
    /// Remove one value from the file, so that the default holds
    #[command(after_help = "Example:\n  derouter config unset server.port")]
    Unset(UnsetArgs),
    /// Check a file, without starting anything
    #[command(after_help = "Examples:\n  \
        derouter config validate\n  \
        derouter config validate -c relay.json --kind relay\n\n\
        Exit codes: 0 it is good, 2 usage, 3 it is not.")]
    Validate(ValidateArgs),
    /// Print the JSON schema of the file: every key with its meaning, type and default
    #[command(after_help = "Examples:\n  \
        derouter config schema > config.schema.json\n  \
        derouter config schema --kind relay")]
    Schema(SchemaArgs),
}

/// Which file.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FileArgs {
    /// The node's configuration (JSON5) [env: DEROUTER_CONFIG] [default: config.json in the usual directory]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// What to show.
#[derive(Clone, Debug, Args)]
pub(crate) struct ShowArgs {
    /// Which file.
    #[command(flatten)]
    pub(crate) file: FileArgs,
    /// Say of each value where it comes from: the environment, the file or the default
    #[arg(long)]
    pub(crate) origin: bool,
    /// Show keys of servers too
    #[arg(long)]
    pub(crate) secrets: bool,
}

/// Which value.
#[derive(Clone, Debug, Args)]
pub(crate) struct GetArgs {
    /// Its path: keys with dots between, such as server.port or openai.provider[0].offers."a.b".model_id
    #[arg(value_name = "PATH")]
    pub(crate) path: String,
    /// Show keys of servers too
    #[arg(long)]
    pub(crate) secrets: bool,
    /// Which file.
    #[command(flatten)]
    pub(crate) file: FileArgs,
}

/// Which value to remove.
#[derive(Clone, Debug, Args)]
pub(crate) struct UnsetArgs {
    /// Its path: keys with dots between
    #[arg(value_name = "PATH")]
    pub(crate) path: String,
    /// Which file.
    #[command(flatten)]
    pub(crate) file: FileArgs,
}

/// What to change.
#[derive(Clone, Debug, Args)]
pub(crate) struct SetArgs {
    /// Its path: keys with dots between
    #[arg(value_name = "PATH")]
    pub(crate) path: String,
    /// The value: JSON5, or else a text as it is; `-` reads it from the standard input
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    pub(crate) value: String,
    /// Which file.
    #[command(flatten)]
    pub(crate) file: FileArgs,
}

/// What to check.
#[derive(Clone, Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Which file.
    #[command(flatten)]
    pub(crate) file: FileArgs,
    /// What the file is for
    #[arg(long, value_enum, value_name = "KIND", default_value = "node")]
    pub(crate) kind: FileKind,
}

/// Of what.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct SchemaArgs {
    /// What the file is for
    #[arg(long, value_enum, value_name = "KIND", default_value = "node")]
    pub(crate) kind: FileKind,
}
