//! The `derouter` command: it parses flags and files, starts what they name, and prints.

mod cli;
mod config;
mod demo;
mod drain;
mod failure;
mod logging;
mod module_process;
mod modules;
mod netcheck;
mod output;
mod peers;
mod ping;
mod ready;
mod relay;
mod rpc_node;
mod run;
mod signals;
mod text;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::cli::{Cli, Command, OpenAiCommand};
use crate::failure::Failure;

/// How long work that can't be interrupted (a name lookup) may hold up the end of the process.
const LINGER: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _points = fail::FailScenario::setup();
    let cli = Cli::parse();
    let command = cli.command.unwrap_or(Command::Run(cli.run));
    match execute(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn execute(command: Command) -> Result<(), Failure> {
    if matches!(command, Command::Version) {
        output::line(concat!("derouter ", env!("CARGO_PKG_VERSION")));
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format_args!("can't start the runtime: {error}")))?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Run(args) => Box::pin(run::run(args)).await,
            Command::Demo(args) => Box::pin(demo::demo(args)).await,
            Command::Openai {
                module: OpenAiCommand::Provide(args),
            } => Box::pin(module_process::provide(args)).await,
            Command::Openai {
                module: OpenAiCommand::Consume(args),
            } => Box::pin(module_process::consume(args)).await,
            Command::Netcheck(args) => Box::pin(netcheck::netcheck(args)).await,
            Command::Ping(args) => Box::pin(ping::ping(args)).await,
            Command::Peers(args) => Box::pin(peers::peers(args)).await,
            Command::Relay(args) => Box::pin(relay::relay(*args)).await,
            Command::Version => Ok(()),
        }
    });
    runtime.shutdown_timeout(LINGER);
    outcome
}
