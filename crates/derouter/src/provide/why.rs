//! Why nobody buys an offer, by what is known of it, of others' offers of its model, and of the node.
//! Pure.

use derouter_openai::consumer::view::OfferView as Other;
use derouter_openai::provider::view::{BackendView, OfferView, ProviderView};
use derouter_sdk::Wei;
use serde::Serialize;

use crate::offers::{price, wei};
use crate::text::printable;

/// How an offer stands among those of its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Rank {
    /// Its place by price, from 1; those that cost the same share one.
    pub(super) place: usize,
    /// How many offers of the model there are, this one among them.
    pub(super) of: usize,
}

/// A reason why nobody buys, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Reason {
    pub(super) code: &'static str,
    pub(super) text: String,
}

/// What a million tokens of both kinds cost now.
fn own_price(offer: &OfferView) -> Wei {
    wei(&offer.price.input).saturating_add(wei(&offer.price.output))
}

/// Offers of others of the same model.
fn others<'a>(offer: &OfferView, market: &'a [Other], own: &str) -> Vec<&'a Other> {
    let same = |other: &&Other| other.provider != own && other.models.contains(&offer.model);
    market.iter().filter(same).collect()
}

/// Where an offer stands by its price.
pub(super) fn rank(offer: &OfferView, market: &[Other], own: &str) -> Rank {
    let others = others(offer, market, own);
    let own_price = own_price(offer);
    let cheaper = others.iter().filter(|other| price(other) < own_price);
    Rank {
        place: cheaper.count() + 1,
        of: others.len() + 1,
    }
}

/// All reasons that are known, the gravest first.
pub(super) fn reasons(
    offer: &OfferView,
    provider: &ProviderView,
    market: &[Other],
    own: &str,
) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut add = |code, text: String| reasons.push(Reason { code, text });
    if offer.state == "paused" {
        add(
            "paused",
            format!(
                "it is paused: `derouter provide resume {}` puts it on the market",
                offer.id
            ),
        );
    }
    if let (Some(reason), Some(text)) = (&offer.reason, &offer.text) {
        let code = match reason.as_str() {
            "backend_down" => "backend_down",
            "model_missing" => "model_missing",
            "no_room" | "backend_full" => "full",
            _ => "withdrawn",
        };
        let backend = provider
            .backends
            .iter()
            .find(|it| it.base_url == offer.backend);
        add(code, format!("{text}{}", words(backend)));
    }
    if provider.peers == Some(0) {
        add(
            "no_peers",
            "the node has no peer, so nobody sees the offer: `derouter netcheck` says what to do"
                .to_owned(),
        );
    } else if provider.reachability == "private" {
        add(
            "unreachable",
            "others can't dial the node, and no relay passes them on: `derouter netcheck` says what to do"
                .to_owned(),
        );
    }
    demand(offer, &mut add);
    let (rank, others) = (rank(offer, market, own), others(offer, market, own));
    if rank.place > 1 {
        let cheapest = others.iter().min_by_key(|other| price(other));
        let cheapest = cheapest.map_or_else(String::new, |other| {
            format!(
                "; the cheapest asks {} / {} POL, this one {} / {}",
                other.prices.input, other.prices.output, offer.price.input, offer.price.output
            )
        });
        add(
            "dear",
            format!(
                "{} of {} offers of {} are cheaper{cheapest}",
                rank.place - 1,
                rank.of,
                printable(&offer.model)
            ),
        );
    }
    let larger = others
        .iter()
        .filter(|other| other.context > offer.context)
        .count();
    if larger > 0 && larger * 2 >= others.len() {
        add(
            "small_context",
            format!(
                "{larger} of {} others have a larger context window",
                others.len()
            ),
        );
    }
    if reasons.is_empty() && offer.last_hour.requests == 0 {
        reasons.push(Reason {
            code: "no_demand",
            text: "nothing is wrong with it: nobody asked in the last hour".to_owned(),
        });
    }
    reasons
}

fn words(backend: Option<&BackendView>) -> String {
    let error = backend.and_then(|backend| backend.error.as_deref());
    error.map_or_else(String::new, |error| format!(" ({})", printable(error)))
}

/// What was asked for and could not be had.
fn demand(offer: &OfferView, add: &mut impl FnMut(&'static str, String)) {
    let hour = &offer.last_hour;
    let busy = hour.full.saturating_add(hour.waited);
    if busy > 0 {
        add(
            "full",
            format!(
                "{busy} requests of the last hour found no free place: raise --max-concurrency (now {}) or \
                 --max-queue (now {}), if the backend can",
                offer.slots, offer.queue
            ),
        );
    }
    if hour.invalid > 0 {
        let latest = offer.invalid_reasons.last();
        let latest = latest.map_or_else(String::new, |latest| {
            format!(", the latest: {}", printable(&latest.reason))
        });
        add(
            "invalid",
            format!(
                "{} requests of the last hour could not be served{latest}",
                hour.invalid
            ),
        );
    }
    if hour.blocked.saturating_add(hour.too_fast) > 0 {
        add(
            "refused",
            format!(
                "{} requests came from consumers that are blocked, {} from such as ask too often",
                hour.blocked, hour.too_fast
            ),
        );
    }
    if hour.failed > 0 {
        add(
            "failing",
            format!(
                "{} jobs of the last hour failed at the backend: `derouter provide test {}` may show why",
                hour.failed, offer.id
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use derouter_openai::consumer::view::PricesView;
    use derouter_openai::provider::view::{DemandView, PriceView};

    use super::*;

    fn mine(input: &str) -> OfferView {
        OfferView {
            id: "o".into(),
            state: "announced".into(),
            model: "m".into(),
            context: 10,
            price: PriceView {
                input: input.into(),
                output: "1".into(),
            },
            ..OfferView::default()
        }
    }

    fn other(provider: &str, input: &str, context: u64) -> Other {
        Other {
            provider: provider.into(),
            models: vec!["m".into()],
            context,
            prices: PricesView {
                input: input.into(),
                output: "1".into(),
                ..PricesView::default()
            },
            ..Other::default()
        }
    }

    fn codes(offer: &OfferView, provider: &ProviderView, market: &[Other]) -> Vec<&'static str> {
        let reasons = reasons(offer, provider, market, "own");
        reasons.into_iter().map(|reason| reason.code).collect()
    }

    #[test]
    fn the_price_is_ranked_among_the_offers_of_others() {
        let market = [
            other("a", "1", 10),
            other("b", "2", 10),
            other("c", "3", 10),
            other("own", "0", 10),
        ];
        let rank = |input| rank(&mine(input), &market, "own");
        assert_eq!(rank("0.5"), Rank { place: 1, of: 4 });
        assert_eq!(rank("2"), Rank { place: 2, of: 4 });
        assert_eq!(rank("9"), Rank { place: 4, of: 4 });
        let provider = ProviderView::default();
        assert_eq!(codes(&mine("9"), &provider, &market), ["dear"]);
        assert_eq!(codes(&mine("1"), &provider, &market), ["no_demand"]);
        assert_eq!(
            codes(&mine("1"), &provider, &[other("a", "2", 99)]),
            ["small_context"]
        );
    }

    #[test]
    fn what_keeps_buyers_away_is_told_with_what_to_do() {
        let provider = ProviderView {
            peers: Some(3),
            reachability: "private".into(),
            ..ProviderView::default()
        };
        let mut offer = mine("1");
        offer.state = "paused".into();
        offer.last_hour = DemandView {
            requests: 5,
            full: 2,
            invalid: 1,
            failed: 1,
            ..DemandView::default()
        };
        assert_eq!(
            codes(&offer, &provider, &[]),
            ["paused", "unreachable", "full", "invalid", "failing"]
        );
        let alone = ProviderView {
            peers: Some(0),
            ..provider
        };
        assert_eq!(codes(&mine("1"), &alone, &[]), ["no_peers"]);
    }
}
