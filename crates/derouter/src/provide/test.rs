//! Sends one request through the own backend, and checks the answer and what it would be billed by.

use derouter_openai::terms::Endpoint;
use serde::Serialize;

use super::backend::{Answered, Question, ask, client};
use super::{OfferToAsk, Sold};
use crate::cli::provide::TestArgs;
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::text::{cut, printable};

/// Tokens of the answer: a few words.
const TOKENS: u32 = 24;

/// What is asked.
const PROMPT: &str = "Answer with one short sentence: what is a peer?";

/// A thing that is looked at.
#[derive(Clone, Debug, Serialize)]
struct Check {
    name: &'static str,
    /// `ok`, `warn` or `fail`.
    state: &'static str,
    text: String,
}

#[derive(Clone, Debug, Serialize)]
struct Tested {
    offer: String,
    model: String,
    backend_model: String,
    checks: Vec<Check>,
}

impl Tested {
    fn worst(&self) -> &'static str {
        let has = |state| self.checks.iter().any(|check| check.state == state);
        match (has("fail"), has("warn")) {
            (true, _) => "fail",
            (_, true) => "warn",
            _ => "ok",
        }
    }
}

pub(super) async fn test(args: TestArgs, output: Output) -> Result<(), Failure> {
    let offers = Sold::read(&args.node)?.offers();
    let offers = wanted(offers.into_values(), args.offer.as_deref())?;
    let client = client()?;
    let mut tested = Vec::new();
    let mut failure = None;
    for offer in &offers {
        output.progress().say(&format!("asking for {}", offer.id));
        let (one, broken) = test_one(&client, offer).await;
        failure = failure.or(broken);
        tested.push(one);
    }
    let told = serde_json::json!({"offers": tested});
    output.show("derouter.provide.test/1", &told, |output| {
        text(&tested, output.width())
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    match tested.iter().any(|one| one.worst() == "fail") {
        true => Err(Failure::failed("not all is well: see above")),
        false => Ok(()),
    }
}

/// The offers that are named, or all.
pub(super) fn wanted(
    offers: impl Iterator<Item = OfferToAsk>,
    named: Option<&str>,
) -> Result<Vec<OfferToAsk>, Failure> {
    let offers: Vec<OfferToAsk> = offers
        .filter(|offer| named.is_none_or(|id| offer.id == id))
        .collect();
    if !offers.is_empty() {
        return Ok(offers);
    }
    Err(match named {
        Some(id) => Failure::usage(format_args!(
            "neither the configuration nor `derouter provide add` has an offer {:?}",
            printable(id)
        )),
        None => Failure::environment(
            "the configuration names no offer. Models that a backend names by itself (`discover`) are \
             tested by buying: `derouter chat MODEL`",
        ),
    })
}

async fn test_one(client: &reqwest::Client, offer: &OfferToAsk) -> (Tested, Option<Failure>) {
    let mut tested = Tested {
        offer: offer.id.clone(),
        model: offer.config.model_id.clone(),
        backend_model: offer.config.backend_model().to_owned(),
        checks: Vec::new(),
    };
    let endpoints = &offer.config.terms.announced.endpoints;
    if !endpoints.is_empty() && !endpoints.contains(&Endpoint::Chat) {
        tested.checks.push(Check {
            name: "answer",
            state: "warn",
            text: "it serves no chat: only chats are tested".to_owned(),
        });
        return (tested, None);
    }
    for stream in [false, true] {
        let question = Question {
            prompt: PROMPT,
            tokens: TOKENS,
            stream,
        };
        match ask(client, offer, question).await {
            Ok(answered) => checks(&answered, stream, &mut tested.checks),
            Err(failure) => {
                tested.checks.push(Check {
                    name: if stream { "streamed answer" } else { "answer" },
                    state: "fail",
                    text: failure.to_string(),
                });
                let failure = Failure::of(Kind::RemoteFailure, &failure);
                return (tested, Some(failure));
            }
        }
    }
    (tested, None)
}

fn checks(answered: &Answered, stream: bool, checks: &mut Vec<Check>) {
    let (answer, metering) = match stream {
        true => ("streamed answer", "streamed metering"),
        false => ("answer", "metering"),
    };
    let mut add = |name, state, text| checks.push(Check { name, state, text });
    match (answered.text.trim(), answered.pieces) {
        ("", 0) => add(
            answer,
            "fail",
            "the backend answers without a text: nobody pays for that. Does the model chat?"
                .to_owned(),
        ),
        (text, _) => {
            let took = answered.took.as_secs_f64();
            add(
                answer,
                "ok",
                format!("{:.2} s: {}", took, cut(&printable(text), 60)),
            );
        }
    }
    if stream && answered.pieces <= 1 && answered.completion_tokens.is_some_and(|it| it > 4) {
        add(
            "stream",
            "warn",
            "all of it comes at once: consumers see a slow first token. Is streaming on?"
                .to_owned(),
        );
    }
    let (prompt, completion) = (answered.prompt_tokens, answered.completion_tokens);
    match (prompt, completion) {
        (Some(prompt), Some(completion)) if prompt > 0 && completion > 0 => {
            let over = completion > u64::from(TOKENS);
            match over {
                true => add(
                    metering,
                    "fail",
                    format!(
                        "{completion} tokens are told of an answer that may have {TOKENS}: consumers \
                         refuse such a bill"
                    ),
                ),
                false => add(
                    metering,
                    "ok",
                    format!("{prompt} tokens of the prompt, {completion} of the answer"),
                ),
            }
        }
        _ => add(
            metering,
            "warn",
            "the backend does not tell its usage: tokens are counted here, and less is billed than may \
             have been used"
                .to_owned(),
        ),
    }
}

fn text(tested: &[Tested], width: usize) -> String {
    let mut lines = Vec::new();
    for one in tested {
        lines.push(format!("{} ({}): {}", one.offer, one.model, one.worst()));
        for check in &one.checks {
            let line = format!("  {:<4}  {:<17}  {}", check.state, check.name, check.text);
            lines.push(match check.state {
                "ok" => cut(&line, width),
                _ => line,
            });
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(answered: &Answered, stream: bool) -> Vec<(&'static str, &'static str)> {
        let mut all = Vec::new();
        checks(answered, stream, &mut all);
        all.into_iter()
            .map(|check| (check.name, check.state))
            .collect()
    }

    #[test]
    fn what_consumers_would_refuse_is_found() {
        let good = Answered {
            text: "words".into(),
            pieces: 5,
            prompt_tokens: Some(3),
            completion_tokens: Some(5),
            ..Answered::default()
        };
        assert_eq!(states(&good, false), [("answer", "ok"), ("metering", "ok")]);
        let silent = Answered {
            text: String::new(),
            pieces: 0,
            ..good.clone()
        };
        assert_eq!(states(&silent, false)[0], ("answer", "fail"));
        let greedy = Answered {
            completion_tokens: Some(1000),
            ..good.clone()
        };
        assert_eq!(states(&greedy, false)[1], ("metering", "fail"));
        let untold = Answered {
            completion_tokens: None,
            ..good.clone()
        };
        assert_eq!(states(&untold, false)[1], ("metering", "warn"));
        let at_once = Answered { pieces: 1, ..good };
        assert_eq!(states(&at_once, true)[1], ("stream", "warn"));
    }
}
