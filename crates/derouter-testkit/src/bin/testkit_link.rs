//! A link with delay, loss and a rate between two network namespaces, until it is stopped.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::time::Duration;

use derouter_testkit::link::{End, Link, Shape};

const USAGE: &str = "\
Usage: testkit_link --left <namespace,device,address/prefix> --right <the same> [options]
  --delay-ms N    one way
  --jitter-ms N   added at random, one way
  --loss SHARE    from 0 to 1
  --rate-mbit N   in each direction
  --queue-kib N   what waits where there is a rate
";

fn end(text: &str) -> Option<End> {
    let mut parts = text.split(',');
    let (namespace, device) = (parts.next()?, parts.next()?);
    let addresses: Vec<&str> = parts.collect();
    Some(End::named(namespace, device, &addresses))
}

fn options() -> Option<(End, End, Shape)> {
    let (mut left, mut right, mut shape) = (None, None, Shape::default());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next()?;
        match argument.as_str() {
            "--left" => left = Some(end(&value)?),
            "--right" => right = Some(end(&value)?),
            "--delay-ms" => shape.delay = Duration::from_millis(value.parse().ok()?),
            "--jitter-ms" => shape.jitter = Duration::from_millis(value.parse().ok()?),
            "--loss" => shape.loss = value.parse().ok()?,
            "--rate-mbit" => shape.rate = Some(value.parse::<u64>().ok()? * 1_000_000),
            "--queue-kib" => shape.queue_bytes = value.parse::<u64>().ok()? * 1_024,
            _ => return None,
        }
    }
    Some((left?, right?, shape))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some((left, right, shape)) = options() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let link = match Link::start(&left, &right, shape) {
        Ok(link) => link,
        Err(error) => {
            eprintln!("the link can't be made: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{{\"event\":\"ready\"}}");
    let _ = tokio::signal::ctrl_c().await;
    println!("{link:?}");
    ExitCode::SUCCESS
}
