//! Changes of offers, which a running provider follows within a second or two.

use std::time::Duration;

use derouter_openai::provider::view::{OfferView, ProviderView};
use derouter_openai::provider::{OfferEdit, OfferEntry};
use serde_json::json;

use super::{Sold, failed, same_url, views};
use crate::cli::network::NodeArgs;
use crate::cli::provide::{AddArgs, EditArgs, OfferArgs, TermsArgs};
use crate::failure::Failure;
use crate::market::modules;
use crate::output::Output;
use crate::rpc_node::RpcNode;
use crate::text::{now, printable};

/// How long to wait until a running provider has followed.
const FOLLOW_WAIT: Duration = Duration::from_secs(5);
const FOLLOW_LOOK: Duration = Duration::from_millis(150);

/// The node, when it runs, and how its offers were before a change.
struct Running {
    node: RpcNode,
    before: Vec<ProviderView>,
}

impl Running {
    async fn find(args: &NodeArgs) -> Option<Self> {
        let node = RpcNode::find(args).await.ok()?;
        let before = views(&modules(&node).await);
        (!before.is_empty()).then_some(Self { node, before })
    }

    fn known(&self, id: &str) -> bool {
        offer(&self.before, id).is_some()
    }

    /// Waits until an offer is another than it was. `None`: it is gone.
    async fn followed(&self, id: &str) -> (bool, Option<OfferView>) {
        let before = offer(&self.before, id).map(shape);
        let deadline = tokio::time::Instant::now() + FOLLOW_WAIT;
        loop {
            let views = views(&modules(&self.node).await);
            let after = offer(&views, id);
            if after.map(shape) != before {
                return (true, after.cloned());
            }
            if tokio::time::Instant::now() >= deadline {
                return (false, after.cloned());
            }
            tokio::time::sleep(FOLLOW_LOOK).await;
        }
    }
}

fn offer<'a>(views: &'a [ProviderView], id: &str) -> Option<&'a OfferView> {
    let mut offers = views.iter().flat_map(|view| &view.offers);
    offers.find(|offer| offer.id == id)
}

/// What of an offer a change may show in.
fn shape(offer: &OfferView) -> serde_json::Value {
    json!([
        offer.state == "paused",
        offer.problem,
        offer.edited,
        offer.backend,
        offer.model,
        offer.backend_model,
        offer.aliases,
        offer.context,
        offer.own_price,
        offer.schedule.iter().map(|it| &it.text).collect::<Vec<_>>(),
        offer.max_output,
        offer.request_price,
        offer.region,
        offer.trial,
        offer.slots,
        offer.slots_per_consumer,
        offer.queue,
        offer.description,
        offer.features,
        offer.quantization,
    ])
}

fn edit_of(terms: TermsArgs) -> OfferEdit {
    OfferEdit {
        backend_model: terms.backend_model,
        aliases: terms.aliases.map(without_empty),
        max_output: terms.max_output,
        schedule: terms
            .schedule
            .map(|windows| windows.into_iter().filter_map(|window| window.0).collect()),
        request_price: terms.request_price,
        trial: terms.trial,
        description: terms.description,
        max_concurrency: terms.max_concurrency,
        max_concurrency_per_consumer: terms.max_concurrency_per_consumer,
        max_queue: terms.max_queue,
        features: terms.features.map(without_empty),
        quantization: terms.quantization,
        region: terms.region,
        ..OfferEdit::default()
    }
}

/// `--feature ""` names none.
fn without_empty(mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| !name.is_empty());
    names
}

pub(super) async fn add(args: AddArgs, output: Output) -> Result<(), Failure> {
    let sold = Sold::read(&args.node)?;
    let running = Running::find(&args.node).await;
    let id = &args.offer;
    let is_known = running.as_ref().is_some_and(|running| running.known(id));
    let is_gone = sold.entries.get(id).is_some_and(OfferEntry::is_gone);
    if (sold.has(id) || is_known) && !is_gone {
        return Err(Failure::usage(format_args!(
            "there is an offer {id:?} already: change it with `derouter provide edit`, or choose another id"
        )));
    }
    let backend = backend(&sold, args.backend.as_deref())?;
    let edit = OfferEdit {
        model_id: Some(args.model),
        context_size: Some(args.context),
        input_token_price: Some(args.in_price),
        output_token_price: Some(args.out_price),
        ..edit_of(args.terms)
    };
    sold.store.add(id, &backend, edit, now()).map_err(failed)?;
    tell("added", id, &sold, running, output).await
}

/// The base URL of the backend that an added offer is served by.
fn backend(sold: &Sold, named: Option<&str>) -> Result<String, Failure> {
    let known: Vec<&str> = sold.backends().map(|it| it.base_url.as_str()).collect();
    let list = || {
        known
            .iter()
            .map(|url| shown(url))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (known.as_slice(), named) {
        ([], _) => Err(Failure::environment(
            "the configuration has no `openai.provider`: add one with `openai_base_url`, and an offer or \
             `discover`",
        )),
        ([only], None) => Ok(shown(only)),
        (several, None) => Err(Failure::usage(format_args!(
            "there are {} backends. Say which with `--backend`: {}",
            several.len(),
            list()
        ))),
        (known, Some(named)) => match known.iter().find(|url| same_url(url, named)) {
            Some(url) => Ok(shown(url)),
            None => Err(Failure::usage(format_args!(
                "the configuration has no backend {}. It has: {}",
                printable(named),
                list()
            ))),
        },
    }
}

/// A base URL without what is secret in it.
fn shown(url: &str) -> String {
    let Ok(mut parsed) = reqwest::Url::parse(url) else {
        return url.to_owned();
    };
    let _ = parsed.set_password(None);
    let _ = parsed.set_username("");
    parsed.set_query(None);
    parsed.as_str().trim_end_matches('/').to_owned()
}

pub(super) async fn edit(args: EditArgs, output: Output) -> Result<(), Failure> {
    let edit = OfferEdit {
        model_id: args.model,
        context_size: args.context,
        input_token_price: args.in_price,
        output_token_price: args.out_price,
        ..edit_of(args.terms)
    };
    if edit.is_empty() && args.backend.is_none() {
        return Err(Failure::usage(
            "there is nothing to change: `derouter provide edit --help` shows what can be",
        ));
    }
    let named = args.backend;
    let args = OfferArgs {
        offer: args.offer,
        node: args.node,
    };
    change(args, "changed", output, |sold, id| {
        let backend = match &named {
            Some(named) => Some(backend(sold, Some(named))?),
            None => None,
        };
        let edited = sold.store.edit(id, edit, backend.as_deref(), now());
        edited.map_err(failed)
    })
    .await
}

pub(super) async fn remove(args: OfferArgs, output: Output) -> Result<(), Failure> {
    change(args, "removed", output, |sold, id| {
        sold.store.remove(id, now()).map_err(failed)
    })
    .await
}

pub(super) async fn restore(args: OfferArgs, output: Output) -> Result<(), Failure> {
    change(args, "restored", output, |sold, id| {
        match sold.store.restore(id).map_err(failed)? {
            true => Ok(()),
            false => Err(Failure::usage(format_args!(
                "nothing was changed of {id:?}"
            ))),
        }
    })
    .await
}

pub(super) async fn pause(args: OfferArgs, output: Output) -> Result<(), Failure> {
    change(args, "paused", output, |sold, id| {
        sold.store.pause(id, now()).map_err(failed)
    })
    .await
}

pub(super) async fn resume(args: OfferArgs, output: Output) -> Result<(), Failure> {
    change(args, "resumed", output, |sold, id| {
        sold.store.resume(id, now()).map_err(failed)
    })
    .await
}

async fn change(
    args: OfferArgs,
    what: &str,
    output: Output,
    change: impl FnOnce(&Sold, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let sold = Sold::read(&args.node)?;
    let running = Running::find(&args.node).await;
    let id = args.offer.as_str();
    let is_known = running.as_ref().is_some_and(|running| running.known(id));
    if !sold.has(id) && !is_known {
        return Err(Failure::usage(format_args!(
            "there is no offer {:?} here. `derouter provide list` shows them",
            printable(id)
        )));
    }
    change(&sold, id)?;
    tell(what, id, &sold, running, output).await
}

/// Says what came of a change.
async fn tell(
    what: &str,
    id: &str,
    sold: &Sold,
    running: Option<Running>,
    output: Output,
) -> Result<(), Failure> {
    let entry = sold.store.list().map_err(failed)?.remove(id);
    let (followed, offer) = match &running {
        Some(running) => running.followed(id).await,
        None => (false, None),
    };
    let told = json!({
        "offer": id,
        "change": what,
        "entry": entry,
        "node_runs": running.is_some(),
        "followed": followed,
        "now": offer,
    });
    output.show("derouter.provide.change/1", &told, |_| {
        let how = match (&running, followed, &offer) {
            (None, ..) => "; it counts from the next start of the node".to_owned(),
            (Some(_), true, None) => "; it is off the market".to_owned(),
            (Some(_), true, Some(offer)) => match &offer.problem {
                Some(problem) => format!(", but does not hold: {problem}"),
                None if offer.state == what => String::new(),
                None => format!("; it is {}", offer.state),
            },
            (Some(_), false, _) => {
                "; it was so already, or the provider has not followed yet".to_owned()
            }
        };
        format!("{id} is {what}{how}")
    });
    Ok(())
}
