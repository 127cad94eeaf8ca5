//! `/metrics`: what the node counts, as OpenMetrics text. Every label has few values, all of them ours.
//! docs/metrics.md describes each.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{ConnectInfo, State};
use axum::response::{IntoResponse, Response};
use derouter_sdk::wire::rpc::network::{Reachability, ReservationState};
use derouter_sdk::{PathKind, Wei};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::guard::shows_secret;
use crate::state::App;

const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why requests were refused.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refusal {
    /// Under a name that is not the dashboard's.
    Host,
    /// Not from one of its pages.
    Forged,
    /// Without a session.
    Session,
    /// Too large or broken.
    Body,
    /// Too slow.
    Slow,
}

const REFUSALS: [(Refusal, &str); 5] = [
    (Refusal::Host, "host"),
    (Refusal::Forged, "forged"),
    (Refusal::Session, "session"),
    (Refusal::Body, "body"),
    (Refusal::Slow, "slow"),
];

/// Counts of them.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    host: AtomicU64,
    forged: AtomicU64,
    session: AtomicU64,
    body: AtomicU64,
    slow: AtomicU64,
}

impl Refusals {
    fn of(&self, refusal: Refusal) -> &AtomicU64 {
        match refusal {
            Refusal::Host => &self.host,
            Refusal::Forged => &self.forged,
            Refusal::Session => &self.session,
            Refusal::Body => &self.body,
            Refusal::Slow => &self.slow,
        }
    }

    /// Counts one more.
    pub(crate) fn count(&self, refusal: Refusal) {
        self.of(refusal).fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Gauge(f64),
    Counter(f64),
}

/// One value, read at a scrape.
#[derive(Debug)]
struct Metric {
    name: &'static str,
    help: &'static str,
    label: Option<(&'static str, String)>,
    value: Value,
}

#[derive(Debug, Default)]
struct Scrape(Vec<Metric>);

impl Scrape {
    fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.put(name, help, None, Value::Gauge(value));
    }

    fn counter(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.put(name, help, None, Value::Counter(value));
    }

    fn put(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: Option<(&'static str, String)>,
        value: Value,
    ) {
        self.0.push(Metric {
            name,
            help,
            label,
            value,
        });
    }

    /// Values of one name, told apart by a label.
    fn each(
        &mut self,
        (name, help): (&'static str, &'static str),
        label: &'static str,
        values: impl IntoIterator<Item = (&'static str, Value)>,
    ) {
        for (of, value) in values {
            self.put(name, help, Some((label, of.to_owned())), value);
        }
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for same in self.0.chunk_by(|one, other| one.name == other.name) {
            let Some(first) = same.first() else {
                continue;
            };
            let metric_type = match first.value {
                Value::Gauge(value) => ConstGauge::new(value).metric_type(),
                Value::Counter(value) => ConstCounter::new(value).metric_type(),
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
            Value::Gauge(value) => ConstGauge::new(value).encode(encoder),
            Value::Counter(value) => ConstCounter::new(value).encode(encoder),
        }
    }
}

/// `GET /metrics`. From other machines it needs the token.
pub(crate) async fn serve(
    State(app): State<App>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    if app.remote && !shows_secret(&app, from.ip(), &headers) {
        let text = "The metrics need `Authorization: Bearer TOKEN` here.\n";
        return (StatusCode::UNAUTHORIZED, text).into_response();
    }
    app.board.look_at_network().await;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape(&app)));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(CONTENT_TYPE, KIND)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
fn real(number: u64) -> f64 {
    number as f64
}

fn size(number: usize) -> f64 {
    real(u64::try_from(number).unwrap_or(u64::MAX))
}

fn pol(amount: Wei) -> f64 {
    amount.approximately() / 1e18
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

fn scrape(app: &App) -> Scrape {
    let mut scrape = Scrape::default();
    scrape.gauge(
        "derouter_uptime_seconds",
        "Seconds since the start",
        app.started.elapsed().as_secs_f64(),
    );
    scrape.gauge(
        "derouter_draining",
        "1 while the node is on its way down",
        flag(app.board.is_draining()),
    );
    network(app, &mut scrape);
    jobs(app, &mut scrape);
    modules(app, &mut scrape);
    scrape.gauge(
        "derouter_web_streams",
        "Open streams of events of the dashboard",
        size(app.streams.open()),
    );
    let refused = REFUSALS.map(|(refusal, name)| {
        let count = app.refusals.of(refusal).load(Ordering::Relaxed);
        (name, Value::Counter(real(count)))
    });
    let name = (
        "derouter_web_refused",
        "Requests to the dashboard that were refused",
    );
    scrape.each(name, "reason", refused);
    scrape
}

fn network(app: &App, scrape: &mut Scrape) {
    let seen = app.board.seen();
    let Some(report) = seen.report else {
        return;
    };
    let name = (
        "derouter_reachability",
        "1 for how the node is reached, 0 for the others",
    );
    let states = [
        ("unknown", Reachability::Unknown),
        ("public", Reachability::Public),
        ("private", Reachability::Private),
    ];
    let states =
        states.map(|(text, state)| (text, Value::Gauge(flag(state == report.reachability))));
    scrape.each(name, "state", states);
    scrape.gauge("derouter_peers", "Connected peers", f64::from(report.peers));
    scrape.gauge(
        "derouter_peers_0_1",
        "Connected peers of version 0.1",
        f64::from(report.peers_0_1),
    );
    scrape.gauge(
        "derouter_connections",
        "Connections with peers",
        f64::from(report.connections),
    );
    let kinds = [
        ("lan", PathKind::Lan),
        ("direct", PathKind::Direct),
        ("hole_punched", PathKind::HolePunched),
        ("relayed", PathKind::Relayed),
    ];
    let paths = kinds.map(|(text, kind)| {
        let first = seen.peers.iter().filter_map(|peer| peer.paths.first());
        (
            text,
            Value::Gauge(size(first.filter(|path| path.kind == kind).count())),
        )
    });
    let name = (
        "derouter_peers_by_path",
        "Connected peers by the path to them",
    );
    scrape.each(name, "path", paths);
    let traffic = [("in", report.bytes_in), ("out", report.bytes_out)];
    let traffic = traffic.map(|(text, bytes)| (text, Value::Counter(real(bytes))));
    let name = ("derouter_traffic_bytes", "Bytes over all connections");
    scrape.each(name, "direction", traffic);
    let reserved = report.relays.iter();
    let reserved = reserved.filter(|relay| relay.state == ReservationState::Reserved);
    scrape.gauge(
        "derouter_relays_reserved",
        "Relays through which the node is reached",
        size(reserved.count()),
    );
    scrape.gauge(
        "derouter_announcements",
        "Providers whose announcement is known and valid",
        f64::from(report.announcements),
    );
    scrape.gauge(
        "derouter_advice",
        "Things that the user can do about the network",
        size(report.advice.len()),
    );
}

fn jobs(app: &App, scrape: &mut Scrape) {
    let tally = app.board.tally();
    let (bought, sold) = tally.running();
    let running = [("consumer", bought), ("provider", sold)];
    let running = running.map(|(role, count)| (role, Value::Gauge(size(count))));
    scrape.each(("derouter_jobs_running", "Jobs that run"), "role", running);
    let counts = tally.counts;
    let done = [("consumer", counts.bought), ("provider", counts.sold)];
    let done = done.map(|(role, count)| (role, Value::Counter(real(count))));
    let name = (
        "derouter_jobs_completed",
        "Jobs in the ledger that were completed",
    );
    scrape.each(name, "role", done);
    let failed = [
        ("consumer", counts.bought_failed),
        ("provider", counts.sold_failed),
    ];
    let failed = failed.map(|(role, count)| (role, Value::Counter(real(count))));
    scrape.each(
        ("derouter_jobs_failed", "Jobs in the ledger that failed"),
        "role",
        failed,
    );
    let total = tally.total;
    scrape.counter(
        "derouter_spent_pol",
        "POL that is owed for what was bought",
        pol(total.spent),
    );
    scrape.counter(
        "derouter_earned_pol",
        "POL that is owed for what was sold",
        pol(total.earned),
    );
    scrape.counter(
        "derouter_tokens",
        "Tokens bought and sold, where jobs tell",
        real(total.tokens),
    );
}

fn modules(app: &App, scrape: &mut Scrape) {
    if let Some(gateway) = &app.modules.gateway {
        scrape.gauge(
            "derouter_offers",
            "Offers on the market",
            size(gateway.offers().len()),
        );
    }
    let Some(provider) = &app.modules.provider else {
        return;
    };
    let offers = provider.offers();
    let on = offers.iter().filter(|offer| offer.on_market).count();
    let paused = offers.iter().filter(|offer| offer.paused).count();
    let off = offers.len().saturating_sub(on).saturating_sub(paused);
    let states = [("on_market", on), ("paused", paused), ("off_market", off)];
    let states = states.map(|(state, count)| (state, Value::Gauge(size(count))));
    scrape.each(
        ("derouter_own_offers", "Offers of this node"),
        "state",
        states,
    );
    let sum = |of: fn(&crate::modules::ProvidedOffer) -> u32| -> f64 {
        offers.iter().map(|offer| f64::from(of(offer))).sum()
    };
    scrape.gauge(
        "derouter_answers_running",
        "Answers that run",
        sum(|offer| offer.running),
    );
    scrape.gauge(
        "derouter_answers_waiting",
        "Requests that wait for a place",
        sum(|offer| offer.waiting),
    );
    let turned: u64 = offers.iter().map(|offer| offer.turned_away).sum();
    scrape.counter(
        "derouter_turned_away",
        "Requests that found no place",
        real(turned),
    );
    let backends = provider.backends();
    let up = backends.iter().filter(|backend| backend.up).count();
    let states = [("up", up), ("down", backends.len().saturating_sub(up))];
    let states = states.map(|(state, count)| (state, Value::Gauge(size(count))));
    scrape.each(
        ("derouter_backends", "Servers behind the offers"),
        "state",
        states,
    );
}
