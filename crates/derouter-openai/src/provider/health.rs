//! Whether a backend can be sold from, by what probes and jobs say of it. Pure.
//!
//! - A backend that is up is probed every 15 s. One failed probe is followed by another a second later, and
//!   the second one in a row takes it down.
//! - One that is down is probed after 1 s, 2 s, and so on up to 60 s.
//! - Three jobs in a row that it fails have it probed at once. Jobs alone never take it down: a consumer may
//!   have found a request that makes it fail.
//! - The first time it is up again at once. Each further time within ten minutes it has to answer for twice
//!   as long first (10 s, 20 s, up to 5 minutes), so that one that comes and goes does not churn the market.
//! - Three jobs in a row that it refuses for too many requests (429) make it full: for 30 s, and twice
//!   as long each time up to 5 minutes, until a job succeeds.

use std::time::Duration;

use tokio::time::Instant;

/// Between two probes while it is up.
const EVERY: Duration = Duration::from_secs(15);

/// The first pause of one that fails, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Failed probes in a row that take it down.
const FAILED_PROBES: u32 = 2;

/// Failed or refused jobs in a row that mean something.
const FAILED_JOBS: u32 = 3;

/// Between two probes that jobs ask for.
const FORCED_EVERY: Duration = Duration::from_secs(1);

/// How long it has to answer before it is up the second time, doubled each time.
const FIRST_TRUST: Duration = Duration::from_secs(10);

/// The longest.
const LONGEST_TRUST: Duration = Duration::from_secs(300);

/// How long it has to be up for its earlier falls to be forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// How long it is full, the first time.
const FIRST_FULL: Duration = Duration::from_secs(30);

/// The longest.
const LONGEST_FULL: Duration = Duration::from_secs(300);

/// What a job says of its backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answered, or the job's end was not its fault.
    Well,
    /// Nothing: the request may be to blame.
    #[default]
    Nothing,
    /// It could not be reached, or failed.
    Failing,
    /// It has too many requests.
    Full,
}

/// A backend's health.
#[derive(Clone, Debug)]
pub(super) struct Health {
    state: State,
    /// When to probe next.
    next: Instant,
    failed_jobs: u32,
    /// When a job last asked for a probe.
    forced: Option<Instant>,
    /// Falls that are not forgotten.
    falls: u32,
    refused_jobs: u32,
    full: Option<Full>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing is known yet.
    New,
    Up {
        since: Instant,
        failed: u32,
    },
    Down {
        pause: Duration,
        /// Since when it answers.
        answers_since: Option<Instant>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Full {
    until: Instant,
    pause: Duration,
}

impl Health {
    /// To be probed at once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::New,
            next: now,
            failed_jobs: 0,
            forced: None,
            falls: 0,
            refused_jobs: 0,
            full: None,
        }
    }

    /// When to probe next.
    pub(super) fn next_probe(&self) -> Instant {
        self.next
    }

    /// Whether it answers. One of which nothing is known yet is taken to.
    pub(super) fn is_up(&self) -> bool {
        !matches!(self.state, State::Down { .. })
    }

    /// Whether it has no room for more.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.full.is_some_and(|full| now < full.until)
    }

    /// A probe has ended. `jitter` is from 0 to 1.
    pub(super) fn probed(&mut self, answered: bool, now: Instant, jitter: f64) {
        match (self.state, answered) {
            (State::New, true) => self.rise(now, jitter),
            (State::New, false) => self.fall(now, jitter),
            (State::Up { since, failed }, false) => {
                let failed = failed.saturating_add(1);
                if failed >= FAILED_PROBES {
                    self.fall(now, jitter);
                } else {
                    self.state = State::Up { since, failed };
                    self.next = now + FIRST_PAUSE.mul_f64(spread(jitter));
                }
            }
            (State::Up { since, .. }, true) => {
                self.failed_jobs = 0;
                self.state = State::Up { since, failed: 0 };
                self.next = now + EVERY.mul_f64(spread(jitter));
            }
            (State::Down { pause, .. }, false) => {
                let pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                self.state = State::Down {
                    pause,
                    answers_since: None,
                };
                self.next = now + pause.mul_f64(spread(jitter));
            }
            (State::Down { answers_since, .. }, true) => {
                let since = answers_since.unwrap_or(now);
                let trusted_at = since + self.trust();
                if now >= trusted_at {
                    return self.rise(now, jitter);
                }
                self.state = State::Down {
                    pause: FIRST_PAUSE,
                    answers_since: Some(since),
                };
                // Often enough to see it fall meanwhile, and at the end.
                let wait = EVERY.min(trusted_at.duration_since(now));
                self.next = now + wait.max(FIRST_PAUSE);
            }
        }
    }

    /// A job has ended.
    pub(super) fn job_ended(&mut self, verdict: Verdict, now: Instant) {
        match verdict {
            Verdict::Well => {
                (self.failed_jobs, self.refused_jobs, self.full) = (0, 0, None);
            }
            Verdict::Nothing => {}
            Verdict::Failing => {
                self.failed_jobs = self.failed_jobs.saturating_add(1);
                let lately = self.forced.is_some_and(|at| now < at + FORCED_EVERY);
                if self.failed_jobs >= FAILED_JOBS && self.is_up() && !lately {
                    self.forced = Some(now);
                    self.next = self.next.min(now);
                }
            }
            Verdict::Full => {
                self.refused_jobs = self.refused_jobs.saturating_add(1);
                if self.refused_jobs >= FAILED_JOBS && !self.is_full(now) {
                    let longer = |full: Full| full.pause.saturating_mul(2).min(LONGEST_FULL);
                    let pause = self.full.map_or(FIRST_FULL, longer);
                    let until = now + pause;
                    self.full = Some(Full { until, pause });
                    self.refused_jobs = 0;
                }
            }
        }
    }

    fn rise(&mut self, now: Instant, jitter: f64) {
        self.failed_jobs = 0;
        self.state = State::Up {
            since: now,
            failed: 0,
        };
        self.next = now + EVERY.mul_f64(spread(jitter));
    }

    fn fall(&mut self, now: Instant, jitter: f64) {
        if let State::Up { since, .. } = self.state {
            if now.duration_since(since) >= FORGIVEN_AFTER {
                self.falls = 0;
            }
            self.falls = self.falls.saturating_add(1);
        }
        self.state = State::Down {
            pause: FIRST_PAUSE,
            answers_since: None,
        };
        self.next = now + FIRST_PAUSE.mul_f64(spread(jitter));
    }

    /// How long it has to answer before it is up.
    fn trust(&self) -> Duration {
        match self.falls {
            0 | 1 => Duration::ZERO,
            falls => FIRST_TRUST
                .saturating_mul(2_u32.saturating_pow(falls.saturating_sub(2)))
                .min(LONGEST_TRUST),
        }
    }
}

/// A tenth earlier to a tenth later.
fn spread(jitter: f64) -> f64 {
    0.9 + 0.2 * jitter.clamp(0.0, 1.0)
}

/// A yes or no that changes only after it was otherwise for a while. The first word counts at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady {
    to_no: Duration,
    to_yes: Duration,
    now: Option<bool>,
    /// Since when it is otherwise.
    otherwise: Option<Instant>,
}

impl Steady {
    /// How long it has to be no before it is, and how long yes.
    pub(super) fn new(to_no: Duration, to_yes: Duration) -> Self {
        Self {
            to_no,
            to_yes,
            now: None,
            otherwise: None,
        }
    }

    /// Takes a look at it. What counts.
    pub(super) fn see(&mut self, seen: bool, at: Instant) -> bool {
        let now = *self.now.get_or_insert(seen);
        if seen == now {
            self.otherwise = None;
            return now;
        }
        let since = *self.otherwise.get_or_insert(at);
        let needed = if seen { self.to_yes } else { self.to_no };
        if at.saturating_duration_since(since) >= needed {
            self.now = Some(seen);
            self.otherwise = None;
            return seen;
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Probes for a while, each time when it is due. How often it went up or down.
    fn run(
        health: &mut Health,
        from: Instant,
        length: Duration,
        up: impl Fn(Duration) -> bool,
    ) -> u32 {
        let mut changes = 0;
        while health.next_probe() < from + length {
            let (now, before) = (health.next_probe(), health.is_up());
            health.probed(up(now.duration_since(from)), now, 0.5);
            changes += u32::from(health.is_up() != before);
        }
        changes
    }

    #[test]
    fn a_backend_that_is_there_is_probed_every_quarter_of_a_minute() {
        let now = Instant::now();
        let mut health = Health::new(now);
        assert_eq!(health.next_probe(), now);
        for (jitter, seconds) in [(0.0, 13.5), (0.5, 15.0), (1.0, 16.5)] {
            health.probed(true, now, jitter);
            let pause = health.next_probe().duration_since(now).as_secs_f64();
            assert!((pause - seconds).abs() < 1e-6, "{pause}");
        }
    }

    #[test]
    fn one_lost_probe_changes_nothing_and_two_do() {
        let now = Instant::now();
        let mut health = Health::new(now);
        health.probed(true, now, 0.5);
        health.probed(false, now, 0.5);
        assert!(health.is_up());
        assert_eq!(health.next_probe(), now + FIRST_PAUSE);
        health.probed(true, now, 0.5);
        health.probed(false, now, 0.5);
        assert!(health.is_up());
        health.probed(false, now, 0.5);
        assert!(!health.is_up());
    }

    #[test]
    fn a_backend_that_is_not_there_at_the_start_is_down_at_once_and_up_as_soon_as_it_comes() {
        let now = Instant::now();
        let mut health = Health::new(now);
        health.probed(false, now, 0.5);
        assert!(!health.is_up());
        health.probed(true, now, 0.5);
        assert!(health.is_up());
    }

    #[test]
    fn pauses_grow_to_a_minute_while_it_is_down() {
        let now = Instant::now();
        let mut health = Health::new(now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            health.probed(false, now, 0.5);
            pauses.push(health.next_probe().duration_since(now).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn failed_jobs_have_it_probed_at_once_but_never_take_it_down() {
        let now = Instant::now();
        let mut health = Health::new(now);
        health.probed(true, now, 0.5);
        for _ in 0..2 {
            health.job_ended(Verdict::Failing, now);
        }
        health.job_ended(Verdict::Well, now);
        for _ in 0..2 {
            health.job_ended(Verdict::Failing, now);
        }
        health.job_ended(Verdict::Nothing, now);
        assert!(health.next_probe() > now);
        health.job_ended(Verdict::Failing, now);
        assert_eq!(health.next_probe(), now);
        health.probed(true, now, 0.5);
        for _ in 0..100 {
            health.job_ended(Verdict::Failing, now);
        }
        assert!(health.is_up());
        assert!(health.next_probe() > now, "not more than one a second");
    }

    #[test]
    fn too_many_requests_in_a_row_make_it_full_for_a_while() {
        let now = Instant::now();
        let mut health = Health::new(now);
        let refuse = |health: &mut Health, at| {
            for _ in 0..3 {
                health.job_ended(Verdict::Full, at);
            }
        };
        refuse(&mut health, now);
        assert!(health.is_full(now) && health.is_up());
        let later = now + FIRST_FULL;
        assert!(!health.is_full(later));
        refuse(&mut health, later);
        assert!(health.is_full(later + FIRST_FULL), "twice as long");
        health.job_ended(Verdict::Well, later + FIRST_FULL);
        assert!(!health.is_full(later + FIRST_FULL));
    }

    #[test]
    fn one_that_comes_and_goes_is_trusted_later_and_later() {
        let now = Instant::now();
        let mut health = Health::new(now);
        health.probed(true, now, 0.5);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let mut at = health.next_probe();
            while health.is_up() {
                at = health.next_probe();
                health.probed(false, at, 0.5);
            }
            let fell = at;
            while !health.is_up() {
                at = health.next_probe();
                health.probed(true, at, 0.5);
            }
            waits.push(at.duration_since(fell).as_secs());
        }
        assert_eq!(waits, [1, 11, 21, 41, 81, 161, 301, 301]);
        // Ten good minutes make up for it.
        let good = health.next_probe();
        run(&mut health, good, Duration::from_secs(700), |_| true);
        while health.is_up() {
            let at = health.next_probe();
            health.probed(false, at, 0.5);
        }
        let at = health.next_probe();
        health.probed(true, at, 0.5);
        assert!(health.is_up());
    }

    #[test]
    fn steady_words_take_their_time() {
        let second = Duration::from_secs(1);
        let mut steady = Steady::new(3 * second, second);
        let now = Instant::now();
        assert!(steady.see(true, now));
        assert!(steady.see(false, now) && steady.see(false, now + 2 * second));
        assert!(steady.see(true, now + 2 * second));
        assert!(steady.see(false, now + 3 * second) && !steady.see(false, now + 6 * second));
        assert!(!steady.see(true, now + 6 * second) && steady.see(true, now + 7 * second));
        assert!(!Steady::new(second, second).see(false, now));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn however_it_flaps_the_market_changes_seldom(
            lengths in prop::collection::vec(1_u64..120, 1..64)
        ) {
            let now = Instant::now();
            let mut health = Health::new(now);
            let cycle: u64 = lengths.iter().sum();
            let up = |at: Duration| {
                let mut left = at.as_secs() % cycle;
                for (index, length) in lengths.iter().enumerate() {
                    if left < *length {
                        return index % 2 == 0;
                    }
                    left -= length;
                }
                true
            };
            let changes = run(&mut health, now, Duration::from_secs(3_600), up);
            prop_assert!(changes <= 40, "{changes}");
        }
    }
}
