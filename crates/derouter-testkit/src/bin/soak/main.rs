//! `cargo xtask soak`, which builds and starts it: nodes under load for long, and what of them grows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod gateway;
mod judge;
mod ledger;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
Usage: soak ledger|gateway --node <derouter binary> [--minutes N]
  ledger        two nodes that trade
  gateway       a gateway under mixed load, whose providers come, go, are killed and fail
  --minutes N   how long (30); growth is judged from 10 on
";

#[derive(Clone, Copy, Debug)]
enum What {
    Ledger,
    Gateway,
}

fn options(arguments: &[String]) -> Option<(What, PathBuf, u64)> {
    let (mut what, mut node, mut minutes) = (None, None, 30);
    let mut arguments = arguments.iter();
    while let Some(word) = arguments.next() {
        match word.as_str() {
            "ledger" => what = Some(What::Ledger),
            "gateway" => what = Some(What::Gateway),
            "--node" => node = PathBuf::from(arguments.next()?).canonicalize().ok(),
            "--minutes" => {
                let number = arguments.next()?.parse().ok();
                minutes = number.filter(|minutes| *minutes > 0)?;
            }
            _ => return None,
        }
    }
    Some((what?, node?, minutes))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((what, node, minutes)) = options(&arguments) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let good = match runtime {
        Ok(runtime) => runtime.block_on(async {
            match what {
                What::Ledger => ledger::soak(node, minutes).await,
                What::Gateway => Box::pin(gateway::soak(node, minutes)).await,
            }
        }),
        Err(error) => {
            eprintln!("no runtime: {error}");
            false
        }
    };
    match good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
