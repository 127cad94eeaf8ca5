//! `derouter offers` and `derouter models`: what is on the market.

mod text;

use std::collections::HashMap;

use derouter_openai::consumer::view::{ModelView, ModelsView, OfferView, models_of, offers_of};
use derouter_sdk::{Node, OfferEvent, OfferSnapshot, Wei};
use serde_json::json;

use crate::cli::offers::{
    FilterArgs, ListArgs, ModelsArgs, OfferSort, OffersCommand, ShowArgs, WatchArgs,
};
use crate::failure::{Failure, Kind};
use crate::market::{self, matches};
use crate::output::{self, Output};
use crate::text::{day_and_time, now, printable};

/// Does it.
pub(crate) async fn offers(command: OffersCommand, output: Output) -> Result<(), Failure> {
    match command {
        OffersCommand::List(args) => list(args, output).await,
        OffersCommand::Show(args) => show(args, output).await,
        OffersCommand::Watch(args) => watch(args, output).await,
    }
}

async fn list(args: ListArgs, output: Output) -> Result<(), Failure> {
    let market = market::read(&args.market, output).await?;
    let mut offers = market.offers;
    offers.retain(|offer| fits(offer, &args.filter));
    sort(&mut offers, args.sort);
    let total = offers.len();
    offers.truncate(args.limit);
    let told = json!({
        "gateway": market.gateway,
        "total": total,
        "offers": offers,
    });
    output.show("derouter.offers/1", &told, |output| {
        let width = if args.full {
            usize::MAX
        } else {
            output.width()
        };
        text::list(&offers, total, width, args.full)
    });
    if !output.is_json() && market.gateway.is_none() {
        output.note(
            "no OpenAI endpoint answers: what was measured, and what may be bought, is not known",
        );
    }
    Ok(())
}

/// Whether an offer is asked for.
fn fits(offer: &OfferView, filter: &FilterArgs) -> bool {
    let named = |pattern: &String| offer.models.iter().any(|name| matches(pattern, name));
    let dear = |most: Wei| {
        let over = |price: &str| wei(price) > most;
        over(&offer.prices.input) || over(&offer.prices.output)
    };
    let can = |feature: &String| {
        let has = offer.features.iter().flatten();
        has.clone().any(|own| own.eq_ignore_ascii_case(feature))
    };
    let end = filter.provider.as_ref();
    filter.model.as_ref().is_none_or(named)
        && end.is_none_or(|end| offer.provider.ends_with(end.as_str()))
        && !filter.max_price.is_some_and(dear)
        && filter.features.iter().all(can)
        && filter
            .min_context
            .is_none_or(|least| offer.context >= least)
        && (offer.buyable || !filter.buyable)
}

/// An amount that the gateway or a provider wrote.
pub(crate) fn wei(text: &str) -> Wei {
    Wei::from_pol_text(text).unwrap_or(Wei::MAX)
}

/// What a million tokens of prompt and answer cost together.
pub(crate) fn price(offer: &OfferView) -> Wei {
    wei(&offer.prices.input).saturating_add(wei(&offer.prices.output))
}

fn sort(offers: &mut [OfferView], by: OfferSort) {
    let latency = |offer: &OfferView| {
        let seen = offer.observed.as_ref()?.first_token_seconds?;
        Some(seen.p50)
    };
    let speed = |offer: &OfferView| Some(offer.observed.as_ref()?.tokens_per_second?.p50);
    let name = |offer: &OfferView| offer.models.first().cloned().unwrap_or_default();
    // Those that are alike in what is asked for come by their price.
    offers.sort_by_cached_key(|offer| (price(offer), offer.provider.clone(), offer.offer.clone()));
    match by {
        OfferSort::Price => {}
        OfferSort::Model => offers.sort_by_cached_key(name),
        OfferSort::Context => offers.sort_by_key(|offer| std::cmp::Reverse(offer.context)),
        OfferSort::Latency => offers.sort_by(|one, other| {
            let rank = |offer| latency(offer).unwrap_or(f64::INFINITY);
            rank(one).total_cmp(&rank(other))
        }),
        OfferSort::Throughput => offers.sort_by(|one, other| {
            let rank = |offer| speed(offer).unwrap_or(0.0);
            rank(other).total_cmp(&rank(one))
        }),
    }
}

async fn show(args: ShowArgs, output: Output) -> Result<(), Failure> {
    let market = market::read(&args.market, output).await?;
    let (provider, name) = match args.offer.rsplit_once('/') {
        // A model may have a slash in its name, and no peer id is so short.
        Some((peer, id)) if is_end_of_peer(peer) => (Some(peer), id),
        _ => (None, args.offer.as_str()),
    };
    let is_meant = |offer: &&OfferView| {
        let named = offer.offer == name || offer.models.iter().any(|model| model == name);
        named && provider.is_none_or(|end| offer.provider.ends_with(end))
    };
    let found: Vec<&OfferView> = market.offers.iter().filter(is_meant).collect();
    match found.as_slice() {
        [] => Err(Failure::of(
            Kind::NoOffer,
            format_args!(
                "there is no offer {} on the market. `derouter offers list` shows them",
                printable(&args.offer)
            ),
        )),
        [offer] => {
            let told = json!({"gateway": market.gateway, "offer": offer});
            output.show("derouter.offer/1", &told, |output| {
                text::detail(offer, now(), output.width())
            });
            Ok(())
        }
        several => Err(Failure::usage(format_args!(
            "there are {} offers of that name. Say which, as one of: {}",
            several.len(),
            several
                .iter()
                .take(10)
                .map(|offer| format!("{}/{}", end_of(&offer.provider), offer.offer))
                .collect::<Vec<_>>()
                .join(", ")
        ))),
    }
}

fn is_end_of_peer(text: &str) -> bool {
    text.len() >= 4 && text.chars().all(|c| c.is_ascii_alphanumeric())
}

/// The end of a peer id, which tells peers apart.
pub(crate) fn end_of(peer: &str) -> &str {
    peer.get(peer.len().saturating_sub(8)..).unwrap_or(peer)
}

async fn watch(args: WatchArgs, output: Output) -> Result<(), Failure> {
    let (node, _) = market::node(&args.market).await?;
    let watch = node.calls().watch_offers(market::filter()).await;
    let mut watch = watch.map_err(|error| node.failure(error))?;
    let mut known: HashMap<String, String> = HashMap::new();
    loop {
        let event = tokio::select! {
            event = watch.next() => event,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        match event {
            None => return Err(Failure::failed("the node has stopped")),
            Some(OfferEvent::Reset(snapshots)) => {
                known.clear();
                for snapshot in snapshots {
                    tell("there", &snapshot, &mut known, &args, output);
                }
            }
            Some(OfferEvent::Updated(snapshot)) => {
                let is_known = known.contains_key(&key(&snapshot));
                let what = if is_known { "changed" } else { "added" };
                tell(what, &snapshot, &mut known, &args, output);
            }
            Some(OfferEvent::Removed(gone)) => {
                let key = format!(
                    "{} {} {}",
                    gone.provider_peer_id, gone.protocol_id, gone.offer_id
                );
                if let Some(model) = known.remove(&key) {
                    let provider = gone.provider_peer_id.to_string();
                    removed(
                        &provider,
                        &printable(gone.offer_id.as_str()),
                        &model,
                        output,
                    );
                }
            }
        }
    }
}

fn key(snapshot: &OfferSnapshot) -> String {
    format!(
        "{} {} {}",
        snapshot.provider_peer_id, snapshot.protocol_id, snapshot.offer_id
    )
}

fn tell(
    what: &str,
    snapshot: &OfferSnapshot,
    known: &mut HashMap<String, String>,
    args: &WatchArgs,
    output: Output,
) {
    let key = key(snapshot);
    let Some(mut offer) = offers_of(vec![snapshot.clone()]).pop() else {
        return;
    };
    market::clean(&mut offer);
    if !fits(&offer, &args.filter) {
        return;
    }
    let model = offer.models.first().cloned().unwrap_or_default();
    known.insert(key, model);
    let told = json!({"at": now(), "event": what, "offer": offer});
    output.show("derouter.offer.event/1", &told, |output| {
        crate::text::cut(&text::event(what, &offer), output.width())
    });
}

fn removed(provider: &str, offer: &str, model: &str, output: Output) {
    let gone = json!({"provider": provider, "offer": offer, "models": [model]});
    let told = json!({"at": now(), "event": "removed", "offer": gone});
    output.show("derouter.offer.event/1", &told, |_| {
        let at = day_and_time(now().0);
        format!("{at}  removed  {}/{offer}  {model}", end_of(provider))
    });
}

/// `derouter models`.
pub(crate) async fn models(args: ModelsArgs, output: Output) -> Result<(), Failure> {
    let market = market::read(&args.market, output).await?;
    let ModelsView { mut models, .. } = models_of(&market.offers);
    let wanted = |model: &ModelView| {
        let named = args.model.as_ref();
        let named = named.is_none_or(|pattern| matches(pattern, &model.model));
        named && (model.buyable > 0 || !args.buyable)
    };
    models.retain(wanted);
    let told = json!({"gateway": market.gateway, "models": models});
    output.show("derouter.models/1", &told, |output| {
        text::models(&models, output.width())
    });
    if models.is_empty() && !output.is_json() {
        output::error_line(
            "no such model is on offer. `derouter netcheck` says whether there are peers",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use derouter_openai::consumer::view::{ObservedView, PricesView, SpreadView};

    use super::*;

    fn offer(id: &str, price: &str, first_token: Option<f64>) -> OfferView {
        let spread = first_token.map(|p50| SpreadView {
            p50,
            p90: p50,
            samples: 1,
        });
        OfferView {
            offer: id.into(),
            models: vec!["llama3.2".into(), "alias".into()],
            prices: PricesView {
                input: price.into(),
                output: "1".into(),
                ..PricesView::default()
            },
            features: Some(vec!["tools".into()]),
            context: 100,
            observed: Some(ObservedView {
                first_token_seconds: spread,
                ..ObservedView::default()
            }),
            ..OfferView::default()
        }
    }

    fn ids(offers: &[OfferView]) -> Vec<&str> {
        offers.iter().map(|offer| offer.offer.as_str()).collect()
    }

    #[test]
    fn offers_are_sorted_by_what_is_asked_for_and_then_by_price() {
        let mut offers = [
            offer("dear", "10", Some(0.1)),
            offer("cheap", "2", None),
            offer("middle", "9", Some(0.5)),
        ];
        sort(&mut offers, OfferSort::Price);
        assert_eq!(ids(&offers), ["cheap", "middle", "dear"]);
        sort(&mut offers, OfferSort::Latency);
        assert_eq!(ids(&offers), ["dear", "middle", "cheap"]);
        sort(&mut offers, OfferSort::Model);
        assert_eq!(ids(&offers), ["cheap", "middle", "dear"]);
    }

    #[test]
    fn filters_leave_what_fits_them_all() {
        let offer = offer("o", "2", None);
        let fits = |filter: FilterArgs| fits(&offer, &filter);
        assert!(fits(FilterArgs::default()));
        assert!(fits(FilterArgs {
            model: Some("ali*".into()),
            max_price: Some(wei("2")),
            features: vec!["TOOLS".into()],
            min_context: Some(100),
            ..FilterArgs::default()
        }));
        for filter in [
            FilterArgs {
                model: Some("llama".into()),
                ..FilterArgs::default()
            },
            FilterArgs {
                max_price: Some(wei("1.5")),
                ..FilterArgs::default()
            },
            FilterArgs {
                features: vec!["tools".into(), "reasoning".into()],
                ..FilterArgs::default()
            },
            FilterArgs {
                min_context: Some(101),
                ..FilterArgs::default()
            },
            FilterArgs {
                buyable: true,
                ..FilterArgs::default()
            },
        ] {
            assert!(!fits(filter));
        }
    }
}
