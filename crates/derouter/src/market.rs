//! The market as commands see it: by the gateway, which measured its providers, or else by the node.

use derouter_openai::consumer::view::{OfferView, OffersView, offers_of};
use derouter_openai::protocol;
use derouter_sdk::{ModuleReport, Node, OfferFilter, OfferQuery, OfferSnapshot};

use crate::cli::market::MarketArgs;
use crate::failure::{Failure, Kind};
use crate::gateway::Gateway;
use crate::output::Output;
use crate::rpc_node::RpcNode;
use crate::text::printable;

/// Offers of one page.
const PAGE: u32 = 100;

/// Offers of one answer of the gateway.
const GATEWAY_PAGE: usize = 5000;

/// Offers that are read in all: more than a gateway keeps.
const MOST: usize = 20_000;

/// The offers, and who told of them.
pub(crate) struct Market {
    pub(crate) offers: Vec<OfferView>,
    /// The gateway that was asked, when one was there.
    pub(crate) gateway: Option<String>,
}

/// The node, when one runs, and its modules.
pub(crate) async fn node(args: &MarketArgs) -> Result<(RpcNode, Vec<ModuleReport>), Failure> {
    let node = RpcNode::find(&args.node).await?;
    let modules = modules(&node).await;
    Ok((node, modules))
}

/// What its modules tell; nothing where the node is an earlier one.
pub(crate) async fn modules(node: &RpcNode) -> Vec<ModuleReport> {
    node.calls().modules(true).await.unwrap_or_default()
}

/// Reads the market: from the gateway where one answers, else from the node.
pub(crate) async fn read(args: &MarketArgs, output: Output) -> Result<Market, Failure> {
    let node = node(args).await;
    let modules = node.as_ref().map_or(&[][..], |(_, modules)| modules);
    let gateway = Gateway::find(args, modules)?;
    let base = gateway.as_ref().map(|gateway| gateway.base().to_owned());
    let measured = match asked(gateway.as_ref()).await {
        Ok(offers) => offers,
        // The market is no secret of the gateway.
        Err(failure) if failure.is(Kind::NotAuthorised) && node.is_ok() => {
            output.note(
                "the OpenAI endpoint wants a key (DEROUTER_API_KEY): nothing measured is shown",
            );
            None
        }
        Err(failure) => return Err(failure),
    };
    let (mut offers, gateway) = match (measured, node) {
        (Some(offers), _) => (offers, base),
        (None, Ok((node, _))) => (offers_of(snapshots(&node).await?), None),
        (None, Err(failure)) => return Err(failure),
    };
    offers.iter_mut().for_each(clean);
    Ok(Market { offers, gateway })
}

async fn asked(gateway: Option<&Gateway>) -> Result<Option<Vec<OfferView>>, Failure> {
    match gateway {
        Some(gateway) => of_gateway(gateway).await,
        None => Ok(None),
    }
}

/// All offers that a gateway knows; `None` when none is there, or it has not heard of any yet.
async fn of_gateway(gateway: &Gateway) -> Result<Option<Vec<OfferView>>, Failure> {
    let mut offers = Vec::new();
    while offers.len() < MOST {
        let query = [
            ("skip", offers.len().to_string()),
            ("limit", GATEWAY_PAGE.to_string()),
        ];
        let asked = gateway.view_if_there("/derouter/offers", &query).await;
        let page: Option<OffersView> = asked?;
        let Some(page) = page.filter(|page| page.known) else {
            return Ok(None);
        };
        if page.offers.is_empty() {
            break;
        }
        offers.extend(page.offers);
        if offers.len() >= page.total {
            break;
        }
    }
    Ok(Some(offers))
}

/// The offers of the protocol, page by page.
pub(crate) async fn snapshots(node: &RpcNode) -> Result<Vec<OfferSnapshot>, Failure> {
    let mut query = OfferQuery {
        after: None,
        filter: filter(),
        limit: PAGE,
    };
    let mut all = Vec::new();
    while all.len() < MOST {
        let page = node.calls().offers_page(&query).await;
        let page = page.map_err(|error| node.failure(error))?;
        let Some(last) = page.last() else { break };
        query.after = Some(last.key());
        all.extend(page);
    }
    Ok(all)
}

/// Offers of the OpenAI protocol.
pub(crate) fn filter() -> OfferFilter {
    OfferFilter {
        protocol_ids: Some(protocol::protocol_ids()),
        ..OfferFilter::default()
    }
}

/// Cleans every text of others in an offer.
pub(crate) fn clean(offer: &mut OfferView) {
    let texts = [&mut offer.offer, &mut offer.protocol].into_iter();
    let lists = [
        &mut offer.models,
        &mut offer.endpoints,
        &mut offer.input_modalities,
        &mut offer.output_modalities,
    ];
    let lists = lists.into_iter().flatten();
    let optional = [
        &mut offer.quantization,
        &mut offer.region,
        &mut offer.description,
        &mut offer.terms_url,
    ];
    let optional = optional.into_iter().flatten();
    let features = offer.features.iter_mut().flatten();
    for text in texts.chain(lists).chain(optional).chain(features) {
        *text = printable(text);
    }
}

/// Whether a name is one of a pattern, in which `*` stands for any characters.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_lowercase(), name.to_lowercase());
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else {
            return false;
        };
        rest = behind;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name, expected) in [
            ("llama3.2", "Llama3.2", true),
            ("llama", "llama3.2", false),
            ("llama*", "llama3.2", true),
            ("*70b*", "org/llama-70b-instruct", true),
            ("a*b*c", "a-b", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn texts_of_providers_are_cleaned() {
        let mut offer = OfferView {
            offer: "o\u{1b}[2J".into(),
            models: vec!["m\u{202e}".into()],
            features: Some(vec!["t\n".into()]),
            description: Some("d\u{9b}".into()),
            ..OfferView::default()
        };
        clean(&mut offer);
        assert_eq!(
            (offer.offer.as_str(), offer.models[0].as_str()),
            ("o[2J", "m")
        );
        assert_eq!(offer.features.unwrap(), ["t"]);
        assert_eq!(offer.description.unwrap(), "d");
    }
}
