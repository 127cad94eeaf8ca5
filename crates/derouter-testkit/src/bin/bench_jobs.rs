//! `cargo xtask bench jobs`, which builds and starts it: whole jobs between two processes. It starts
//! itself twice, as the process that sells and as the one that buys.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use derouter_testkit::bench::jobs::{Options, Selling, buy, sell};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

const USAGE: &str = "\
Usage: bench_jobs [--concurrency N,N,...] [--seconds N]
  --concurrency  jobs under way at once, in each round (1,16,256)
  --seconds      how long each round creates jobs (10)
";

fn options(arguments: &[String]) -> Option<Options> {
    let mut options = Options {
        concurrency: vec![1, 16, 256],
        round: Duration::from_secs(10),
    };
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match name.as_str() {
            "--concurrency" => {
                let many = value.split(',').map(str::parse);
                options.concurrency = many.collect::<Result<_, _>>().ok()?;
            }
            "--seconds" => options.round = Duration::from_secs(value.parse().ok()?),
            _ => return None,
        }
    }
    Some(options)
}

/// Starts the seller, and buys in this process.
async fn both(options: &Options) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    // On the disk that the project is on: a temporary directory may be memory, which syncs at once.
    let directory = |name: &str| {
        tempfile::Builder::new()
            .prefix(name)
            .tempdir_in(own.parent().unwrap_or(Path::new(".")))
            .map_err(|error| error.to_string())
    };
    let (sold, bought) = (directory("bench-sells-")?, directory("bench-buys-")?);
    let mut seller = Command::new(&own)
        .arg("--sell")
        .arg(sold.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let stdout = seller.stdout.take().ok_or("stdout is piped")?;
    let line = BufReader::new(stdout).lines().next_line().await;
    let line = line.ok().flatten().ok_or("the seller ended")?;
    let selling: Selling = serde_json::from_str(&line).map_err(|error| error.to_string())?;
    println!("50th / 99th percentiles; processor time for each job:");
    buy(bought.path(), &selling, options, |line| println!("{line}")).await;
    Ok(())
}

fn say(selling: &Selling) {
    println!("{}", serde_json::to_string(selling).unwrap_or_default());
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let [flag, directory] = arguments.as_slice()
        && flag == "--sell"
    {
        runtime.block_on(sell(directory.as_ref(), say));
        return ExitCode::SUCCESS;
    }
    let Some(options) = options(&arguments) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    match runtime.block_on(both(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
