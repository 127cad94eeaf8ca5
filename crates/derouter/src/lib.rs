//! The `derouter` command: it parses flags and files, starts what they name, and prints. A library
//! only so that its tests reach what reads files.

mod chat;
mod cli;
mod config;
mod daemon;
mod db;
mod demo;
mod doctor;
mod documents;
mod drain;
mod ending;
mod failure;
#[doc(hidden)]
pub mod fuzz;
mod gateway;
mod init;
mod jobs;
mod key;
mod logging;
mod market;
mod module_process;
mod modules;
mod netcheck;
mod offers;
mod open;
mod output;
mod peers;
mod ping;
mod provide;
mod quote;
mod ready;
mod relay;
mod rpc;
mod rpc_node;
mod run;
mod service;
mod settings;
mod signals;
mod status;
mod supervisor;
mod table;
mod text;
mod token;
mod version;
mod web;

use std::process::ExitCode;
use std::time::Duration;

use crate::cli::{Cli, Command, OpenAiCommand};
use crate::failure::Failure;
use crate::output::Output;

/// How long work that can't be interrupted (a name lookup) may hold up the end of the process.
const LINGER: Duration = Duration::from_millis(500);

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _points = fail::FailScenario::setup();
    let (command, frame) = Cli::from_process();
    let output = Output::new(frame);
    match execute(command, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(output.is_json()),
    }
}

fn execute(command: Command, output: Output) -> Result<(), Failure> {
    // What needs no runtime.
    match &command {
        Command::Version => {
            version::version(output);
            return Ok(());
        }
        Command::Completion(args) => return documents::completion(*args),
        Command::Man(args) => return documents::man(args, output),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format_args!("can't start the runtime: {error}")))?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Run(args) => Box::pin(run::run(args, output)).await,
            Command::Init(args) => Box::pin(init::init(*args, output)).await,
            Command::Up(args) => Box::pin(daemon::up::up(args, output)).await,
            Command::Down(args) => daemon::down::down(args, output).await,
            Command::Restart(args) => Box::pin(daemon::up::restart(args, output)).await,
            Command::Logs(args) => daemon::logs::logs(args, output).await,
            Command::Demo(args) => Box::pin(demo::demo(args, output)).await,
            Command::Openai {
                module: OpenAiCommand::Provide(args),
            } => Box::pin(module_process::provide(args, output)).await,
            Command::Openai {
                module: OpenAiCommand::Consume(args),
            } => Box::pin(module_process::consume(args, output)).await,
            Command::Netcheck(args) => Box::pin(netcheck::netcheck(args, output)).await,
            Command::Ping(args) => Box::pin(ping::ping(args, output)).await,
            Command::Open(args) => Box::pin(open::open(args, output)).await,
            Command::Peers(args) => Box::pin(peers::peers(args, output)).await,
            Command::Quote(args) => Box::pin(quote::quote(args, output)).await,
            Command::Doctor(args) => Box::pin(doctor::doctor(args, output)).await,
            Command::Service { command } => service::service(&command, output),
            Command::Config { command } => settings::settings(command, output).await,
            Command::Key { command } => key::key(&command, output),
            Command::Db { command } => db::db(&command, output),
            Command::Jobs { command } => Box::pin(jobs::jobs(&command, output)).await,
            Command::Status(args) => Box::pin(status::status(args, output)).await,
            Command::Offers { command } => Box::pin(offers::offers(command, output)).await,
            Command::Models(args) => Box::pin(offers::models(args, output)).await,
            Command::Chat(args) => Box::pin(chat::chat(*args, output)).await,
            Command::Provide { command } => Box::pin(provide::provide(*command, output)).await,
            Command::Rpc { command } => Box::pin(rpc::rpc(command, output)).await,
            Command::Token { command } => token::token(&command, output),
            Command::Relay(args) => Box::pin(relay::relay(*args, output)).await,
            Command::Completion(_) | Command::Man(_) | Command::Version => Ok(()),
        }
    });
    runtime.shutdown_timeout(LINGER);
    outcome
}
