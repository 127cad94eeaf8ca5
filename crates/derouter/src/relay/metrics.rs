//! What a relay counts, as OpenMetrics text, which Prometheus reads.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use derouter_net::NetCounters;
use derouter_sdk::wire::rpc::network::NetworkReport;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::process;

/// How the text is to be read.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One value, read at a scrape.
#[derive(Debug)]
struct Metric {
    name: &'static str,
    help: &'static str,
    label: Option<(&'static str, &'static str)>,
    value: Value,
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Gauge(u64),
    Counter(u64),
}

/// All values of one scrape. Those of one name follow each other.
#[derive(Debug)]
struct Scrape(Vec<Metric>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for same in self.0.chunk_by(|one, other| one.name == other.name) {
            let Some(first) = same.first() else {
                continue;
            };
            let metric_type = match first.value {
                Value::Gauge(_) => ConstGauge::new(0_u64).metric_type(),
                Value::Counter(_) => ConstCounter::new(0_u64).metric_type(),
            };
            let mut family =
                encoder.encode_descriptor(first.name, first.help, None, metric_type)?;
            if first.label.is_none() {
                first.value.encode(family)?;
                continue;
            }
            for metric in same {
                let label = metric.label.as_slice();
                metric.value.encode(family.encode_family(&label)?)?;
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(
        self,
        encoder: prometheus_client::encoding::MetricEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        match self {
            Self::Gauge(value) => ConstGauge::new(value).encode(encoder),
            Self::Counter(value) => ConstCounter::new(value).encode(encoder),
        }
    }
}

/// The text of a scrape.
pub(super) fn text(report: &NetworkReport, counters: &NetCounters) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(metrics(report, counters))));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn gauge(name: &'static str, help: &'static str, value: u64) -> Metric {
    Metric {
        name,
        help,
        label: None,
        value: Value::Gauge(value),
    }
}

fn counter(name: &'static str, help: &'static str, value: &AtomicU64) -> Metric {
    Metric {
        name,
        help,
        label: None,
        value: Value::Counter(value.load(Ordering::Relaxed)),
    }
}

fn metrics(report: &NetworkReport, counters: &NetCounters) -> Vec<Metric> {
    let mut all = of_network(report);
    all.extend(of_relay(counters));
    all.extend(of_gossip(counters));
    all.extend(of_discovery(counters));
    all.extend(of_process());
    all
}

fn of_network(report: &NetworkReport) -> Vec<Metric> {
    let traffic = |direction, bytes| Metric {
        name: "derouter_traffic_bytes",
        help: "Bytes over all connections",
        label: Some(("direction", direction)),
        value: Value::Counter(bytes),
    };
    vec![
        gauge("derouter_peers", "Connected peers", report.peers.into()),
        gauge(
            "derouter_peers_0_1",
            "Connected peers of version 0.1",
            report.peers_0_1.into(),
        ),
        gauge(
            "derouter_connections",
            "Connections with peers",
            report.connections.into(),
        ),
        traffic("in", report.bytes_in),
        traffic("out", report.bytes_out),
        gauge(
            "derouter_announcements",
            "Providers whose announcement is known and valid",
            report.announcements.into(),
        ),
        gauge(
            "derouter_kademlia_peers",
            "Peers in the Kademlia routing table",
            report.kademlia_peers.into(),
        ),
    ]
}

fn of_relay(counters: &NetCounters) -> Vec<Metric> {
    let relay = &counters.relay;
    let labelled =
        |name, help, label: &'static str, value: &'static str, number: &AtomicU64| Metric {
            label: Some((label, value)),
            ..counter(name, help, number)
        };
    let reservations = |outcome, number| {
        let help = "Requests for a reservation, by what became of them";
        labelled(
            "derouter_relay_reservations",
            help,
            "outcome",
            outcome,
            number,
        )
    };
    let circuits = |outcome, number| {
        let help = "Requests for a circuit, by what became of them";
        labelled("derouter_relay_circuits", help, "outcome", outcome, number)
    };
    let now = |number: &AtomicU64| number.load(Ordering::Relaxed);
    vec![
        gauge(
            "derouter_relay_reserved_peers",
            "Peers that are reached through this relay",
            now(&relay.reserved_peers),
        ),
        gauge(
            "derouter_relay_open_circuits",
            "Open circuits",
            now(&relay.circuits),
        ),
        reservations("accepted", &relay.reservations_accepted),
        reservations("renewed", &relay.reservations_renewed),
        reservations("refused", &relay.reservations_refused),
        counter(
            "derouter_relay_reservations_expired",
            "Reservations that were not renewed in time",
            &relay.reservations_expired,
        ),
        circuits("accepted", &relay.circuits_accepted),
        circuits("refused_limit", &relay.circuits_refused_limit),
        circuits("refused_unknown", &relay.circuits_refused_unknown),
        circuits("refused_failed", &relay.circuits_refused_failed),
        counter(
            "derouter_relay_circuits_broken",
            "Circuits that ended at a limit or with their connection",
            &relay.circuits_broken,
        ),
    ]
}

fn of_gossip(counters: &NetCounters) -> Vec<Metric> {
    let heartbeats = |outcome, number| Metric {
        label: Some(("outcome", outcome)),
        ..counter(
            "derouter_heartbeats",
            "Heartbeats of version 0.1 that came in, by what became of them",
            number,
        )
    };
    vec![
        heartbeats("forwarded", &counters.heartbeats_received),
        heartbeats("invalid", &counters.heartbeats_invalid),
        heartbeats("stale", &counters.heartbeats_stale),
        heartbeats("future", &counters.heartbeats_future),
        heartbeats("past", &counters.heartbeats_past),
        heartbeats("limited", &counters.heartbeats_limited),
        heartbeats("dropped", &counters.heartbeats_dropped),
        counter(
            "derouter_announcements_unsent",
            "Announcements that were not handed on for want of room",
            &counters.announcements_unsent,
        ),
        counter(
            "derouter_connections_closed_for_room",
            "Connections of others that were closed because there were too many",
            &counters.inbound_closed,
        ),
        counter(
            "derouter_connections_refused",
            "Connections of others that were refused at once",
            &counters.inbound_refused,
        ),
        counter(
            "derouter_bans",
            "Bans of peers that misbehaved",
            &counters.peers_banned,
        ),
        counter(
            "derouter_substreams_dropped",
            "Inbound substreams that were too many",
            &counters.substreams_dropped,
        ),
    ]
}

/// Discovery of 0.2.
fn of_discovery(counters: &NetCounters) -> Vec<Metric> {
    let by_outcome = |name, help, outcome, number: &AtomicU64| Metric {
        label: Some(("outcome", outcome)),
        ..counter(name, help, number)
    };
    let judged = |outcome, number| {
        let help = "Announcements that came in, by what became of them";
        by_outcome("derouter_announcements_judged", help, outcome, number)
    };
    let lists = |outcome, number| {
        let help = "Offer lists that were asked for, by what came";
        by_outcome("derouter_offer_lists", help, outcome, number)
    };
    let requests = |outcome, number| {
        let help = "Requests of the discovery protocol, by what became of them";
        by_outcome("derouter_discovery_requests", help, outcome, number)
    };
    vec![
        judged("received", &counters.announcements_received),
        judged("stale", &counters.announcements_stale),
        judged("off_clock", &counters.announcements_off_clock),
        judged("limited", &counters.announcements_limited),
        judged("invalid", &counters.announcements_invalid),
        judged("forged", &counters.announcements_forged),
        judged("dropped", &counters.announcements_dropped),
        counter(
            "derouter_signature_checks",
            "Signatures of announcements that were checked",
            &counters.signature_checks,
        ),
        lists("pulled", &counters.lists_pulled),
        lists("wrong", &counters.lists_wrong),
        counter(
            "derouter_reconciliations",
            "Reconciliations that this relay began and finished",
            &counters.reconciliations,
        ),
        counter(
            "derouter_reconciliations_late",
            "Reconciliations that brought what gossip should have brought long before",
            &counters.meshes_late,
        ),
        requests("served", &counters.discovery_served),
        requests("refused", &counters.discovery_refused),
    ]
}

fn of_process() -> Vec<Metric> {
    let files = process::open_files()
        .map(|files| gauge("process_open_fds", "Open files and sockets", files));
    let memory = process::memory_bytes().map(|bytes| {
        gauge(
            "process_resident_memory_bytes",
            "Resident memory in bytes",
            bytes,
        )
    });
    files.into_iter().chain(memory).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const DOCS: &str = include_str!("../../../../docs/metrics.md");

    fn of_counters() -> Vec<Metric> {
        let counters = NetCounters::default();
        counters.announcements_forged.store(3, Ordering::Relaxed);
        counters.lists_wrong.store(4, Ordering::Relaxed);
        let mut all = of_relay(&counters);
        all.extend(of_gossip(&counters));
        all.extend(of_discovery(&counters));
        all
    }

    #[test]
    fn a_scrape_tells_of_discovery() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape(of_counters())));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "derouter_announcements_judged_total{outcome=\"forged\"} 3\n",
            "derouter_offer_lists_total{outcome=\"wrong\"} 4\n",
            "derouter_discovery_requests_total{outcome=\"refused\"} 0\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn every_metric_and_label_is_described_and_values_of_one_name_are_told_together() {
        let all = of_counters();
        let mut seen = BTreeSet::new();
        for same in all.chunk_by(|one, other| one.name == other.name) {
            let name = same[0].name;
            assert!(seen.insert(name), "{name} is told in two places");
            let row = DOCS
                .lines()
                .find(|line| line.starts_with(&format!("| `{name}` |")));
            let row = row.unwrap_or_else(|| panic!("{name} is not described"));
            for (label, value) in same.iter().filter_map(|metric| metric.label) {
                let told =
                    row.contains(&format!("`{label}`")) && row.contains(&format!("`{value}`"));
                assert!(told, "{name} {label} {value}");
            }
        }
    }
}
