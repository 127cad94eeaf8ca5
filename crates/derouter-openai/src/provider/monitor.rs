//! Looks after one backend: probes it, and knows its health and its models.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use derouter_sdk::UnixSeconds;
use futures::StreamExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::backend::Backend;
use super::config::{BackendCheck, BackendOptions, DEFAULT_DISCOVERED, Discover};
use super::health::{Health, Verdict};
use super::keeper::unix_now;
use super::models::{self, ModelInfo};

/// How long the start waits for the first look: offers of a backend that is not there should not be seen at
/// all, and one that is slow should not hold up a node.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// The same where the offers are what the backend names.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// Models whose context window is asked for at a time.
const ASKED_AT_ONCE: usize = 4;

/// Models that are named to the operator.
const SHOWN_MODELS: usize = 8;

/// Models that are named to whoever looks at it.
const MOST_NAMED: usize = 200;

/// A backend under observation.
pub(super) struct Monitor {
    pub(super) backend: Arc<Backend>,
    check: BackendCheck,
    pub(super) discover: Option<Discover>,
    state: Mutex<State>,
    /// A job wants it probed.
    asked: Notify,
    /// Something changed that offers may depend on.
    changed: Arc<Notify>,
}

struct State {
    health: Health,
    /// The latest list, when the backend has one.
    models: Option<Vec<ModelInfo>>,
    /// Their names.
    names: HashSet<String>,
    /// The windows of the models that may become offers.
    contexts: HashMap<String, Option<u64>>,
    /// When it was looked at last.
    probed_at: Option<UnixSeconds>,
    /// Why it did not answer then.
    error: Option<String>,
}

/// How a backend is, for whoever looks at it.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) up: bool,
    pub(super) full: bool,
    pub(super) probed_at: Option<UnixSeconds>,
    pub(super) error: Option<String>,
    /// The models that it names, when it has a list.
    pub(super) models: Option<Vec<String>>,
}

/// A model that becomes an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) model: String,
    pub(super) context_size: u64,
}

impl Monitor {
    pub(super) fn new(
        backend: Arc<Backend>,
        options: &BackendOptions,
        changed: Arc<Notify>,
    ) -> Self {
        let discover = options.discover.clone();
        // What it names has to be known for that.
        let check = match discover {
            Some(_) => BackendCheck::Models,
            None => options.check,
        };
        Self {
            backend,
            check,
            discover,
            state: Mutex::new(State {
                health: Health::new(Instant::now()),
                models: None,
                names: HashSet::new(),
                contexts: HashMap::new(),
                probed_at: None,
                error: None,
            }),
            asked: Notify::new(),
            changed,
        }
    }

    /// Looks for the first time, for as long as a start may wait.
    pub(super) async fn look_first(&self) {
        if self.check == BackendCheck::Off {
            return;
        }
        let limit = match self.discover {
            Some(_) => FIRST_LIST,
            None => FIRST_LOOK,
        };
        // One that does not answer in time is looked at again soon.
        let _ = timeout(limit, self.look()).await;
    }

    /// Looks whenever it is due, for ever.
    pub(super) async fn run(self: Arc<Self>) {
        if self.check == BackendCheck::Off {
            return;
        }
        loop {
            let next = self.lock().health.next_probe();
            tokio::select! {
                () = sleep_until(next) => self.look().await,
                // It may be due earlier now.
                () = self.asked.notified() => {}
            }
        }
    }

    /// A job has ended.
    pub(super) fn job_ended(&self, verdict: Verdict) {
        let now = Instant::now();
        let mut state = self.lock();
        let was_full = state.health.is_full(now);
        state.health.job_ended(verdict, now);
        if state.health.is_full(now) != was_full {
            self.changed.notify_one();
        }
        if state.health.next_probe() <= now {
            self.asked.notify_one();
        }
    }

    /// How it is.
    pub(super) fn condition(&self) -> Condition {
        let (up, full) = (self.is_up(), self.is_full());
        let state = self.lock();
        let names = |models: &Vec<ModelInfo>| {
            let names = models.iter().take(MOST_NAMED);
            names.map(|model| model.id.clone()).collect()
        };
        Condition {
            up,
            full,
            probed_at: state.probed_at,
            error: state.error.clone(),
            models: state.models.as_ref().map(names),
        }
    }

    /// What it is looked at for.
    pub(super) fn check(&self) -> BackendCheck {
        self.check
    }

    /// Whether the backend is there.
    pub(super) fn is_up(&self) -> bool {
        self.check == BackendCheck::Off || self.lock().health.is_up()
    }

    /// Whether it says that it has too many requests.
    pub(super) fn is_full(&self) -> bool {
        self.check != BackendCheck::Off && self.lock().health.is_full(Instant::now())
    }

    /// Whether it has a model, as far as it says.
    pub(super) fn has(&self, model: &str) -> bool {
        let state = self.lock();
        match &state.models {
            Some(_) if self.check == BackendCheck::Models => models::has(&state.names, model),
            _ => true,
        }
    }

    /// What it names, for the operator.
    pub(super) fn named(&self) -> String {
        let state = self.lock();
        let models = state.models.iter().flatten();
        let names: Vec<&str> = models
            .take(SHOWN_MODELS)
            .map(|model| model.id.as_str())
            .collect();
        if names.is_empty() {
            return "none".to_owned();
        }
        names.join(", ")
    }

    /// The models that are to be offers; `None` while that is not known.
    pub(super) fn found(&self) -> Option<Vec<Found>> {
        let discover = self.discover.as_ref()?;
        let state = self.lock();
        let models = state.models.as_ref()?;
        let found = models.iter().filter_map(|model| {
            let told = state.contexts.get(&model.id).copied().flatten();
            Some(Found {
                model: model.id.clone(),
                context_size: told.or(discover.context_size)?,
            })
        });
        Some(found.take(most(discover)).collect())
    }

    async fn look(&self) {
        let probed = self.backend.probe().await;
        let listed = match &probed {
            Ok(Some(models)) => self.contexts(models).await,
            _ => HashMap::new(),
        };
        let (before, after) = {
            let mut state = self.lock();
            let before = state.health.is_up();
            let jitter = rand::random_range(0.0..1.0);
            state.health.probed(probed.is_ok(), Instant::now(), jitter);
            state.probed_at = Some(unix_now());
            state.error = probed.as_ref().err().cloned();
            if let Ok(models) = &probed {
                let names = models.iter().flatten().map(|model| model.id.clone());
                state.names = names.collect();
                state.models.clone_from(models);
                state.contexts = listed;
            }
            (before, state.health.is_up())
        };
        self.tell(before, after, probed.err());
        self.changed.notify_one();
    }

    fn tell(&self, before: bool, after: bool, error: Option<String>) {
        let backend = self.backend.shown();
        match (before, after, error) {
            (true, false, Some(error)) => tracing::warn!(
                backend,
                error,
                "the backend can't be used: its offers are not on the market until it is started, or openai_base_url corrected"
            ),
            (false, true, _) => tracing::info!(backend, "the backend is there again"),
            (_, _, Some(error)) => tracing::debug!(backend, error, "a probe failed"),
            _ => {}
        }
    }

    /// The windows of the models that may become offers; asked for once, while they are listed.
    async fn contexts(&self, models: &[ModelInfo]) -> HashMap<String, Option<u64>> {
        let Some(discover) = &self.discover else {
            return HashMap::new();
        };
        let known = self.lock().contexts.clone();
        let asked: Vec<_> = models
            .iter()
            .take(most(discover))
            .map(|model| {
                let known = known.get(&model.id).copied().flatten();
                self.context(model, known)
            })
            .collect();
        futures::stream::iter(asked)
            .buffered(ASKED_AT_ONCE)
            .collect()
            .await
    }

    async fn context(&self, model: &ModelInfo, known: Option<u64>) -> (String, Option<u64>) {
        let context = match known {
            Some(context) => Some(context),
            None => self.backend.context_of(model).await,
        };
        if context.is_none() {
            tracing::debug!(
                model = model.id,
                "the backend does not tell the model's context window"
            );
        }
        (model.id.clone(), context)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn most(discover: &Discover) -> usize {
    let most = discover.max_offers.unwrap_or(DEFAULT_DISCOVERED);
    usize::try_from(most).unwrap_or(usize::MAX)
}
