//! What was spent, what is left of each limit, and on whom.

use std::sync::Arc;

use derouter_sdk::{PeerId, UnixSeconds, Wei};
use serde::{Deserialize, Serialize};

use super::{Onlooker, read};
use crate::consumer::gateway::{ConsumerCounters, Gateway};
use crate::consumer::keys::KeyRecord;
use crate::consumer::ledger::unix_now;
use crate::consumer::spending::{LimitKind, LimitState, Spending, Spent, Tally, day_of};

/// Providers that are told, those with the highest sums.
const MOST_PROVIDERS: usize = 1000;

/// What was spent. A day is one of UTC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpendingView {
    /// When this was looked at.
    pub at: UnixSeconds,
    /// Whether what was spent before the gateway started is known yet; requests wait for that.
    pub known: bool,
    /// Whether sums begin with the gateway's start, because there is no limit for which earlier jobs
    /// would have to be known.
    pub since_start_only: bool,
    /// `POL`.
    pub currency: String,
    /// Spent today.
    pub today: String,
    /// Spent in all.
    pub total: String,
    /// Set aside for requests that run.
    pub reserved: String,
    /// The limits that hold, and what is left of each.
    pub limits: Vec<LimitView>,
    /// By provider, the highest sums first. Empty for the holder of a key.
    pub providers: Vec<ProviderView>,
    /// By key, by name: all, or that of the one who looks.
    pub keys: Vec<KeyView>,
    /// What happened since the start. `None` for the holder of a key.
    pub counts: Option<CountsView>,
}

/// A limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitView {
    /// What sets it: `limits.daily`, or `daily` of a key.
    pub name: String,
    /// What it is about, in words.
    pub about: String,
    /// How much.
    pub limit: String,
    /// What is spent of it.
    pub spent: String,
    /// What requests that run have set aside of it.
    pub reserved: String,
    /// What is left.
    pub left: String,
    /// When all of it is there again, for one of a day.
    pub resets_at: Option<UnixSeconds>,
}

/// A provider that was paid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderView {
    /// Which.
    pub provider: String,
    /// Spent today.
    pub today: String,
    /// Spent in all.
    pub total: String,
    /// Jobs that were paid.
    pub jobs: u64,
}

/// A key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// Its name.
    pub name: String,
    /// What the books know it by.
    pub id: String,
    /// Spent today.
    pub today: String,
    /// Spent since it was made.
    pub total: String,
    /// Set aside for requests that run.
    pub reserved: String,
    /// Its own limits.
    pub limits: Vec<LimitView>,
    /// The models that it is for; `None`: all.
    pub models: Option<Vec<String>>,
    /// When it was made.
    pub created: UnixSeconds,
    /// From when on it is refused.
    pub expires: Option<UnixSeconds>,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountsView {
    /// Requests for an answer.
    pub requests: u64,
    /// Attempts that failed before an answer began.
    pub failed_attempts: u64,
    /// Jobs whose bill was signed.
    pub signed: u64,
    /// Jobs whose bill was wrong or missing.
    pub violations: u64,
    /// Answers that broke after they had begun.
    pub broken: u64,
    /// Jobs given up because the client went away.
    pub abandoned: u64,
}

/// Looks at what was spent.
pub(crate) fn spending(gateway: &Gateway, onlooker: &Onlooker) -> SpendingView {
    let now = unix_now();
    let view = match onlooker {
        Onlooker::Owner => of_owner(gateway, now),
        Onlooker::Key(key) => of_key(gateway, key, now),
    };
    SpendingView {
        at: now,
        known: gateway.own_peer_id().is_some(),
        currency: "POL".to_owned(),
        ..view
    }
}

fn of_owner(gateway: &Gateway, now: UnixSeconds) -> SpendingView {
    let keys = gateway.keys.all();
    let limits = &gateway.config.limits;
    let limits = [limits.daily, limits.provider_daily, limits.total];
    // Copied under the lock, written as text behind it.
    let (spent, states, mut tallies, of_keys) = gateway.ledger.look(|books| {
        let tallies = books.by_provider().map(|(peer, it)| (*peer, it.clone()));
        let keys: Vec<_> = keys.iter().map(|key| look(books, key, now)).collect();
        let tallies: Vec<(PeerId, Tally)> = tallies.collect();
        let states = books.limit_states(None, now);
        (books.in_all(now), states, tallies, keys)
    });
    tallies.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.total));
    let today = day_of(now);
    let provider = |(peer, tally): &(PeerId, Tally)| ProviderView {
        provider: peer.to_string(),
        today: tally.days.since(today).to_pol_text(),
        total: tally.total.to_pol_text(),
        jobs: tally.jobs,
    };
    let shown = tallies.iter().take(MOST_PROVIDERS);
    SpendingView {
        since_start_only: limits.iter().all(Option::is_none),
        today: spent.today.to_pol_text(),
        total: spent.total.to_pol_text(),
        reserved: spent.reserved.to_pol_text(),
        limits: states.iter().map(limit).collect(),
        providers: shown.map(provider).collect(),
        keys: keys
            .iter()
            .zip(of_keys)
            .map(|(key, seen)| key_view(key, &seen))
            .collect(),
        counts: Some(counts(&gateway.counters)),
        ..SpendingView::default()
    }
}

fn of_key(gateway: &Gateway, key: &Arc<KeyRecord>, now: UnixSeconds) -> SpendingView {
    let seen = gateway.ledger.look(|books| look(books, key, now));
    let key = key_view(key, &seen);
    SpendingView {
        today: key.today.clone(),
        total: key.total.clone(),
        reserved: key.reserved.clone(),
        limits: key.limits.clone(),
        keys: vec![key],
        ..SpendingView::default()
    }
}

fn look(books: &Spending, key: &KeyRecord, now: UnixSeconds) -> (Spent, Vec<LimitState>) {
    let states = books.limit_states(Some((key.id.as_str(), key.limits())), now);
    (books.with_key(&key.id, now), states)
}

fn key_view(key: &KeyRecord, (spent, states): &(Spent, Vec<LimitState>)) -> KeyView {
    KeyView {
        name: key.name.clone(),
        id: key.id.clone(),
        today: spent.today.to_pol_text(),
        total: spent.total.to_pol_text(),
        reserved: spent.reserved.to_pol_text(),
        limits: states.iter().map(limit).collect(),
        models: key.rules.models.clone(),
        created: key.created,
        expires: key.rules.expires,
    }
}

fn limit(state: &LimitState) -> LimitView {
    let (name, about) = match state.kind {
        LimitKind::Job => ("limits.job", "one job"),
        LimitKind::Request => ("limits.request", "one request"),
        LimitKind::ProviderDay => ("limits.provider_daily", "one day with one provider"),
        LimitKind::Day => ("limits.daily", "one day"),
        LimitKind::Total => ("limits.total", "all requests together"),
        LimitKind::KeyRequest => ("per_request", "one request of this key"),
        LimitKind::KeyDay => ("daily", "one day of this key"),
        LimitKind::KeyTotal => ("total", "all requests of this key together"),
    };
    let used: Wei = state.spent.saturating_add(state.reserved);
    LimitView {
        name: name.to_owned(),
        about: about.to_owned(),
        limit: state.limit.to_pol_text(),
        spent: state.spent.to_pol_text(),
        reserved: state.reserved.to_pol_text(),
        left: state.limit.saturating_sub(used).to_pol_text(),
        resets_at: state.resets_at,
    }
}

fn counts(counters: &ConsumerCounters) -> CountsView {
    CountsView {
        requests: read(&counters.requests),
        failed_attempts: read(&counters.failed_attempts),
        signed: read(&counters.signed),
        violations: read(&counters.violations),
        broken: read(&counters.broken),
        abandoned: read(&counters.abandoned),
    }
}
