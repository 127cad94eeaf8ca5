//! The command line.

pub(crate) mod chat;
pub(crate) mod daemon;
pub(crate) mod db;
pub(crate) mod doctor;
pub(crate) mod frame;
pub(crate) mod init;
pub(crate) mod jobs;
pub(crate) mod key;
pub(crate) mod market;
pub(crate) mod network;
pub(crate) mod offers;
pub(crate) mod open;
pub(crate) mod provide;
pub(crate) mod quote;
pub(crate) mod relay;
pub(crate) mod rpc;
pub(crate) mod service;
pub(crate) mod settings;
pub(crate) mod status;
pub(crate) mod token;

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::node::RunConfig;
use crate::config::place::Origin;
use crate::config::{ConfigError, LogFormat};
use crate::failure::EXIT_CODES;
use crate::settings::effective::Over;
use chat::ChatArgs;
use daemon::{BackgroundArgs, DownArgs, LogsArgs, RestartArgs, UpArgs};
use db::DbCommand;
use doctor::DoctorArgs;
use frame::FrameArgs;
use init::InitArgs;
use jobs::JobsCommand;
use key::KeyCommand;
use network::{NetcheckArgs, PeersArgs, PingArgs};
use offers::{ModelsArgs, OffersCommand};
use open::OpenArgs;
use provide::ProvideCommand;
use quote::QuoteArgs;
use relay::RelayArgs;
use rpc::RpcCommand;
use service::ServiceCommand;
use settings::ConfigCommand;
use status::StatusArgs;
use token::TokenCommand;

/// Buy and sell digital services, such as OpenAI-compatible inference, from peer to peer.
#[derive(Debug, Parser)]
#[command(
    name = "derouter",
    version,
    max_term_width = 100,
    after_help = help(),
)]
pub(crate) struct Cli {
    /// What to do; without it, run a node.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// For running a node.
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// What every command takes.
    #[command(flatten)]
    pub(crate) frame: FrameArgs,
}

const EXAMPLES: &str = "Examples:\n  \
        derouter demo                       a provider and a consumer on this machine, to try it\n  \
        derouter init                       write a configuration, with a server found on this machine\n  \
        derouter up                         start the node in the background; `down` stops it\n  \
        derouter -c config.json             run a node (the same as `derouter run -c config.json`)\n  \
        derouter openai provide -c p.json   sell what an OpenAI-compatible server answers\n  \
        derouter openai consume -c c.json   buy: an OpenAI-compatible endpoint on this machine\n  \
        derouter token create laptop        make a key that programs need for that endpoint\n  \
        derouter netcheck                   whether others can reach the running node, and what to do\n\n\
        docs/cli.md describes the commands, docs/config.md the configuration files.";

const PRECEDENCE: &str = "A flag goes before the environment (DEROUTER_CONFIG, DEROUTER_DATA_DIR, DEROUTER_RPC, \
        DEROUTER_RPC_COOKIE, DEROUTER_URL, DEROUTER_COLOR), that before the configuration file, and that \
        before the default. Without -c and DEROUTER_CONFIG, config.json in the usual directory \
        (~/.config/derouter on Linux) is read if it is there.";

fn help() -> String {
    format!("{EXAMPLES}\n\n{PRECEDENCE}\n\n{EXIT_CODES}")
}

impl Cli {
    /// The command, and what it takes in common with all others. `-c` and the like in front of another
    /// command's name would say nothing to it: an error.
    pub(crate) fn from_process() -> (Command, FrameArgs) {
        Self::settled(Self::parse()).unwrap_or_else(|error| error.exit())
    }

    fn settled(self) -> Result<(Command, FrameArgs), clap::Error> {
        let Some(command) = self.command else {
            return Ok((Command::Run(self.run), self.frame));
        };
        let misplaced = self.run.given();
        if misplaced.is_empty() {
            return Ok((command, self.frame));
        }
        let message = format!(
            "{} in front of a command's name means nothing to it: put it behind the name",
            misplaced.join(", ")
        );
        let error = Self::command().error(ErrorKind::ArgumentConflict, message);
        Err(error)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a configuration: finds a server to sell from, asks what the node shall do
    #[command(after_help = "Examples:\n  \
        derouter init\n  \
        derouter init --yes --role buy --daily 2\n  \
        derouter init --yes --role sell --backend http://127.0.0.1:11434/v1 --model llama3.2")]
    Init(Box<InitArgs>),
    /// Start a node in the background, and wait until all is up
    #[command(after_help = "Examples:\n  \
        derouter up\n  \
        derouter up -c config.json --wait 60\n  \
        derouter up --foreground\n\n\
        Its log is in the data directory, is bounded, and `derouter logs -f` follows it.")]
    Up(UpArgs),
    /// Stop the node that `derouter up` or `derouter run` started, and wait until it has ended
    #[command(after_help = "Examples:\n  \
        derouter down\n  \
        derouter down --now\n\n\
        The offers leave the market, and jobs that run may end within `drain_seconds`.")]
    Down(DownArgs),
    /// Stop the node in the background and start it with what it was started with
    #[command(after_help = "Example:\n  derouter restart")]
    Restart(RestartArgs),
    /// Show the log of the node in the background
    #[command(after_help = "Examples:\n  \
        derouter logs -f\n  \
        derouter logs -n 200 --grep WARN")]
    Logs(LogsArgs),
    /// Run a node, with the OpenAI modules that its configuration has
    #[command(after_help = "Examples:\n  \
        derouter run -c config.json\n  \
        RUST_LOG=debug derouter run -c config.json --log-format json 2> node.log")]
    Run(RunArgs),
    /// Show it all on this machine: a provider node and a consumer node, one chat, one signed job
    #[command(after_help = "Examples:\n  \
        derouter demo\n  \
        derouter demo --backend http://127.0.0.1:11434/v1 --model llama3.2\n  \
        derouter demo --prompt \"Write a haiku about peers\" --once")]
    Demo(DemoArgs),
    /// The OpenAI modules as processes of their own, next to a running node
    #[command(after_help = "Example:\n  derouter openai consume -c consumer.json")]
    Openai {
        /// Which module.
        #[command(subcommand)]
        module: OpenAiCommand,
    },
    /// Open the dashboard of the running node in a browser, by a link that works once
    #[command(after_help = "Examples:\n  \
        derouter open\n  \
        derouter open --print               for a browser on another machine, behind `ssh -L 4280:127.0.0.1:4280`\n\n\
        Exit codes: 0 opened, 1 failed, 2 usage, 3 configuration, 4 no node runs.")]
    Open(OpenArgs),
    /// Say how the node is, on one screen: network, money, jobs, modules, and what is wrong
    #[command(after_help = "Examples:\n  \
        derouter status\n  \
        derouter status --watch\n  \
        derouter status --watch --json --interval 10\n\n\
        Exit codes: 0 told, 1 failed, 2 usage, 3 configuration, 4 no node runs.")]
    Status(StatusArgs),
    /// See the offers on the market
    #[command(after_help = "Example:\n  derouter offers list \"llama*\" --sort price")]
    Offers {
        /// What to do.
        #[command(subcommand)]
        command: OffersCommand,
    },
    /// See the models on the market, and from what price on
    #[command(after_help = "Examples:\n  \
        derouter models\n  \
        derouter models \"*coder*\" --buyable --json\n\n\
        Exit codes: 0 told, 1 failed, 2 usage, 3 configuration, 4 no node runs.")]
    Models(ModelsArgs),
    /// Ask a model, and pay for the answer as the endpoint's limits allow
    #[command(after_help = "Examples:\n  \
        derouter chat llama3.2 \"Why trade with peers?\"\n  \
        cat question.txt | derouter chat llama3.2\n  \
        derouter chat\n\n\
        Without a prompt, on a terminal, it is a conversation. What it took and cost is told on the standard \
        error. Where the endpoint wants a key, DEROUTER_API_KEY is sent; the user that runs the node needs none.\n\n\
        Exit codes: 0 answered, 1 failed, 2 usage, 3 configuration, 4 no endpoint answers, 5 a key is \
        missing or not for this, 6 nobody sells that, 7 a spending limit is reached, 8 the providers failed, \
        124 the time is up, 130 cancelled.")]
    Chat(Box<ChatArgs>),
    /// See and change what this node sells, without a restart; test and measure its backend
    #[command(after_help = "Example:\n  derouter provide list")]
    Provide {
        /// What to do.
        #[command(subcommand)]
        command: Box<ProvideCommand>,
    },
    /// Talk to the node's RPC, for authors of modules
    #[command(after_help = "Example:\n  derouter rpc call QueryNetwork")]
    Rpc {
        /// What to do.
        #[command(subcommand)]
        command: RpcCommand,
    },
    /// Say whether others can reach this node, and what to do about it
    #[command(after_help = "Examples:\n  \
        derouter netcheck\n  \
        derouter netcheck -c config.json --json\n  \
        derouter netcheck --standalone --wait 30\n\n\
        Exit codes: 0 well, 1 not (no peer, or neither dialled by others nor on a relay), 2 usage, \
        3 configuration, 4 no node runs.")]
    Netcheck(NetcheckArgs),
    /// Measure the round trip to a peer, and say which way it goes
    #[command(after_help = "Examples:\n  \
        derouter ping 12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp\n  \
        derouter ping /ip4/203.0.113.5/tcp/4001/p2p/12D3KooW... --count 1\n  \
        derouter ping 6vnc6iDEp --until-direct --timeout 30\n\n\
        Exit codes: 0 answered (or direct), 1 not, 2 usage, 3 configuration, 4 no node runs, \
        124 time is up.")]
    Ping(PingArgs),
    /// List the peers of this node: how they are reached, how fast, and what went wrong
    #[command(after_help = "Examples:\n  \
        derouter peers\n  \
        derouter peers --all --json\n  \
        derouter peers 6vnc6iDEp\n\n\
        Exit codes: 0 told, 1 failed, 2 usage, 3 configuration, 4 no node runs.")]
    Peers(PeersArgs),
    /// Have the system run the node: systemd or launchd
    #[command(after_help = "Example:\n  derouter service install --print")]
    Service {
        /// What to do.
        #[command(subcommand)]
        command: ServiceCommand,
    },
    /// Examine configuration, machine and node: what is not well, and what to do
    #[command(after_help = "Examples:\n  \
        derouter doctor\n  \
        derouter doctor --fix\n  \
        derouter doctor --bundle report.json\n\n\
        Exit codes: 0 nothing fails (warnings may be there), 1 something does, 2 usage.")]
    Doctor(DoctorArgs),
    /// Show, change and check the configuration
    #[command(after_help = "Example:\n  derouter config show --origin")]
    Config {
        /// What to do.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Show, back up and restore the node's identity
    #[command(after_help = "Example:\n  derouter key backup identity.backup")]
    Key {
        /// What to do.
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Make, list and revoke the keys that programs need for the OpenAI endpoint
    #[command(after_help = "Example:\n  derouter token create laptop --daily 0.5")]
    Token {
        /// What to do.
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Say what a request for a model would cost at each offer, and which would be tried first
    #[command(after_help = "Examples:\n  \
        derouter quote llama3.2 --in 2000 --out 500\n  \
        derouter quote llama3.2 --sort latency --max-price 0.5 --json\n\n\
        Exit codes: 0 told, 1 failed, 2 usage, 3 configuration, 4 no OpenAI endpoint answers.")]
    Quote(QuoteArgs),
    /// Look after the node's database: check, back up, make smaller, export
    #[command(after_help = "Example:\n  derouter db backup copy.sqlite")]
    Db {
        /// What to do with it.
        #[command(subcommand)]
        command: DbCommand,
    },
    /// See what was bought and sold, and prove or check the outcome of a job
    #[command(after_help = "Example:\n  derouter jobs list --state failed")]
    Jobs {
        /// What to do.
        #[command(subcommand)]
        command: JobsCommand,
    },
    /// Run a relay and bootstrap node for others: no offers, no database
    #[command(after_help = "Examples:\n  \
        derouter relay --external-address /ip4/203.0.113.5/tcp/4001\n  \
        derouter relay -c relay.json\n  \
        DEROUTER_RELAY_KEY=$(openssl rand -hex 32) derouter relay --http 127.0.0.1:9090")]
    Relay(Box<RelayArgs>),
    /// Print what completes commands in a shell
    #[command(after_help = "Examples:\n  \
        derouter completion bash > ~/.local/share/bash-completion/completions/derouter\n  \
        derouter completion zsh > ~/.zfunc/_derouter")]
    Completion(CompletionArgs),
    /// Print the manual page, or write one for each command
    #[command(after_help = "Examples:\n  \
        derouter man > derouter.1\n  \
        derouter man ~/.local/share/man/man1")]
    Man(ManArgs),
    /// Print the version
    #[command(after_help = "Example:\n  derouter version --json")]
    Version,
}

/// Which shell.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// Where to write manual pages.
#[derive(Clone, Debug, Args)]
pub(crate) struct ManArgs {
    /// The directory; without it, the page of `derouter` goes to the standard output
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
}

/// Which module.
#[derive(Debug, Subcommand)]
pub(crate) enum OpenAiCommand {
    /// Sell what an OpenAI-compatible server answers
    #[command(after_help = "Example:\n  derouter openai provide -c provider.json")]
    Provide(ModuleArgs),
    /// Buy: serve an OpenAI-compatible endpoint on this machine
    #[command(after_help = "Example:\n  derouter openai consume -c consumer.json")]
    Consume(ModuleArgs),
}

/// How to run a node.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RunArgs {
    /// The configuration (JSON5) [env: DEROUTER_CONFIG] [default: config.json in the usual directory;
    /// without one, a node with the defaults and no module]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The node's data directory, in place of the configuration's [env: DEROUTER_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// What whatever runs on takes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// How to run in the background.
    #[command(flatten)]
    pub(crate) background: BackgroundArgs,
}

impl RunArgs {
    /// Reads the configuration that they name.
    pub(crate) fn load(&self) -> Result<RunConfig, ConfigError> {
        RunConfig::load_at(self.config.as_deref(), self.data_dir.as_deref())
    }

    /// What they and the environment say in place of the configuration.
    pub(crate) fn over(&self) -> Result<Over, ConfigError> {
        let environment = Over::of_environment()?;
        Ok(Over {
            data_dir: match &self.data_dir {
                Some(_) => Some(Origin::Flag),
                None => environment.data_dir,
            },
            log_format: self.output.log_format,
        })
    }

    /// The flags that were given.
    fn given(&self) -> Vec<&'static str> {
        let flags = [
            (self.config.is_some(), "--config"),
            (self.data_dir.is_some(), "--data-dir"),
            (self.output.ready_json, "--ready-json"),
            (self.output.log_format.is_some(), "--log-format"),
        ];
        let given = flags.into_iter().filter(|(given, _)| *given);
        given.map(|(_, flag)| flag).collect()
    }
}

/// How to run a module.
#[derive(Debug, Args)]
pub(crate) struct ModuleArgs {
    /// The module's configuration (JSON5)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// What whatever runs on takes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// What whatever runs on takes.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct OutputArgs {
    /// Print one line of JSON on the standard output once all is up
    #[arg(long)]
    pub(crate) ready_json: bool,
    /// How to write the log (on the standard error; RUST_LOG chooses what)
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

/// How to show it all.
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Base URL of an OpenAI-compatible server; without it, one is looked for on this machine
    #[arg(long, value_name = "URL", value_parser = crate::config::base_url)]
    pub(crate) backend: Option<String>,
    /// The model to sell and ask; without it, the server's first
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// The port of the OpenAI endpoint
    #[arg(long, default_value_t = crate::config::openai::DEFAULT_PORT)]
    pub(crate) port: u16,
    /// What to ask
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "In one sentence: why trade with peers?"
    )]
    pub(crate) prompt: String,
    /// Exit after the first chat instead of serving on
    #[arg(long)]
    pub(crate) once: bool,
    /// What whatever runs on takes.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"derouter").chain(arguments))
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_every_command_has_an_example_that_the_command_line_takes() {
        fn walk(command: &clap::Command, path: &str, told: &mut Vec<String>) {
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            assert!(help.contains("Example"), "{path} --help shows no example");
            let lines = help.lines().map(str::trim);
            let examples = lines.filter(|line| line.starts_with("derouter "));
            told.extend(examples.map(str::to_owned));
            for inner in command.get_subcommands() {
                walk(inner, &format!("{path} {}", inner.get_name()), told);
            }
        }
        let mut told = Vec::new();
        walk(&Cli::command(), "derouter", &mut told);
        for example in told {
            // What a shell would take away.
            let example = example.split("   ").next().unwrap_or_default();
            let example = example.replace("$(date +%F)", "today");
            let example = example.split(['>', '|', '<']).next().unwrap_or_default();
            let words: Vec<String> = words(example).into_iter().skip(1).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let taken = parse(&words);
            assert!(taken.is_ok(), "{example}: {}", taken.unwrap_err());
        }
    }

    #[test]
    fn the_documentation_names_every_command_and_every_variable() {
        let page = include_str!("../../../docs/cli.md");
        for command in Cli::command().get_subcommands() {
            let name = format!("`{}`", command.get_name());
            assert!(page.contains(&name), "docs/cli.md does not name {name}");
        }
        for variable in crate::doctor::VARIABLES {
            let is_of_tests = variable.starts_with("DEROUTER_TEST");
            assert!(
                is_of_tests || page.contains(variable),
                "docs/cli.md does not name {variable}"
            );
        }
    }

    /// The words of a command as a shell has them: with quotes, and nothing else.
    fn words(text: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        for c in text.chars() {
            match quote {
                Some(open) if c == open => quote = None,
                None if c == '"' || c == '\'' => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                None if c.is_whitespace() => words.extend(word.take()),
                _ => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        words
    }

    #[test]
    fn what_all_commands_take_may_stand_anywhere() {
        for arguments in [
            &["--json", "-v", "netcheck"][..],
            &["netcheck", "--json", "-v"],
            &["db", "--json", "check", "-v"],
        ] {
            let (_, frame) = parse(arguments).unwrap().settled().unwrap();
            assert!(frame.json && frame.verbose == 1, "{arguments:?}");
        }
        let (command, frame) = parse(&["-c", "x", "-vv"]).unwrap().settled().unwrap();
        assert!(matches!(command, Command::Run(_)) && frame.verbose == 2);
    }

    #[test]
    fn a_configuration_alone_runs_the_node_as_in_0_1_0() {
        let cli = parse(&["-c", "config.json"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.run.config, Some("config.json".into()));
        let cli = parse(&["run", "--config", "config.json", "--ready-json"]).unwrap();
        let Some(Command::Run(run)) = cli.command else {
            panic!("not run");
        };
        assert!(run.output.ready_json);
        assert!(parse(&[]).unwrap().command.is_none());
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        for arguments in [
            &["-c", "x", "demo"][..],
            &["--ready-json", "netcheck"],
            &["-q", "-v", "peers"],
            &["--color", "blue", "peers"],
            &["openai"],
            &["openai", "provide"],
            &["demo", "--port", "70000"],
            &["demo", "--backend", "11434"],
            &["sell"],
            &["ping"],
            &["ping", "x", "--count", "0"],
            &["netcheck", "--standalone", "--rpc", "127.0.0.1:1"],
            &["netcheck", "--wait", "-1"],
            &["relay", "--listen", "0.0.0.0:4001"],
            &["relay", "--reservations", "0"],
            &["quote"],
            &["quote", "m", "--in", "-1"],
            &["quote", "m", "--sort", "best"],
            &["quote", "m", "-c", "x", "--url", "http://127.0.0.1:1"],
            &["db"],
            &["db", "backup"],
            &["db", "export", "--since", "soon"],
            &["db", "check", "-c", "x", "--database", "y"],
            &["token"],
            &["token", "create"],
            &["token", "create", "x", "--daily", "much"],
            &["token", "create", "x", "--expires", "soon"],
            &["token", "list", "-c", "x", "--data-dir", "y"],
        ] {
            let error = parse(arguments).and_then(Cli::settled).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments:?}");
        }
    }
}
