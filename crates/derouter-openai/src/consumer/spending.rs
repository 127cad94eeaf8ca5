//! What was spent, what running requests may still cost, and whether another job may begin. Pure.
//!
//! A job sets aside the most that it can cost before it exists, against all limits at once, so
//! that no interleaving of requests goes over one. What was signed counts for the day of the
//! signature. A day's limit holds for that day and all that come behind it: a clock that is set
//! back finds the days that it was in before, and brings no second budget.

use std::collections::{BTreeMap, HashMap};

use derouter_sdk::{PeerId, UnixSeconds, Wei};

use super::config::Limits;

/// Seconds of a day.
const DAY: u64 = 86_400;

/// Days of which each account knows what was spent. Only the present one matters, unless the clock
/// was set back. When there are more, the earliest two count as the later one of them.
const MAX_DAYS: usize = 16;

/// Providers that are kept apart when they have a limit: those paid in a day. No more are bought
/// from that day.
const MAX_PROVIDERS: usize = 65_536;

/// The day of a time, counted from 1970.
pub(crate) fn day_of(time: UnixSeconds) -> u64 {
    time.0 / DAY
}

/// What a key may spend. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// For one request, over all its attempts.
    pub request: Option<Wei>,
    /// In one day (UTC).
    pub daily: Option<Wei>,
    /// In all.
    pub total: Option<Wei>,
}

/// Which limit keeps a job from beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitKind {
    Job,
    Request,
    KeyRequest,
    KeyTotal,
    Total,
    KeyDay,
    ProviderDay,
    Day,
}

/// Why nothing could be set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverLimit {
    pub(crate) kind: LimitKind,
    pub(crate) limit: Wei,
    /// What was signed of it.
    pub(crate) spent: Wei,
    /// What running requests have set aside of it.
    pub(crate) reserved: Wei,
    /// What the job could have cost.
    pub(crate) needed: Wei,
    /// When the job would fit, if time alone brings that.
    pub(crate) resets_at: Option<UnixSeconds>,
    /// It would fit once running requests are done and cost nothing: worth waiting for.
    pub(crate) held_by_running: bool,
}

/// A request, for as long as one of its attempts may be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RequestId(u64);

/// What a job's cost counts against, besides the limits of the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) key: Option<(&'a str, KeyLimits)>,
    pub(crate) provider: PeerId,
    pub(crate) request: RequestId,
}

/// What was spent on each day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Days(BTreeMap<u64, Wei>);

impl Days {
    pub(crate) fn add(&mut self, day: u64, amount: Wei) {
        let spent = self.0.entry(day).or_default();
        *spent = spent.saturating_add(amount);
        while self.0.len() > MAX_DAYS {
            let Some((_, earliest)) = self.0.pop_first() else {
                return;
            };
            if let Some(mut next) = self.0.first_entry() {
                let joined = next.get().saturating_add(earliest);
                next.insert(joined);
            }
        }
    }

    /// What was spent on a day and behind it.
    pub(crate) fn since(&self, day: u64) -> Wei {
        let days = self.0.range(day..);
        days.fold(Wei::ZERO, |sum, (_, spent)| sum.saturating_add(*spent))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Wei)> {
        self.0.iter().map(|(day, spent)| (*day, *spent))
    }
}

/// What was spent and is set aside for one of those that have limits.
#[derive(Debug, Default)]
struct Account {
    total: Wei,
    days: Days,
    reserved: Wei,
}

impl Account {
    fn spend(&mut self, day: u64, amount: Wei) {
        self.total = self.total.saturating_add(amount);
        self.days.add(day, amount);
    }

    fn settle(&mut self, reserved: Wei, spent: Wei, day: u64) {
        self.reserved = self.reserved.saturating_sub(reserved);
        if !spent.is_zero() {
            self.spend(day, spent);
        }
    }

    fn in_all(&self, kind: LimitKind, limit: Option<Wei>) -> Check<'_> {
        Check {
            kind,
            limit,
            spent: self.total,
            reserved: self.reserved,
            days: None,
        }
    }

    fn on(&self, day: u64, kind: LimitKind, limit: Option<Wei>) -> Check<'_> {
        Check {
            kind,
            limit,
            spent: self.days.since(day),
            reserved: self.reserved,
            days: Some(&self.days),
        }
    }
}

/// That of a key or provider with which nothing was spent.
static EMPTY: Account = Account {
    total: Wei::ZERO,
    days: Days(BTreeMap::new()),
    reserved: Wei::ZERO,
};

/// What became of a request's attempts.
#[derive(Clone, Copy, Debug, Default)]
struct Request {
    spent: Wei,
    reserved: Wei,
    /// A signature was begun: money may be owed.
    signing: bool,
}

/// The books.
#[derive(Debug)]
pub(crate) struct Spending {
    limits: Limits,
    all: Account,
    keys: HashMap<String, Account>,
    providers: HashMap<PeerId, Account>,
    requests: HashMap<RequestId, Request>,
    next_request: u64,
}

/// One limit and how much of it is used.
struct Check<'a> {
    kind: LimitKind,
    limit: Option<Wei>,
    spent: Wei,
    reserved: Wei,
    /// For a limit of a day.
    days: Option<&'a Days>,
}

impl Check<'_> {
    /// Without a limit, the largest number is one: no sum may wrap.
    fn over(&self, needed: Wei, today: u64) -> Option<OverLimit> {
        let limit = self.limit.unwrap_or(Wei::MAX);
        let fits = |sum: Option<Wei>| sum.is_some_and(|sum| sum <= limit);
        let alone = self.spent.checked_add(needed);
        if fits(alone.and_then(|alone| alone.checked_add(self.reserved))) {
            return None;
        }
        let held_by_running = fits(alone);
        Some(OverLimit {
            kind: self.kind,
            limit,
            spent: self.spent,
            reserved: self.reserved,
            needed,
            resets_at: self.resets_at(needed, limit, today),
            held_by_running,
        })
    }

    /// The begin of the first day on which an amount fits, if nothing more is spent.
    fn resets_at(&self, needed: Wei, limit: Wei, today: u64) -> Option<UnixSeconds> {
        let days = self.days?;
        let next = |day: u64| day.saturating_add(1);
        let later = days.0.range(today..).map(|(day, _)| next(*day));
        let fits = |day: &u64| {
            let sum = days.since(*day).checked_add(needed);
            sum.is_some_and(|sum| sum <= limit)
        };
        let day = std::iter::once(next(today)).chain(later).find(fits)?;
        Some(UnixSeconds(day.saturating_mul(DAY)))
    }
}

impl Spending {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            all: Account::default(),
            keys: HashMap::new(),
            providers: HashMap::new(),
            requests: HashMap::new(),
            next_request: 0,
        }
    }

    /// Counts what was spent on a job of an earlier run, but for its key.
    pub(crate) fn remember(
        &mut self,
        provider: PeerId,
        amount: Wei,
        at: UnixSeconds,
        now: UnixSeconds,
    ) {
        let day = day_of(at);
        self.all.spend(day, amount);
        let known_days = u64::try_from(MAX_DAYS).unwrap_or(u64::MAX);
        let is_old = day.saturating_add(known_days) < day_of(now);
        if self.limits.provider_daily.is_some() && !is_old {
            self.providers
                .entry(provider)
                .or_default()
                .spend(day, amount);
        }
    }

    /// Counts what was spent with a key in earlier runs.
    pub(crate) fn remember_key(&mut self, key: &str, total: Wei, days: &Days) {
        let account = self.keys.entry(key.to_owned()).or_default();
        account.total = account.total.saturating_add(total);
        for (day, spent) in days.iter() {
            account.days.add(day, spent);
        }
    }

    /// A request begins.
    pub(crate) fn begin(&mut self) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request = self.next_request.wrapping_add(1);
        self.requests.insert(id, Request::default());
        id
    }

    /// None of a request's attempts can be signed any more.
    pub(crate) fn end(&mut self, request: RequestId) {
        self.requests.remove(&request);
    }

    /// Sets an amount aside for a job that begins.
    pub(crate) fn reserve(
        &mut self,
        place: &Place<'_>,
        amount: Wei,
        now: UnixSeconds,
    ) -> Result<(), Box<OverLimit>> {
        // What is free is bought whatever was spent.
        if amount.is_zero() {
            return Ok(());
        }
        self.make_room(place.provider, day_of(now));
        self.check(place, amount, day_of(now))?;
        for account in self.accounts(place, true) {
            account.reserved = account.reserved.saturating_add(amount);
        }
        if let Some(request) = self.requests.get_mut(&place.request) {
            request.reserved = request.reserved.saturating_add(amount);
        }
        Ok(())
    }

    /// It is known what will be signed of what was set aside: the rest is free for others.
    pub(crate) fn narrow(&mut self, place: &Place<'_>, reserved: Wei, to: Wei) {
        let freed = reserved.saturating_sub(to);
        for account in self.accounts(place, false) {
            account.reserved = account.reserved.saturating_sub(freed);
        }
        if let Some(request) = self.requests.get_mut(&place.request) {
            request.reserved = request.reserved.saturating_sub(freed);
        }
    }

    /// One of a request's attempts is on its way to be signed.
    pub(crate) fn signing(&mut self, request: RequestId) {
        if let Some(request) = self.requests.get_mut(&request) {
            request.signing = true;
        }
    }

    /// Ends what was set aside: `spent` of it was signed. `at` is the time, and no earlier than that
    /// at which it was set aside: a clock that was set back meanwhile moves no cost to a day that
    /// was not looked at.
    pub(crate) fn settle(&mut self, place: &Place<'_>, reserved: Wei, spent: Wei, at: UnixSeconds) {
        debug_assert!(spent <= reserved, "checked before it is signed");
        for account in self.accounts(place, false) {
            account.settle(reserved, spent, day_of(at));
        }
        if let Some(request) = self.requests.get_mut(&place.request) {
            request.reserved = request.reserved.saturating_sub(reserved);
            request.spent = request.spent.saturating_add(spent);
        }
    }

    /// Whether a signature was begun for a request.
    pub(crate) fn may_owe(&self, request: RequestId) -> bool {
        let request = self.requests.get(&request);
        request.is_some_and(|request| request.signing)
    }

    /// The accounts that a job counts for; missing ones are made if asked for.
    fn accounts<'a>(
        &'a mut self,
        place: &Place<'_>,
        make: bool,
    ) -> impl Iterator<Item = &'a mut Account> {
        let provider = place.provider;
        if make && let Some((key, _)) = place.key {
            self.keys.entry(key.to_owned()).or_default();
        }
        if make && self.limits.provider_daily.is_some() {
            self.providers.entry(provider).or_default();
        }
        let key = place.key.and_then(|(key, _)| self.keys.get_mut(key));
        let provider = self.providers.get_mut(&provider);
        std::iter::once(&mut self.all).chain(key).chain(provider)
    }

    /// Forgets providers who were not paid today when there are many.
    fn make_room(&mut self, provider: PeerId, today: u64) {
        if self.providers.len() < MAX_PROVIDERS || self.providers.contains_key(&provider) {
            return;
        }
        self.providers.retain(|_, account| {
            !account.reserved.is_zero() || !account.days.since(today).is_zero()
        });
    }

    /// The first limit that is broken for good, else the first that running requests hold.
    fn check(&self, place: &Place<'_>, amount: Wei, today: u64) -> Result<(), Box<OverLimit>> {
        let checks = self.checks(place, today).into_iter();
        let over = checks.filter_map(|check| check.over(amount, today));
        match over.min_by_key(|over| over.held_by_running) {
            Some(over) => Err(Box::new(over)),
            None => Ok(()),
        }
    }

    /// Every limit that a job counts against. Those that waiting does not help with come first.
    fn checks(&self, place: &Place<'_>, today: u64) -> Vec<Check<'_>> {
        let limits = &self.limits;
        let request = self.requests.get(&place.request).copied();
        let request = request.unwrap_or_default();
        let of_request = |kind, limit| Check {
            kind,
            limit,
            spent: request.spent,
            reserved: request.reserved,
            days: None,
        };
        let mut checks = vec![
            Check {
                kind: LimitKind::Job,
                limit: limits.job,
                spent: Wei::ZERO,
                reserved: Wei::ZERO,
                days: None,
            },
            of_request(LimitKind::Request, limits.request),
        ];
        if let Some((key, own)) = place.key {
            let account = self.keys.get(key).unwrap_or(&EMPTY);
            checks.push(of_request(LimitKind::KeyRequest, own.request));
            checks.push(account.in_all(LimitKind::KeyTotal, own.total));
            checks.push(account.on(today, LimitKind::KeyDay, own.daily));
        }
        checks.push(self.all.in_all(LimitKind::Total, limits.total));
        if limits.provider_daily.is_some() {
            let account = self.providers.get(&place.provider);
            let full = account.is_none() && self.providers.len() >= MAX_PROVIDERS;
            let limit = limits.provider_daily.filter(|_| !full);
            let account = account.unwrap_or(&EMPTY);
            let limit = Some(limit.unwrap_or(Wei::ZERO));
            checks.push(account.on(today, LimitKind::ProviderDay, limit));
        }
        checks.push(self.all.on(today, LimitKind::Day, limits.daily));
        checks
    }
}

#[cfg(test)]
mod tests;
