//! How this node is reached, and its peers.

use axum::extract::{Extension, State};
use axum::response::Html;
use derouter_sdk::wire::rpc::network::{
    AddressSource, NatKind, NetworkReport, PortMappingState, Reachability, ReservationState,
};
use derouter_sdk::{PathKind, PeerReport};
use maud::{Markup, html};

use super::page_of;
use crate::board::Topic;
use crate::sessions::Session;
use crate::state::App;
use crate::ui::{Page, badge, figure, page};
use crate::{text, ui};

/// Peers that are listed.
const SHOWN: usize = 200;

/// `GET /network`.
pub(super) async fn show(
    State(app): State<App>,
    Extension(session): Extension<Session>,
) -> Html<String> {
    let seen = app.board.seen();
    let content = html! {
        div #live {
            @match &seen.report {
                None => p { "The network is being looked at." },
                Some(report) => {
                    (figures(report))
                    @if !report.advice.is_empty() {
                        ul.warnings aria-label="What to do" { @for advice in &report.advice { li { (text::plain(&advice.text, text::LONG)) } } }
                    }
                    (peers(&app, &seen.peers))
                    div.grid { (nat(report)) (addresses(report)) }
                    div.grid { (relays(&app, report)) (bootstrap(report)) }
                }
            }
        }
    };
    page_of(&page(
        &app,
        &session,
        Page::Network,
        Some(Topic::Network),
        &content,
    ))
}

fn figures(report: &NetworkReport) -> Markup {
    let reached = match report.reachability {
        Reachability::Unknown => "Unknown",
        Reachability::Public => "Public",
        Reachability::Private => "Private",
    };
    html! {
        dl.figures {
            (figure("Reachability", reached, ""))
            (figure("Peers", &report.peers.to_string(), &format!("{} connections", report.connections)))
            (figure("Received", &text::bytes(report.bytes_in), "since the start"))
            (figure("Sent", &text::bytes(report.bytes_out), "since the start"))
            (figure("Providers known", &report.announcements.to_string(), "by their announcements"))
        }
        section.card {
            h2 { "This node" }
            (ui::copyable("peer id", &report.peer_id.to_string()))
        }
    }
}

fn path(kind: PathKind) -> Markup {
    match kind {
        PathKind::Lan => badge("good", "lan"),
        PathKind::Direct => badge("good", "direct"),
        PathKind::HolePunched => badge("good", "hole-punched"),
        PathKind::Relayed => badge("warn", "relayed"),
    }
}

fn peers(app: &App, peers: &[PeerReport]) -> Markup {
    let now = text::now();
    let rows: Vec<Markup> = peers.iter().take(SHOWN).map(|peer| {
        let first = peer.paths.first();
        html! {
            td.nowrap { (ui::peer(app, &peer.peer)) }
            td { @if let Some(first) = first { (path(first.kind)) @if let Some(relay) = &first.relay { " " span.dim { "through " (text::short_id(relay)) } } } }
            td.num { (first.and_then(|it| it.rtt_us).map_or_else(|| "–".to_owned(), text::rtt)) }
            td.num { (text::bytes(peer.paths.iter().map(|it| it.bytes_in).sum())) }
            td.num { (text::bytes(peer.paths.iter().map(|it| it.bytes_out).sum())) }
            td.num { (peer.paths.iter().map(|it| u64::from(it.streams)).sum::<u64>()) }
            td.nowrap { (first.map_or_else(|| "–".to_owned(), |it| text::lasted(now.0.saturating_sub(it.since.0)))) }
            td.wide { code { (first.map(|it| text::plain(&it.address, 120)).unwrap_or_default()) } }
            td { (peer.agent.as_deref().map(|it| text::plain(it, 40)).unwrap_or_default())
                @if peer.version_0_1 == Some(true) { " " (badge("plain", "0.1")) }
                @if peer.score < 0 { " " (badge("warn", &format!("score {}", peer.score))) } }
        }
    }).collect();
    html! {
        section.card {
            h2 { "Peers" }
            @if rows.is_empty() { p { "No peer is connected." } }
            @else {
                (ui::table("Peers", &["Peer", "Path", "#Round trip", "#In", "#Out", "#Streams", "For", "Address", "Program"], &rows))
                @if peers.len() > SHOWN { p.dim { "The first " (SHOWN) " of " (peers.len()) ". " code { "derouter peers" } " lists all." } }
            }
        }
    }
}

fn nat(report: &NetworkReport) -> Markup {
    let kind = |kind: NatKind| match kind {
        NatKind::Unknown => "not known yet",
        NatKind::None => "none",
        NatKind::EndpointIndependent => "one mapping for all peers: holes can be punched",
        NatKind::EndpointDependent => {
            "another mapping for each peer (symmetric): holes can seldom be punched"
        }
    };
    let mapping = match report.port_mapping.state {
        PortMappingState::Off => "off",
        PortMappingState::Searching => "being looked for",
        PortMappingState::Unavailable => "the router offers none",
        PortMappingState::NotPublic => "the router has no public address itself",
        PortMappingState::Mapped => "a port is mapped",
    };
    let udp = match report.udp {
        Some(true) => "works",
        Some(false) => "no peer is reached over it",
        None => "not tried yet",
    };
    html! {
        section.card {
            h2 { "NAT" }
            dl.facts {
                dt { "UDP" } dd { (kind(report.nat_udp)) }
                dt { "TCP" } dd { (kind(report.nat_tcp)) }
                dt { "UDP to peers" } dd { (udp) }
                dt { "IPv6" } dd { @if report.ipv6 { "a public address" } @else { "no public address" } }
                dt { "Port mapping" } dd { (mapping)
                    @if let Some(protocol) = &report.port_mapping.protocol { " (" (text::plain(protocol, 12)) ")" }
                    @if let Some(error) = &report.port_mapping.error { br; span.dim { (text::plain(error, 200)) } } }
                dt { "Kademlia" } dd { (report.kademlia_peers) " peers" @if report.kademlia_server { ", answers others" } }
            }
        }
    }
}

fn addresses(report: &NetworkReport) -> Markup {
    let source = |source: AddressSource| match source {
        AddressSource::Configured => "configured",
        AddressSource::Mapped => "mapped",
        AddressSource::Interface => "interface",
        AddressSource::Observed => "seen by peers",
        AddressSource::Relay => "relay",
    };
    html! {
        section.card {
            h2 { "Addresses" }
            h3 { "Listens on" }
            ul { @for address in &report.listen { li { code { (text::plain(address, 200)) } } } }
            @if !report.external.is_empty() {
                h3 { "Others may reach it at" }
                ul { @for external in &report.external { li {
                    code { (text::plain(&external.address, 200)) } " "
                    @match external.reachable { Some(true) => (badge("good", "dialled")), Some(false) => (badge("bad", "not dialled")), None => (badge("plain", "not tested")) }
                    " " span.dim { (source(external.source)) @if let Some(error) = &external.error { ": " (text::plain(error, 200)) } }
                } } }
            }
        }
    }
}

fn relays(app: &App, report: &NetworkReport) -> Markup {
    let state = |state: ReservationState| match state {
        ReservationState::Pending => badge("plain", "being made"),
        ReservationState::Reserved => badge("good", "reserved"),
        ReservationState::Failed => badge("bad", "failed"),
    };
    html! {
        section.card {
            h2 { "Relays of this node" }
            @if report.relays.is_empty() { p.dim { "None: a node that others can dial needs none." } }
            ul { @for relay in &report.relays { li {
                (ui::peer(app, &relay.peer)) " " (state(relay.state)) " "
                span.dim { (relay.rtt_us.map(text::rtt).unwrap_or_default()) @if let Some(error) = &relay.error { " " (text::plain(error, 200)) } }
            } } }
        }
    }
}

fn bootstrap(report: &NetworkReport) -> Markup {
    html! {
        section.card {
            h2 { "Bootstrap nodes" }
            @if report.bootstrap.is_empty() { p.dim { "None is configured." } }
            ul { @for node in &report.bootstrap { li {
                code { (text::plain(&node.address, 200)) } " "
                @if node.connected { (badge("good", "connected")) } @else { (badge("bad", "not connected")) }
                @if let Some(error) = &node.error { " " span.dim { (text::plain(error, 200)) } }
            } } }
        }
    }
}
