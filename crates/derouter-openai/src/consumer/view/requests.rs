//! The requests that run.

use derouter_sdk::{UnixSeconds, Wei};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Onlooker, rounded};
use crate::consumer::active::{ActiveId, Entry};
use crate::consumer::gateway::Gateway;
use crate::consumer::ledger::unix_now;

/// The requests that run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ActiveView {
    /// When this was looked at.
    pub at: UnixSeconds,
    /// The requests, oldest first. One whose attempt is being given up while the next one runs is there
    /// twice for a moment.
    pub requests: Vec<RequestView>,
}

/// A request, as far as its present attempt goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestView {
    /// Which; numbers are not used again in one run of the gateway.
    pub id: u64,
    /// What it asks for. From the client.
    pub model: String,
    /// Such as `chat/completions`.
    pub endpoint: String,
    /// Whether its answer is streamed.
    pub stream: bool,
    /// The name of its key.
    pub key: Option<String>,
    /// Who is asked.
    pub provider: String,
    /// Its offer. From outside.
    pub offer: String,
    /// Which attempt it is, from 1.
    pub attempt: usize,
    /// How the provider is reached.
    pub path: String,
    /// For how long the attempt has run.
    pub seconds: f64,
    /// What it will probably cost.
    pub estimated_cost: String,
}

/// Looks at the requests that run.
pub(crate) fn active(gateway: &Gateway, onlooker: &Onlooker) -> ActiveView {
    let now = Instant::now();
    let entries: Vec<(ActiveId, Entry)> = {
        let active = gateway.active();
        let mine = |entry: &Entry| match onlooker.key() {
            Some(key) => entry.asked.key.as_ref().is_some_and(|it| it.id == key.id),
            None => true,
        };
        let shown = active.iter().filter(|(_, entry)| mine(entry));
        shown.map(|(id, entry)| (id, entry.clone())).collect()
    };
    let view = |(id, entry): &(ActiveId, Entry)| view(*id, entry, now);
    ActiveView {
        at: unix_now(),
        requests: entries.iter().map(view).collect(),
    }
}

fn view(id: ActiveId, entry: &Entry, now: Instant) -> RequestView {
    let took = now.saturating_duration_since(entry.began);
    let asked = &entry.asked;
    RequestView {
        id: id.0,
        model: asked.model.clone(),
        endpoint: asked.endpoint.to_string(),
        stream: asked.stream,
        key: asked.key.as_ref().map(|key| key.name.clone()),
        provider: entry.offer.provider.to_string(),
        offer: entry.offer.offer_id.to_string(),
        attempt: entry.attempt,
        path: entry.path.name().to_owned(),
        seconds: rounded(took.as_secs_f64()),
        estimated_cost: Wei::to_pol_text(entry.estimated_cost),
    }
}
