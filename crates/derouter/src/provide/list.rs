//! What this node sells, and why nobody buys it.

use derouter_openai::consumer::view::{OfferView as Other, offers_of};
use derouter_openai::provider::view::{OfferView, ProviderView};
use derouter_sdk::wire::rpc::network::{Reachability, ReservationState};
use derouter_sdk::{NetworkReport, Node};
use serde_json::{Value, json};

use super::why::{Rank, Reason, rank, reasons};
use super::{Sold, views};
use crate::cli::provide::ListArgs;
use crate::failure::Failure;
use crate::market;
use crate::output::Output;
use crate::rpc_node::RpcNode;
use crate::table::Table;
use crate::text::{age, counted, cut, now, printable, short_amount};

/// An offer with what is made of it.
struct Line<'a> {
    offer: &'a OfferView,
    rank: Rank,
    why: Vec<Reason>,
}

pub(super) async fn list(args: ListArgs, output: Output) -> Result<(), Failure> {
    let node = RpcNode::find(&args.node).await?;
    let own = node.calls().peer_id().await;
    let own = own.map_err(|error| node.failure(error))?.to_string();
    let modules = market::modules(&node).await;
    let mut views = views(&modules);
    if let Ok(report) = node.calls().network().await {
        views.iter_mut().for_each(|view| look_again(view, &report));
    }
    let mut market = offers_of(market::snapshots(&node).await?);
    market.iter_mut().for_each(market::clean);
    let lost = lost(&args, &views);
    let told: Vec<Value> = views
        .iter()
        .map(|view| provider_json(view, &market, &own, args.offer.as_deref()))
        .collect();
    let told = json!({"providers": told, "not_served": lost});
    output.show("derouter.provide/1", &told, |output| {
        text(&views, &market, &own, args.offer.as_deref(), output.width())
    });
    for id in &lost {
        output.note(&format!(
            "{}: no running provider has it. Its backend is not in the configuration any more, or the \
             provider is a process of its own: `derouter provide remove {}` drops it",
            printable(id),
            printable(id)
        ));
    }
    if views.is_empty() && !output.is_json() {
        output.note(
            "no provider runs inside of this node. One in a process of its own tells its offers to the market \
             alone: `derouter offers list --provider PEER`",
        );
    }
    Ok(())
}

/// How the node is reached now: the provider asks now and then.
fn look_again(view: &mut ProviderView, report: &NetworkReport) {
    let mut relays = report.relays.iter();
    let relayed = relays.any(|relay| relay.state == ReservationState::Reserved);
    view.peers = Some(report.peers);
    view.reachability = match (report.reachability, relayed) {
        (Reachability::Public, _) => "public",
        (_, true) => "relayed",
        (Reachability::Private, false) => "private",
        (Reachability::Unknown, false) => "unknown",
    }
    .to_owned();
}

/// Added offers that no provider serves.
fn lost(args: &ListArgs, views: &[ProviderView]) -> Vec<String> {
    let Ok(sold) = Sold::read(&args.node) else {
        return Vec::new();
    };
    let served = |id: &str| {
        let mut offers = views.iter().flat_map(|view| &view.offers);
        offers.any(|offer| offer.id == id)
    };
    let added = sold.entries.iter();
    added
        .filter(|(id, entry)| entry.backend.is_some() && !served(id))
        .map(|(id, _)| id.clone())
        .collect()
}

fn lines<'a>(
    view: &'a ProviderView,
    market: &[Other],
    own: &str,
    named: Option<&str>,
) -> Vec<Line<'a>> {
    let wanted = |offer: &&OfferView| named.is_none_or(|id| offer.id == id);
    let offers = view.offers.iter().filter(wanted);
    offers
        .map(|offer| Line {
            offer,
            rank: rank(offer, market, own),
            why: reasons(offer, view, market, own),
        })
        .collect()
}

fn provider_json(view: &ProviderView, market: &[Other], own: &str, named: Option<&str>) -> Value {
    let mut told = serde_json::to_value(view).unwrap_or_default();
    let offers: Vec<Value> = lines(view, market, own, named)
        .iter()
        .map(|line| {
            let mut offer = serde_json::to_value(line.offer).unwrap_or_default();
            if let Some(offer) = offer.as_object_mut() {
                offer.insert("price_rank".into(), json!(line.rank));
                offer.insert("why_nobody_buys".into(), json!(line.why));
            }
            offer
        })
        .collect();
    if let Some(told) = told.as_object_mut() {
        told.insert("offers".into(), offers.into());
    }
    told
}

fn text(
    views: &[ProviderView],
    market: &[Other],
    own: &str,
    named: Option<&str>,
    width: usize,
) -> String {
    let mut parts = Vec::new();
    for view in views {
        let lines = lines(view, market, own, named);
        parts.push(head(view));
        if lines.is_empty() {
            parts.push("no such offer".to_owned());
            continue;
        }
        parts.push(table(&lines, width));
        for line in &lines {
            if named.is_some() {
                parts.push(detail(line.offer));
            }
            for reason in &line.why {
                parts.push(crate::text::wrapped(
                    &format!("{}: {}", line.offer.id, reason.text),
                    "  ",
                ));
            }
        }
    }
    match parts.is_empty() {
        true => "nothing is sold here".to_owned(),
        false => parts.join("\n"),
    }
}

fn head(view: &ProviderView) -> String {
    let mut lines = Vec::new();
    for backend in &view.backends {
        let error = backend.error.as_deref().map(printable);
        let error = error.map_or_else(String::new, |error| format!(": {error}"));
        lines.push(format!(
            "backend {} is {}{error}",
            backend.base_url, backend.state
        ));
    }
    let peers = view
        .peers
        .map_or_else(|| "? peers".into(), |peers| counted(peers, "peer"));
    lines.push(format!("reached: {}, {peers}", view.reachability));
    lines.push(format!(
        "earned: {} POL today, {} since the start {} ago",
        short_amount(&view.income_today),
        short_amount(&view.income),
        age(view.started, now()),
    ));
    if let Some(problem) = &view.problem {
        lines.push(format!("! {}", printable(problem)));
    }
    lines.join("\n")
}

fn table(lines: &[Line<'_>], width: usize) -> String {
    let mut table = Table::new(&[
        "OFFER", "STATE", ">IN", ">OUT", ">RANK", ">USED", ">QUEUE", ">REQ/H", ">REFUSED",
        ">EARNED", "MODEL",
    ]);
    for Line { offer, rank, .. } in lines {
        let hour = &offer.last_hour;
        let mark = if offer.edited { "*" } else { "" };
        let state = offer.reason.as_deref().unwrap_or(&offer.state);
        table.row(vec![
            format!("{}{mark}", cut(&offer.id, 18)),
            state.to_owned(),
            short_amount(&offer.price.input),
            short_amount(&offer.price.output),
            format!("{}/{}", rank.place, rank.of),
            format!("{}/{}", offer.in_use, offer.slots),
            format!("{}/{}", offer.queued, offer.queue),
            hour.requests.to_string(),
            hour.requests.saturating_sub(hour.taken).to_string(),
            short_amount(&offer.income_today),
            offer.model.clone(),
        ]);
    }
    table.text(width)
}

fn detail(offer: &OfferView) -> String {
    let mut lines = vec![
        format!("  from the {}, at {}", offer.origin, offer.backend),
        format!(
            "  own price {} / {} POL, now {} / {}",
            offer.own_price.input, offer.own_price.output, offer.price.input, offer.price.output
        ),
    ];
    for window in &offer.schedule {
        let now = if window.now { " (now)" } else { "" };
        let hours = match window.from == window.to {
            true => "all day".to_owned(),
            false => format!("{} to {} UTC", window.from, window.to),
        };
        lines.push(format!(
            "  {} {hours}: {} / {} POL{now}",
            window.days.join(","),
            window.price.input,
            window.price.output
        ));
    }
    if let Some(trial) = &offer.trial {
        lines.push(format!("  trial: {trial} POL for nothing"));
    }
    let total = &offer.total;
    lines.push(format!(
        "  since the start: {} requests, {} taken, {} completed, {} failed, {} refused for want of room",
        total.requests,
        total.taken,
        total.completed,
        total.failed,
        total.full.saturating_add(total.waited)
    ));
    for reason in &offer.invalid_reasons {
        lines.push(format!(
            "  {} times: {}",
            reason.times,
            printable(&reason.reason)
        ));
    }
    lines.join("\n")
}
