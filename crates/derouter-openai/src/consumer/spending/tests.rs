use super::*;
use proptest::prelude::*;

fn wei(amount: u64) -> Wei {
    Wei::from_wei(amount.into())
}

const NOON: UnixSeconds = UnixSeconds(10 * DAY + DAY / 2);
const NEXT_DAY: UnixSeconds = UnixSeconds(11 * DAY);

/// Books, with one provider and one request for short tests.
struct Books {
    spending: Spending,
    provider: PeerId,
    request: RequestId,
    key: Option<KeyLimits>,
}

impl Books {
    fn new(limits: Limits) -> Self {
        let mut spending = Spending::new(limits);
        Self {
            request: spending.begin(),
            spending,
            provider: PeerId::random(),
            key: None,
        }
    }

    fn place(&self) -> Place<'static> {
        Place {
            key: self.key.map(|limits| ("k", limits)),
            provider: self.provider,
            request: self.request,
        }
    }

    fn reserve(&mut self, amount: u64, now: UnixSeconds) -> Result<(), Box<OverLimit>> {
        let place = self.place();
        self.spending.reserve(&place, wei(amount), now)
    }

    fn settle(&mut self, reserved: u64, spent: u64, now: UnixSeconds) {
        let place = self.place();
        self.spending.settle(&place, wei(reserved), wei(spent), now);
    }

    fn spend(&mut self, amount: u64, now: UnixSeconds) {
        self.reserve(amount, now).unwrap();
        self.settle(amount, amount, now);
    }

    fn kind(&mut self, amount: u64, now: UnixSeconds) -> LimitKind {
        self.reserve(amount, now).unwrap_err().kind
    }
}

fn daily(limit: u64) -> Limits {
    Limits {
        daily: Some(wei(limit)),
        ..Limits::NONE
    }
}

#[test]
fn running_requests_hold_what_they_may_cost() {
    let mut books = Books::new(daily(100));
    books.reserve(60, NOON).unwrap();
    let refused = books.reserve(60, NOON).unwrap_err();
    assert!(refused.held_by_running);
    assert_eq!((refused.spent, refused.reserved), (wei(0), wei(60)));
    books.settle(60, 10, NOON);
    books.reserve(90, NOON).unwrap();
    let refused = books.reserve(91, NOON).unwrap_err();
    assert!(!refused.held_by_running);
    assert_eq!((refused.kind, refused.spent), (LimitKind::Day, wei(10)));
    assert_eq!(refused.needed, wei(91));
}

#[test]
fn what_will_not_be_signed_is_free_while_the_signature_is_made() {
    let mut books = Books::new(daily(100));
    books.reserve(100, NOON).unwrap();
    let place = books.place();
    assert!(!books.spending.may_owe(books.request));
    books.spending.signing(books.request);
    assert!(books.spending.may_owe(books.request));
    books.spending.narrow(&place, wei(100), wei(30));
    books.reserve(70, NOON).unwrap();
    assert!(books.reserve(1, NOON).is_err());
    books.settle(30, 30, NOON);
    books.settle(70, 0, NOON);
    books.reserve(70, NOON).unwrap();
}

#[test]
fn midnight_frees_the_daily_limit_and_not_the_total() {
    let mut books = Books::new(Limits {
        total: Some(wei(150)),
        ..daily(100)
    });
    books.spend(100, NOON);
    let refused = books.reserve(1, NOON).unwrap_err();
    assert_eq!(refused.kind, LimitKind::Day);
    assert_eq!(refused.resets_at, Some(NEXT_DAY));
    let refused = books.reserve(100, NEXT_DAY).unwrap_err();
    assert_eq!((refused.kind, refused.resets_at), (LimitKind::Total, None));
    books.reserve(50, NEXT_DAY).unwrap();
}

#[test]
fn a_request_that_costs_more_than_a_days_limit_waits_for_no_day() {
    let mut books = Books::new(daily(100));
    assert_eq!(books.reserve(101, NOON).unwrap_err().resets_at, None);
}

#[test]
fn a_job_signed_after_midnight_counts_for_the_new_day() {
    let mut books = Books::new(daily(100));
    books.reserve(80, NOON).unwrap();
    books.settle(80, 80, NEXT_DAY);
    assert!(books.reserve(21, NEXT_DAY).is_err());
    books.reserve(20, NEXT_DAY).unwrap();
}

#[test]
fn jobs_of_earlier_runs_count_by_their_day() {
    let mut books = Books::new(daily(100));
    let provider = books.provider;
    for (amount, day) in [(70, 9), (30, 10)] {
        let at = UnixSeconds(day * DAY);
        books.spending.remember(provider, wei(amount), at, NOON);
    }
    assert!(books.reserve(71, NOON).is_err());
    books.reserve(70, NOON).unwrap();
    assert_eq!(books.spending.all.total, wei(100));
}

#[test]
fn a_clock_that_is_set_back_brings_no_second_budget_also_after_a_restart() {
    let mut books = Books::new(daily(100));
    books.spend(100, NEXT_DAY);
    let refused = books.reserve(1, NOON).unwrap_err();
    assert_eq!(refused.resets_at, Some(UnixSeconds(12 * DAY)));
    books.reserve(0, NOON).unwrap();
    let mut after = Books::new(daily(100));
    let provider = after.provider;
    after.spending.remember(provider, wei(100), NEXT_DAY, NOON);
    assert!(after.reserve(1, NOON).is_err() && after.reserve(1, NEXT_DAY).is_err());
    after.reserve(100, UnixSeconds(12 * DAY)).unwrap();
}

#[test]
fn a_clock_that_was_wrong_for_a_moment_stops_nothing_for_ever() {
    let mut books = Books::new(daily(100));
    books.spend(40, UnixSeconds(5000 * DAY));
    books.reserve(60, NOON).unwrap();
}

#[test]
fn sums_beyond_all_numbers_are_over_any_limit_and_over_none() {
    for limits in [daily(100), Limits::NONE] {
        let mut books = Books::new(limits);
        books.reserve(100, NOON).unwrap();
        let place = books.place();
        let refused = books.spending.reserve(&place, Wei::MAX, NOON);
        assert!(refused.is_err(), "{limits:?}");
        books.settle(100, 0, NOON);
        assert_eq!(books.spending.all.reserved, Wei::ZERO);
    }
}

#[test]
fn each_limit_is_told_by_its_own_kind() {
    let only = |set: fn(&mut Limits)| {
        let mut limits = Limits::NONE;
        set(&mut limits);
        Books::new(limits)
    };
    assert_eq!(only(|l| l.job = Some(wei(5))).kind(6, NOON), LimitKind::Job);
    let mut books = only(|l| l.request = Some(wei(10)));
    books.spend(6, NOON);
    assert_eq!(books.kind(5, NOON), LimitKind::Request);
    books.request = books.spending.begin();
    books.spend(10, NOON);
    let mut books = only(|l| l.provider_daily = Some(wei(10)));
    books.spend(6, NOON);
    assert_eq!(books.kind(5, NOON), LimitKind::ProviderDay);
    books.provider = PeerId::random();
    books.spend(10, NOON);
    let mut books = only(|l| l.total = Some(wei(10)));
    books.spend(6, NOON);
    assert_eq!(books.kind(5, NEXT_DAY), LimitKind::Total);
}

#[test]
fn a_keys_limits_are_its_own_and_outlast_a_restart() {
    let limits = KeyLimits {
        request: Some(wei(50)),
        daily: Some(wei(60)),
        total: Some(wei(100)),
    };
    let mut books = Books::new(Limits::NONE);
    books.key = Some(limits);
    assert_eq!(books.kind(51, NOON), LimitKind::KeyRequest);
    books.spend(50, NOON);
    books.request = books.spending.begin();
    assert_eq!(books.kind(11, NOON), LimitKind::KeyDay);
    books.reserve(50, NEXT_DAY).unwrap();
    let mut after = Books::new(Limits::NONE);
    after.key = Some(limits);
    let mut days = Days::default();
    days.add(10, wei(30));
    after.spending.remember_key("k", wei(80), &days);
    assert_eq!(after.kind(21, NEXT_DAY), LimitKind::KeyTotal);
    after.reserve(20, NOON).unwrap();
    after.key = None;
    after.reserve(1000, NOON).unwrap();
}

#[test]
fn a_request_that_ended_leaves_nothing_behind() {
    let mut books = Books::new(Limits::NONE);
    books.spend(5, NOON);
    books.spending.end(books.request);
    assert!(books.spending.requests.is_empty());
}

#[test]
fn many_days_are_joined_and_none_is_lost() {
    let mut days = Days::default();
    for day in 0..100 {
        days.add(day, wei(1));
    }
    assert_eq!(days.iter().count(), MAX_DAYS);
    assert_eq!(days.since(0), wei(100));
    assert_eq!(days.since(95), wei(5));
}

/// What happens next in a history of requests.
#[derive(Clone, Copy, Debug)]
enum Step {
    Reserve {
        key: u8,
        provider: u8,
        request: u8,
        amount: u64,
    },
    /// One of those that run is signed for some percent of what was set aside.
    Sign {
        pick: usize,
        percent: u64,
    },
    Release {
        pick: usize,
    },
    /// Time passes, or the clock is set.
    Clock {
        seconds: i64,
    },
    /// The process ends, and another one reads the records.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..3, 0_u8..3, 0_u8..4, 0_u64..120).prop_map(|(key, provider, request, amount)| {
            Step::Reserve { key, provider, request, amount }
        }),
        4 => (0_usize..8, 0_u64..=100).prop_map(|(pick, percent)| Step::Sign { pick, percent }),
        2 => (0_usize..8).prop_map(|pick| Step::Release { pick }),
        2 => (-100_000_i64..100_000).prop_map(|seconds| Step::Clock { seconds }),
        1 => Just(Step::Crash),
    ]
}

#[derive(Clone, Copy)]
struct Running {
    key: u8,
    provider: u8,
    request: u8,
    amount: u64,
    since: UnixSeconds,
}

/// A signature, as the node's records and the key's file have it.
#[derive(Clone, Copy)]
struct Signed {
    run: Running,
    amount: u64,
    at: UnixSeconds,
    /// The run of the process: a request ends with it.
    life: usize,
}

const KEYS: [&str; 3] = ["", "a", "b"];

/// A history that is played, and what is known of it from outside.
struct History {
    books: Spending,
    limits: Limits,
    key_limits: KeyLimits,
    providers: [PeerId; 3],
    requests: Vec<RequestId>,
    running: Vec<Running>,
    signed: Vec<Signed>,
    now: UnixSeconds,
    life: usize,
}

impl History {
    fn new(limits: Limits, key_limits: KeyLimits) -> Self {
        let mut history = Self {
            books: Spending::new(limits),
            limits,
            key_limits,
            providers: std::array::from_fn(|_| PeerId::random()),
            requests: Vec::new(),
            running: Vec::new(),
            signed: Vec::new(),
            now: NOON,
            life: 0,
        };
        history.requests = (0..4).map(|_| history.books.begin()).collect();
        history
    }

    fn place(&self, run: Running) -> Place<'static> {
        let key = KEYS[usize::from(run.key)];
        Place {
            key: (!key.is_empty()).then_some((key, self.key_limits)),
            provider: self.providers[usize::from(run.provider)],
            request: self.requests[usize::from(run.request)],
        }
    }

    fn end(&mut self, pick: usize, percent: u64) {
        if pick >= self.running.len() {
            return;
        }
        let run = self.running.swap_remove(pick);
        let place = self.place(run);
        let (amount, at) = (run.amount * percent / 100, self.now.max(run.since));
        self.books.narrow(&place, wei(run.amount), wei(amount));
        self.books.settle(&place, wei(amount), wei(amount), at);
        let life = self.life;
        self.signed.push(Signed {
            run,
            amount,
            at,
            life,
        });
    }

    fn crash(&mut self) {
        let mut fresh = Self::new(self.limits, self.key_limits);
        for signed in &self.signed {
            let provider = self.providers[usize::from(signed.run.provider)];
            let (amount, at) = (wei(signed.amount), signed.at);
            fresh.books.remember(provider, amount, at, self.now);
            if signed.run.key > 0 {
                let mut days = Days::default();
                days.add(day_of(at), amount);
                let key = KEYS[usize::from(signed.run.key)];
                fresh.books.remember_key(key, amount, &days);
            }
        }
        self.books = fresh.books;
        self.requests = fresh.requests;
        self.running.clear();
        self.life += 1;
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Reserve {
                key,
                provider,
                request,
                amount,
            } => {
                let run = Running {
                    key,
                    provider,
                    request,
                    amount,
                    since: self.now,
                };
                let place = self.place(run);
                if self.books.reserve(&place, wei(amount), self.now).is_ok() {
                    self.running.push(run);
                }
            }
            Step::Sign { pick, percent } => self.end(pick, percent),
            Step::Release { pick } => self.end(pick, 0),
            Step::Clock { seconds } => {
                self.now = UnixSeconds(self.now.0.saturating_add_signed(seconds));
            }
            Step::Crash => self.crash(),
        }
    }

    fn sum(&self, of: impl Fn(&Signed) -> bool) -> Wei {
        let amounts = self.signed.iter().filter(|signed| of(signed));
        wei(amounts.map(|signed| signed.amount).sum())
    }

    /// No limit was broken, whatever the clock did.
    fn check(&self) {
        let within = |sum: Wei, limit: Option<Wei>| assert!(limit.is_none_or(|limit| sum <= limit));
        let limits = &self.limits;
        within(self.sum(|_| true), limits.total);
        for signed in &self.signed {
            let (run, day, life) = (signed.run, day_of(signed.at), signed.life);
            within(wei(signed.amount), limits.job);
            let same_day = |other: &Signed| day_of(other.at) == day;
            within(self.sum(same_day), limits.daily);
            let provider = |other: &Signed| same_day(other) && other.run.provider == run.provider;
            within(self.sum(provider), limits.provider_daily);
            let request = |other: &Signed| other.life == life && other.run.request == run.request;
            within(self.sum(request), limits.request);
            if run.key > 0 {
                let key = |other: &Signed| other.run.key == run.key;
                within(self.sum(key), self.key_limits.total);
                within(
                    self.sum(|other| key(other) && same_day(other)),
                    self.key_limits.daily,
                );
            }
        }
        let reserved = wei(self.running.iter().map(|run| run.amount).sum());
        assert_eq!(self.books.all.reserved, reserved);
    }
}

fn limit(most: u64) -> impl Strategy<Value = Option<Wei>> {
    proptest::option::weighted(0.8, (0..most).prop_map(wei))
}

proptest! {
    #[test]
    fn no_order_of_events_signs_more_than_a_limit(
        (request, job, provider_daily, daily, total) in
            (limit(150), limit(120), limit(300), limit(500), limit(1500)),
        (key_request, key_daily, key_total) in (limit(150), limit(300), limit(900)),
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let limits = Limits { request, job, provider_daily, daily, total };
        let key_limits = KeyLimits { request: key_request, daily: key_daily, total: key_total };
        let mut history = History::new(limits, key_limits);
        for step in steps {
            history.play(step);
            history.check();
        }
    }

    /// A day that comes later is never cheaper for having been in an earlier one again.
    #[test]
    fn a_clock_set_back_finds_the_days_budget_used(
        spent in proptest::collection::vec((1_u64..100, 0_u64..20), 1..40),
    ) {
        let mut books = Books::new(daily(100));
        let mut sums = BTreeMap::<u64, u64>::new();
        for (amount, day) in spent {
            let now = UnixSeconds((100 + day) * DAY);
            if books.reserve(amount, now).is_ok() {
                books.settle(amount, amount, now);
                *sums.entry(100 + day).or_default() += amount;
                let since: u64 = sums.range(100 + day..).map(|(_, sum)| *sum).sum();
                prop_assert!(since <= 100);
            }
        }
    }
}
