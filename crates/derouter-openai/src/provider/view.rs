//! What a provider knows of its offers, for whoever looks at it. All of it comes from memory.
//!
//! Amounts are decimal POL as text, times Unix seconds.

use std::sync::Arc;

use derouter_sdk::wire::rpc::network::Reachability;
use derouter_sdk::{UnixSeconds, Wei};
use serde::{Deserialize, Serialize};

use super::board::{Board, Reach, Seat};
use super::config::{BackendCheck, OfferConfig};
use super::counters::Counters;
use super::demand::Counts;
use super::keeper::{Absent, Origin, unix_now};
use super::monitor::Monitor;
use super::prices::Prices;
use super::v0_2;

/// Looks at a provider in this process. Cheap to clone.
#[derive(Clone)]
pub struct Viewer {
    board: Arc<Board>,
    monitors: Arc<Vec<Arc<Monitor>>>,
    counters: Arc<Counters>,
    started: UnixSeconds,
}

impl std::fmt::Debug for Viewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Viewer")
    }
}

/// A provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProviderView {
    /// When this was looked at.
    pub at: UnixSeconds,
    /// When the provider started: what is counted begins there.
    pub started: UnixSeconds,
    /// Why `openai-offers.json` is not used, when it is not: what held before holds.
    pub problem: Option<String>,
    /// Whether others reach the node: `public`, `relayed`, `private`, or `unknown` yet.
    pub reachability: String,
    /// Connected peers.
    pub peers: Option<u32>,
    /// Earned today (UTC), since the start at most.
    pub income_today: String,
    /// Earned since the start.
    pub income: String,
    /// The servers behind the offers.
    pub backends: Vec<BackendView>,
    /// The offers, by id.
    pub offers: Vec<OfferView>,
    /// What happened since the start.
    pub counts: CountsView,
}

/// A server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendView {
    /// Its base URL, without what is secret in it. An offer that is added names it so.
    pub base_url: String,
    /// `up`, `down`, `full` (it refuses requests), or `unchecked`.
    pub state: String,
    /// Why it is down.
    pub error: Option<String>,
    /// When it was looked at last.
    pub checked_at: Option<UnixSeconds>,
    /// The models that it names, 200 at most; `None` when it has no list.
    pub models: Option<Vec<String>>,
    /// Whether its models become offers by themselves.
    pub discover: bool,
}

/// An offer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OfferView {
    /// Its id.
    pub id: String,
    /// `announced`, `withdrawn` or `paused`.
    pub state: String,
    /// Why it is withdrawn: `backend_down`, `backend_full`, `model_missing`, `no_room`, `refused` (by
    /// the node), or `starting`.
    pub reason: Option<String>,
    /// The same in words, with what to do.
    pub text: Option<String>,
    /// Since when it is so.
    pub since: UnixSeconds,
    /// `config`, `discovered` (the backend names its model) or `added` (while a provider ran).
    pub origin: String,
    /// Whether something of it is not as the configuration has it.
    pub edited: bool,
    /// Why a change of it does not hold.
    pub problem: Option<String>,
    /// The model as the market names it.
    pub model: String,
    /// Other names of it.
    pub aliases: Vec<String>,
    /// The model as the backend names it.
    pub backend_model: String,
    /// The base URL of its backend.
    pub backend: String,
    /// Context window in tokens.
    pub context: u64,
    /// What can be asked, such as `chat/completions`.
    pub endpoints: Vec<String>,
    /// What the model can, as announced; `None`: it does not say.
    pub features: Option<Vec<String>>,
    /// How its weights are stored, as announced.
    pub quantization: Option<String>,
    /// About it.
    pub description: Option<String>,
    /// The prices that hold now.
    pub price: PriceView,
    /// The offer's own prices, that hold outside of all windows.
    pub own_price: PriceView,
    /// The windows of its schedule; the first one that holds counts.
    pub schedule: Vec<WindowView>,
    /// What a new consumer may have for nothing, in POL.
    pub trial: Option<String>,
    /// The price of a request that is answered, in POL.
    #[serde(default)]
    pub request_price: String,
    /// The longest answer in tokens, where the offer says one.
    #[serde(default)]
    pub max_output: Option<u64>,
    /// Where the provider says that it is.
    #[serde(default)]
    pub region: Option<String>,
    /// Requests that are served now.
    pub in_use: usize,
    /// How many may be.
    pub slots: usize,
    /// How many of one consumer may be.
    pub slots_per_consumer: usize,
    /// Requests that wait for a slot.
    pub queued: usize,
    /// How many may.
    pub queue: usize,
    /// In the last hour.
    pub last_hour: DemandView,
    /// Since the start.
    pub total: DemandView,
    /// Why requests could not be served, with how often, the latest last.
    pub invalid_reasons: Vec<ReasonView>,
    /// When somebody last asked.
    pub last_asked: Option<UnixSeconds>,
    /// Earned today (UTC), since the start at most.
    pub income_today: String,
    /// Earned since the start.
    pub income: String,
    /// Tokens of completed jobs, prompts and answers together.
    pub tokens: u64,
}

/// Prices of 1,000,000 tokens, in POL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceView {
    /// Of the prompt.
    pub input: String,
    /// Of the answer.
    pub output: String,
}

impl From<Prices> for PriceView {
    fn from(prices: Prices) -> Self {
        Self {
            input: prices.input.to_pol_text(),
            output: prices.output.to_pol_text(),
        }
    }
}

/// A part of the week with prices of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowView {
    /// The days on which it begins.
    pub days: Vec<String>,
    /// When it begins (UTC).
    pub from: String,
    /// When it ends.
    pub to: String,
    /// The same in one line, as `derouter provide edit --schedule` takes it.
    #[serde(default)]
    pub text: String,
    /// The prices within.
    pub price: PriceView,
    /// Whether it is the one that holds now.
    pub now: bool,
}

/// Who wanted the offer, and what became of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemandView {
    /// Requests that came.
    pub requests: u64,
    /// Those that were taken.
    pub taken: u64,
    /// Refused because all slots were taken, and the queue was full.
    pub full: u64,
    /// Refused because no slot became free in time.
    pub waited: u64,
    /// Refused because their consumer is over its rates.
    pub too_fast: u64,
    /// Refused because their consumer is not served here.
    pub blocked: u64,
    /// Refused because they can't be served.
    pub invalid: u64,
    /// Jobs that were completed.
    pub completed: u64,
    /// Jobs that failed here.
    pub failed: u64,
}

impl From<Counts> for DemandView {
    fn from(counts: Counts) -> Self {
        let came = [
            counts.taken,
            counts.full,
            counts.waited,
            counts.too_fast,
            counts.blocked,
            counts.invalid,
        ];
        Self {
            requests: came.into_iter().fold(0, u64::saturating_add),
            taken: counts.taken,
            full: counts.full,
            waited: counts.waited,
            too_fast: counts.too_fast,
            blocked: counts.blocked,
            invalid: counts.invalid,
            completed: counts.completed,
            failed: counts.failed,
        }
    }
}

/// A reason, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonView {
    /// In words. May hold parts of what a consumer sent.
    pub reason: String,
    /// How often.
    pub times: u64,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountsView {
    /// Jobs taken.
    pub accepted: u64,
    /// Jobs refused because there was no room.
    pub busy: u64,
    /// Jobs refused because they can't be served.
    pub invalid: u64,
    /// Jobs completed.
    pub completed: u64,
    /// Jobs failed by the backend.
    pub failed: u64,
    /// Jobs whose consumer went away, or never came.
    pub abandoned: u64,
    /// Prompt tokens of completed jobs.
    pub prompt_tokens: u64,
    /// Completion tokens of completed jobs.
    pub completion_tokens: u64,
}

impl Viewer {
    pub(super) fn new(
        board: Arc<Board>,
        monitors: Vec<Arc<Monitor>>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            board,
            monitors: Arc::new(monitors),
            counters,
            started: unix_now(),
        }
    }

    /// The provider as it is now.
    pub fn view(&self) -> ProviderView {
        let now = unix_now();
        let seats = self.board.seats();
        let mut offers: Vec<OfferView> = seats.iter().map(|seat| offer(seat, now)).collect();
        offers.sort_by(|one, other| one.id.cmp(&other.id));
        let (mut today, mut income) = (Wei::ZERO, Wei::ZERO);
        for seat in seats.iter() {
            let (of_day, all) = seat.lane.demand().income(now);
            today = today.saturating_add(of_day);
            income = income.saturating_add(all);
        }
        let reach = self.board.reach();
        ProviderView {
            at: now,
            started: self.started,
            problem: self.board.problem(),
            reachability: reachability(reach).to_owned(),
            peers: reach.map(|reach| reach.peers),
            income_today: today.to_pol_text(),
            income: income.to_pol_text(),
            backends: self.monitors.iter().map(|it| backend(it)).collect(),
            offers,
            counts: self.counts(),
        }
    }

    fn counts(&self) -> CountsView {
        let counts = self.counters.snapshot();
        CountsView {
            accepted: counts.jobs_accepted,
            busy: counts.jobs_busy,
            invalid: counts.jobs_invalid,
            completed: counts.jobs_completed,
            failed: counts.jobs_failed,
            abandoned: counts.jobs_abandoned,
            prompt_tokens: counts.prompt_tokens,
            completion_tokens: counts.completion_tokens,
        }
    }
}

fn reachability(reach: Option<Reach>) -> &'static str {
    let Some(reach) = reach else { return "unknown" };
    match reach.reachability {
        Reachability::Public => "public",
        _ if reach.relays > 0 => "relayed",
        Reachability::Private => "private",
        Reachability::Unknown => "unknown",
    }
}

fn backend(monitor: &Monitor) -> BackendView {
    let condition = monitor.condition();
    let state = match (monitor.check(), condition.up, condition.full) {
        (BackendCheck::Off, ..) => "unchecked",
        (_, false, _) => "down",
        (_, true, true) => "full",
        (_, true, false) => "up",
    };
    BackendView {
        base_url: monitor.backend.shown().to_owned(),
        state: state.to_owned(),
        error: condition.error,
        checked_at: condition.probed_at,
        models: condition.models,
        discover: monitor.discover.is_some(),
    }
}

fn offer(seat: &Seat, now: UnixSeconds) -> OfferView {
    let config: &OfferConfig = &seat.config;
    let (state, reason, text) = state(seat);
    let payload = config.payload_at(now);
    let announced = v0_2::payload(config, &payload);
    let own = Prices {
        input: config.input_token_price,
        output: config.output_token_price,
    };
    let (in_use, queued, places) = seat.lane.in_use();
    let view = OfferView {
        id: seat.offer_id.to_string(),
        state: state.to_owned(),
        reason: reason.map(str::to_owned),
        text,
        since: seat.since,
        origin: origin(&seat.origin).to_owned(),
        edited: seat.edited,
        problem: seat.problem.clone(),
        model: config.model_id.clone(),
        aliases: config.terms.announced.aliases.clone(),
        backend_model: config.backend_model().to_owned(),
        backend: seat.monitor.backend.shown().to_owned(),
        context: config.context_size,
        endpoints: announced.endpoints,
        features: announced.features,
        quantization: announced.quantization,
        description: config.description.clone(),
        price: PriceView {
            input: payload.input_token_price.wei.to_pol_text(),
            output: payload.output_token_price.wei.to_pol_text(),
        },
        own_price: own.into(),
        schedule: schedule(config, own, now),
        trial: config.terms.trial.map(Wei::to_pol_text),
        request_price: config.terms.announced.request_price.to_pol_text(),
        max_output: config.terms.announced.max_output,
        region: config.terms.announced.region.clone(),
        in_use,
        slots: places.slots,
        slots_per_consumer: places.per_consumer,
        queued,
        queue: places.queue,
        ..OfferView::default()
    };
    with_demand(view, seat, now)
}

fn with_demand(view: OfferView, seat: &Seat, now: UnixSeconds) -> OfferView {
    // Copied, so that no request waits for what is made of it.
    let demand = seat.lane.demand().clone();
    let reasons = demand.reasons().map(|(reason, times)| ReasonView {
        reason: reason.to_owned(),
        times,
    });
    let (today, income) = demand.income(now);
    OfferView {
        last_hour: demand.of_hour(now).into(),
        total: demand.all().into(),
        invalid_reasons: reasons.collect(),
        last_asked: demand.last(),
        income_today: today.to_pol_text(),
        income: income.to_pol_text(),
        tokens: demand.tokens(),
        ..view
    }
}

fn origin(origin: &Origin) -> &'static str {
    match origin {
        Origin::Config => "config",
        Origin::Discovered(_) => "discovered",
        Origin::Added => "added",
    }
}

fn state(seat: &Seat) -> (&'static str, Option<&'static str>, Option<String>) {
    let words = |reason, text: &str| ("withdrawn", Some(reason), Some(text.to_owned()));
    match seat.absent {
        Some(Absent::Paused) => ("paused", None, None),
        _ if seat.on_market => ("announced", None, None),
        Some(Absent::BackendDown) => words(
            "backend_down",
            "its backend does not answer: start it, or correct its address",
        ),
        Some(Absent::BackendFull) => words(
            "backend_full",
            "its backend refuses requests for being too many; it comes back by itself",
        ),
        Some(Absent::ModelMissing) => words(
            "model_missing",
            "its backend does not name the model: load it there, or set backend_model to the name that it has there",
        ),
        Some(Absent::NoRoom) => words(
            "no_room",
            "all its slots have been taken for a while; it comes back by itself",
        ),
        None => match &seat.refused {
            Some(error) => (
                "withdrawn",
                Some("refused"),
                Some(format!("the node does not take it: {error}")),
            ),
            None => words("starting", "it is about to be announced"),
        },
    }
}

fn schedule(config: &OfferConfig, own: Prices, now: UnixSeconds) -> Vec<WindowView> {
    let windows = &config.terms.schedule;
    let holds = windows.iter().position(|window| window.is_now(now));
    let view = |(place, window): (usize, &super::prices::PriceWindow)| WindowView {
        days: window.days.names().into_iter().map(str::to_owned).collect(),
        from: window.from.to_string(),
        to: window.to.to_string(),
        text: window.to_string(),
        price: window.prices(own).into(),
        now: holds == Some(place),
    };
    windows.iter().enumerate().map(view).collect()
}
