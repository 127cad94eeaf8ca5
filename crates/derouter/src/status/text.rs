//! The status as people read it: one screen of 80 columns. Pure.

use derouter_openai::provider::view::ProviderView;
use derouter_sdk::wire::rpc::network::{Reachability, ReservationState};

use super::{GatewayPart, Status};
use crate::output::Output;
use crate::text::{age, bytes, counted, cut, printable, wrapped};

/// Lines of one kind at most: all of it is one screen.
const MOST_OFFERS: usize = 5;
const MOST_REQUESTS: usize = 4;
const MOST_WARNINGS: usize = 6;

pub(super) fn text(status: &Status, output: Output) -> String {
    let width = output.width();
    let mut lines = vec![
        format!(
            "{} {} {}",
            status.node.agent.as_deref().unwrap_or("derouter"),
            status.node.peer_id,
            match status.node.state {
                "serving" => "",
                state => state,
            }
        )
        .trim_end()
        .to_owned(),
    ];
    network(status, &mut lines);
    for gateway in &status.gateways {
        bought(gateway, &mut lines);
    }
    for provider in &status.providers {
        sold(provider, status, &mut lines);
    }
    modules(status, &mut lines);
    let mut lines: Vec<String> = lines.iter().map(|line| cut(line, width)).collect();
    warnings(status, output, &mut lines);
    lines.join("\n")
}

fn network(status: &Status, lines: &mut Vec<String>) {
    let Some(report) = &status.network else {
        return lines.push("Network   not told by this node".to_owned());
    };
    let relays = report.relays.iter();
    let relays = relays.filter(|relay| relay.state == ReservationState::Reserved);
    let relays = u32::try_from(relays.count()).unwrap_or(u32::MAX);
    let reached = match report.reachability {
        Reachability::Public => "dialled by others".to_owned(),
        _ if relays > 0 => format!("reached through {}", counted(relays, "relay")),
        Reachability::Private => "not dialled by others".to_owned(),
        Reachability::Unknown => "not known yet whether others can dial it".to_owned(),
    };
    lines.push(format!(
        "Network   {}, {}, {}",
        counted(report.peers, "peer"),
        counted(report.announcements, "provider"),
        reached,
    ));
    lines.push(format!(
        "  moved   {} in, {} out",
        bytes(report.bytes_in),
        bytes(report.bytes_out)
    ));
}

fn bought(gateway: &GatewayPart, lines: &mut Vec<String>) {
    let spending = &gateway.spending;
    lines.push(format!("Buying    {}/v1", gateway.base_url));
    let day = spending.limits.iter().find(|it| it.name == "limits.daily");
    let left = day.map_or_else(String::new, |limit| {
        format!(", {} left of {}", limit.left, limit.limit)
    });
    let reserved = match spending.reserved.as_str() {
        "0" => String::new(),
        reserved => format!(", {reserved} set aside"),
    };
    lines.push(format!(
        "  spent   {} POL today{left}{reserved}; {} in all",
        spending.today, spending.total
    ));
    if let Some(counts) = spending.counts {
        lines.push(format!(
            "  asked   {}, {} paid, {} attempts failed, {} now",
            counted(
                u32::try_from(counts.requests).unwrap_or(u32::MAX),
                "request"
            ),
            counts.signed,
            counts.failed_attempts,
            gateway.active.requests.len()
        ));
    }
    for request in gateway.active.requests.iter().take(MOST_REQUESTS) {
        lines.push(format!(
            "    {:>5.0} s  {}  {}  {}",
            request.seconds,
            cut(&printable(&request.model), 30),
            crate::offers::end_of(&request.provider),
            request.path
        ));
    }
}

fn jobs(count: u64) -> String {
    let number = u32::try_from(count).unwrap_or(u32::MAX);
    crate::text::counted(number, "job")
}

fn sold(provider: &ProviderView, status: &Status, lines: &mut Vec<String>) {
    lines.push(format!(
        "Selling   {} POL earned today, {} since {} ago; {} done",
        provider.income_today,
        provider.income,
        age(provider.started, status.at),
        jobs(provider.counts.completed)
    ));
    for offer in provider.offers.iter().take(MOST_OFFERS) {
        let state = offer.reason.as_deref().unwrap_or(&offer.state);
        lines.push(format!(
            "  {:<16}  {:<13}  {:>2}/{} busy, {} waiting, {}/h  {} / {} POL",
            cut(&printable(&offer.id), 16),
            state,
            offer.in_use,
            offer.slots,
            offer.queued,
            offer.last_hour.requests,
            offer.price.input,
            offer.price.output
        ));
    }
    if provider.offers.len() > MOST_OFFERS {
        let more = provider.offers.len() - MOST_OFFERS;
        lines.push(format!("  and {more} more: `derouter provide list`"));
    }
}

fn modules(status: &Status, lines: &mut Vec<String>) {
    let names: Vec<String> = status
        .modules
        .iter()
        .map(|module| match module.place {
            "connection" => format!("{} (a process of its own)", module.name),
            _ => module.name.clone(),
        })
        .collect();
    let names = match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    };
    lines.push(format!("Modules   {names}"));
}

fn warnings(status: &Status, output: Output, lines: &mut Vec<String>) {
    if status.warnings.is_empty() {
        return lines.push("All well.".to_owned());
    }
    let yellow = anstyle::AnsiColor::Yellow.on_default();
    for warning in status.warnings.iter().take(MOST_WARNINGS) {
        let text = wrapped(
            &format!("{}. {}", warning.text.trim_end_matches('.'), warning.remedy),
            "  ",
        );
        let mut wrapped = text.lines();
        let first = wrapped.next().unwrap_or_default();
        lines.push(format!(
            "{}{}",
            output.paint(yellow, "! "),
            first.trim_start()
        ));
        lines.extend(wrapped.map(str::to_owned));
    }
    if status.warnings.len() > MOST_WARNINGS {
        let more = status.warnings.len() - MOST_WARNINGS;
        lines.push(format!("! and {more} more: --json tells all"));
    }
}
