//! Measures the own backend: one request after another, then many at once.

use std::time::Instant;

use derouter_openai::provider::config::DEFAULT_MAX_CONCURRENCY;
use futures::future::join_all;
use serde::Serialize;

use super::backend::{Answered, Question, ask, client};
use super::test::wanted;
use super::{OfferToAsk, Sold};
use crate::cli::provide::BenchArgs;
use crate::failure::Failure;
use crate::output::Output;
use crate::table::Table;

/// What is asked: long answers, and each time another prompt, so that no cache answers.
fn prompt(number: usize) -> String {
    format!("Question {number}: tell a long story about a network of peers, in great detail.")
}

/// The median and the worse end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Spread {
    p50: f64,
    p90: f64,
}

/// What so many at once gave.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    at_once: usize,
    requests: usize,
    failed: usize,
    first_token_seconds: Option<Spread>,
    /// Of one answer.
    tokens_per_second: Option<Spread>,
    /// Of all of them together.
    total_tokens_per_second: f64,
}

pub(super) async fn bench(args: BenchArgs, output: Output) -> Result<(), Failure> {
    let offers = Sold::read(&args.node)?.offers();
    let offers = wanted(offers.into_values(), args.offer.as_deref())?;
    let Some(offer) = offers.into_iter().next() else {
        return Err(Failure::usage("there is no offer"));
    };
    let client = client()?;
    let slots = offer
        .config
        .max_concurrency
        .unwrap_or(DEFAULT_MAX_CONCURRENCY);
    let at_once = usize::try_from(args.parallel.unwrap_or(slots)).unwrap_or(1);
    let rounds = usize::try_from(args.rounds).unwrap_or(1);
    let mut progress = output.progress();
    progress.say("the first request may load the model");
    // Not measured.
    ask(&client, &offer, question(&prompt(0), 16)).await?;
    let mut answers = Vec::new();
    let began = Instant::now();
    for round in 0..rounds {
        progress.say(&format!("one at a time: {} of {rounds}", round + 1));
        answers.push(ask(&client, &offer, question(&prompt(round + 1), args.tokens)).await);
    }
    let mut measured = vec![measure(1, answers, began)?];
    if at_once > 1 {
        progress.say(&format!("{at_once} at once"));
        measured.push(many(&client, &offer, at_once, args.tokens).await?);
    }
    drop(progress);
    let told = serde_json::json!({
        "offer": offer.id,
        "model": offer.config.model_id,
        "tokens": args.tokens,
        "measured": measured,
    });
    output.show("derouter.provide.bench/1", &told, |output| {
        text(&offer, &measured, output.width())
    });
    Ok(())
}

fn question(prompt: &str, tokens: u32) -> Question<'_> {
    Question {
        prompt,
        tokens,
        stream: true,
    }
}

async fn many(
    client: &reqwest::Client,
    offer: &OfferToAsk,
    at_once: usize,
    tokens: u32,
) -> Result<Measured, Failure> {
    let began = Instant::now();
    let asking = (0..at_once).map(|number| async move {
        ask(client, offer, question(&prompt(1000 + number), tokens)).await
    });
    measure(at_once, join_all(asking).await, began)
}

/// What answers gave; the first failure when there is none.
fn measure(
    at_once: usize,
    answers: Vec<Result<Answered, Failure>>,
    began: Instant,
) -> Result<Measured, Failure> {
    let took = began.elapsed().as_secs_f64();
    let requests = answers.len();
    let (mut good, mut failure) = (Vec::new(), None);
    for answer in answers {
        match answer {
            Ok(answer) => good.push(answer),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    if let (true, Some(failure)) = (good.is_empty(), failure) {
        return Err(failure);
    }
    let tokens = good
        .iter()
        .map(|answer| answer.completion_tokens.unwrap_or(answer.pieces));
    let tokens: u64 = tokens.fold(0, u64::saturating_add);
    #[expect(clippy::cast_precision_loss, reason = "a measurement")]
    let tokens = tokens as f64;
    let firsts = good
        .iter()
        .filter_map(|answer| Some(answer.first_token?.as_secs_f64()));
    Ok(Measured {
        at_once,
        requests,
        failed: requests.saturating_sub(good.len()),
        first_token_seconds: spread(firsts.collect()),
        tokens_per_second: spread(good.iter().filter_map(Answered::speed).collect()),
        total_tokens_per_second: rounded(tokens / took.max(0.001)),
    })
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let place = (values.len() * percent).div_ceil(100).checked_sub(1)?;
        values.get(place).copied().map(rounded)
    };
    Some(Spread {
        p50: at(50)?,
        p90: at(90)?,
    })
}

fn text(offer: &OfferToAsk, measured: &[Measured], width: usize) -> String {
    let mut table = Table::new(&[
        ">AT ONCE",
        ">FIRST p50",
        ">p90",
        ">TOKENS/S p50",
        ">p90",
        ">ALL TOGETHER",
        ">FAILED",
    ]);
    let cell = |value: Option<f64>, unit: &str| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}{unit}"))
    };
    for one in measured {
        let (first, speed) = (one.first_token_seconds, one.tokens_per_second);
        table.row(vec![
            one.at_once.to_string(),
            cell(first.map(|it| it.p50), " s"),
            cell(first.map(|it| it.p90), " s"),
            cell(speed.map(|it| it.p50), ""),
            cell(speed.map(|it| it.p90), ""),
            cell(Some(one.total_tokens_per_second), ""),
            format!("{}/{}", one.failed, one.requests),
        ]);
    }
    format!(
        "{} ({}) at its backend, no network between\n{}",
        offer.id,
        offer.config.model_id,
        table.text(width)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_worse_end_are_told() {
        assert_eq!(spread(Vec::new()), None);
        let values = (1..=10).map(f64::from).collect();
        let Some(spread) = spread(values) else {
            panic!("nothing");
        };
        assert_eq!((spread.p50, spread.p90), (5.0, 9.0));
    }
}
