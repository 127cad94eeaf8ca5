//! `derouter chat`: asks a model over the OpenAI endpoint. The answer goes to the standard output as it
//! comes, what it cost to the standard error.

mod answer;
mod talk;

use std::io::{IsTerminal, Read};

use derouter_openai::consumer::view::{ModelsView, OffersView};
use derouter_sdk::Wei;
use serde_json::{Map, Value, json};

use crate::cli::chat::ChatArgs;
use crate::failure::{Failure, Kind};
use crate::gateway::{self, Gateway, with_json};
use crate::output::{self, Output};
use crate::{market, offers};
use answer::Answer;

/// Bytes of a prompt that are read from the standard input.
const PROMPT_BYTES: u64 = 16 * 1024 * 1024;

/// What all questions of a run share.
pub(super) struct Chat {
    gateway: Gateway,
    model: String,
    args: ChatArgs,
    output: Output,
}

/// Asks.
pub(crate) async fn chat(args: ChatArgs, output: Output) -> Result<(), Failure> {
    // The endpoint may be one of a machine without a node.
    let modules = match market::node(&args.market).await {
        Ok((_, modules)) => modules,
        Err(_) => Vec::new(),
    };
    let gateway = Gateway::find(&args.market, &modules)?.ok_or_else(gateway::none)?;
    let model = match &args.model {
        Some(model) => model.clone(),
        None => cheapest(&gateway).await?,
    };
    let chat = Chat {
        gateway,
        model,
        output,
        args,
    };
    let prompt = match chat.args.prompt.as_deref() {
        Some("-") | None if std::io::stdin().is_terminal() && !output.is_json() => {
            return talk::talk(&chat).await;
        }
        Some("-") | None => read_prompt()?,
        Some(prompt) => prompt.to_owned(),
    };
    let mut messages = chat.first_messages();
    messages.push(message("user", &prompt));
    let answer = chat.ask(&messages).await?;
    chat.show(&answer).await;
    answer.outcome()
}

/// The model of which the cheapest offer may be bought.
async fn cheapest(gateway: &Gateway) -> Result<String, Failure> {
    let models: ModelsView = gateway.view("/derouter/models", &[]).await?;
    let price = |prices: &derouter_openai::consumer::view::PricesView| {
        offers::wei(&prices.input).saturating_add(offers::wei(&prices.output))
    };
    let buyable = models.models.into_iter().filter(|model| model.buyable > 0);
    let cheapest = buyable.min_by_key(|model| price(&model.cheapest));
    match cheapest {
        Some(model) => Ok(model.model),
        None => Err(Failure::of(
            Kind::NoOffer,
            "no model that may be bought is on offer. `derouter models` shows what there is, \
             `derouter netcheck` whether there are peers",
        )),
    }
}

fn read_prompt() -> Result<String, Failure> {
    let mut prompt = String::new();
    let stdin = std::io::stdin().lock();
    let read = stdin.take(PROMPT_BYTES).read_to_string(&mut prompt);
    read.map_err(|error| Failure::failed(format_args!("can't read the prompt: {error}")))?;
    if prompt.trim().is_empty() {
        return Err(Failure::usage(
            "there is no prompt: give it behind the model, or on the standard input",
        ));
    }
    Ok(prompt)
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

impl Chat {
    fn first_messages(&self) -> Vec<Value> {
        let system = self.args.system.as_deref();
        system
            .map(|text| message("system", text))
            .into_iter()
            .collect()
    }

    /// The request.
    fn body(&self, messages: &[Value]) -> Value {
        let mut body = json!({
            "model": self.model,
            "messages": messages,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        let mut set = |key: &str, value: Value| {
            if let Some(body) = body.as_object_mut() {
                body.insert(key.to_owned(), value);
            }
        };
        if let Some(most) = self.args.max_tokens {
            set("max_tokens", most.into());
        }
        if let Some(temperature) = self.args.temperature {
            set("temperature", temperature.into());
        }
        let preferences = self.preferences();
        if !preferences.is_empty() {
            set("derouter", Value::Object(preferences));
        }
        body
    }

    fn preferences(&self) -> Map<String, Value> {
        let mut preferences = Map::new();
        if !self.args.only.is_empty() {
            preferences.insert("only".to_owned(), json!(self.args.only));
        }
        if let Some(sort) = self.args.sort {
            preferences.insert("sort".to_owned(), sort.name().into());
        }
        if let Some(most) = self.args.max_price {
            let most = most.to_pol_text();
            let price = json!({"prompt": most, "completion": most});
            preferences.insert("max_price".to_owned(), price);
        }
        preferences
    }

    /// Asks, and writes the answer as it comes. What can be told of one that broke is told too.
    async fn ask(&self, messages: &[Value]) -> Result<Answer, Failure> {
        let body = self.body(messages);
        let request = self
            .gateway
            .request(reqwest::Method::POST, "/v1/chat/completions");
        // With --json the text is part of the one object at the end.
        let mut answer = Answer::begin(!self.output.is_json());
        let asking = answer.ask(&self.gateway, with_json(request, &body));
        let limit = self.args.timeout;
        let ended = tokio::select! {
            ended = asking => ended,
            () = wait(limit) => Err(Failure::time_is_up("the answer took too long")),
            _ = tokio::signal::ctrl_c() => {
                Err(Failure::of(Kind::Aborted, "the answer was cancelled"))
            }
        };
        match ended {
            Ok(()) => Ok(answer),
            Err(failure) if answer.has_begun() => Ok(answer.broken(failure)),
            Err(failure) => Err(failure),
        }
    }

    /// Tells what the answer was and cost.
    async fn show(&self, answer: &Answer) {
        let cost = self.cost(answer).await;
        let told = answer.told(&self.model, cost);
        if self.output.is_json() {
            output::document("derouter.chat/1", &told);
            return;
        }
        if answer.needs_line_end() {
            output::line("");
        }
        self.output.note(&answer.footer(cost));
    }

    /// What it cost: as the endpoint says, or by the offer's prices and what was used.
    async fn cost(&self, answer: &Answer) -> Option<Wei> {
        if answer.path() == Some("own") {
            return Some(Wei::ZERO);
        }
        let (provider, offer) = (answer.provider()?, answer.offer()?);
        let query = [("provider", provider.to_owned())];
        let seen: OffersView = self.gateway.view("/derouter/offers", &query).await.ok()?;
        let mut offers = seen.offers.into_iter();
        let offer = offers.find(|known| known.offer == offer)?;
        answer.cost(&offer.prices)
    }
}

async fn wait(limit: Option<std::time::Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
