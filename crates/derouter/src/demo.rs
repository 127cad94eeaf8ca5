//! `derouter demo`: two real nodes on this machine, one chat through them, and the job that both
//! signed. Then it serves on, and says what to paste.

mod backend;
mod chat;
mod hints;
mod receipt;
mod screen;
mod stage;

use tokio_util::sync::CancellationToken;

use crate::cli::DemoArgs;
use crate::config::LogFormat;
use crate::failure::Failure;
use crate::output::Output;
use crate::{logging, signals};
use screen::Screen;
use stage::{Actors, Stage};

/// Plays it. Ctrl-C ends it cleanly at any moment.
pub(crate) async fn demo(args: DemoArgs, output: Output) -> Result<(), Failure> {
    let format = args.output.log_format.unwrap_or(LogFormat::Text);
    logging::start(format, logging::DEMO, output)?;
    let stop = signals::listen()?;
    // The line of JSON has the standard output for itself.
    let screen = if args.output.ready_json {
        Screen::stderr(output)
    } else {
        Screen::stdout(output)
    };
    let mut stage = Stage::default();
    let outcome = Box::pin(play(&args, &screen, &mut stage, &stop)).await;
    if stop.is_cancelled() {
        screen.line("");
        screen.dim("Stopping: taking the offer back, closing both nodes, removing their files ...");
    }
    stage.shutdown().await;
    outcome
}

async fn play(
    args: &DemoArgs,
    screen: &Screen,
    stage: &mut Stage,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    stage::check_port(args.port)?;
    screen.title("derouter demo: two nodes on this machine, one sells, one buys");
    let backend = tokio::select! {
        backend = backend::choose(args) => backend?,
        () = stop.cancelled() => return Ok(()),
    };
    backend.introduce(screen);
    let model = backend.model.clone();
    // Not interrupted: only a node that is up can be taken down without a trace, and it takes less
    // than a second.
    stage.raise(backend, args.port, screen).await?;
    let actors = stage.actors().await?;
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        outcome = Box::pin(trade(args, &model, screen, &actors)) => outcome,
    }
}

/// One chat and its job, then what the user does.
async fn trade(
    args: &DemoArgs,
    model: &str,
    screen: &Screen,
    actors: &Actors,
) -> Result<(), Failure> {
    if args.output.ready_json {
        actors.ready().print();
    }
    stage::wait_for_model(actors.url(), model).await?;
    let watched = receipt::Watched::begin(actors).await?;
    chat::stream(actors.url(), model, &args.prompt, screen).await?;
    watched.wait().await?.show(screen)?;
    if args.once {
        return Ok(());
    }
    hints::show(actors.url(), model, screen);
    receipt::follow(actors, screen).await
}

#[cfg(test)]
mod tests;
