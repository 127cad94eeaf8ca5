//! Both databases of a run, read while their nodes run, and what they say together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use derouter_sdk::{JobId, PeerId, RowId, Wei};
use derouter_store::limits::PAGE_ROWS;
use derouter_store::market::Role;
use derouter_store::market::job::{Job, JobState, SignatureState};
use derouter_store::{JobPage, Store};
use tempfile::TempDir;

use super::explain::{Verdict, explain, signature_of};
use super::trade::{Told, noted};

/// The node's database, and the log that belongs to it.
const FILES: [&str; 2] = ["derouter.sqlite", "derouter.sqlite-wal"];

/// The jobs of one node, and what it says that is owed to it.
#[derive(Debug)]
pub struct Ledger {
    jobs: BTreeMap<JobId, Job>,
    debts: Vec<(PeerId, Wei)>,
    /// The same job twice, which the schema rules out.
    doubles: usize,
}

impl Ledger {
    /// Reads a copy of the database in a directory: the node may be at work. An error when the copy was
    /// taken in the middle of something; to be tried again.
    pub async fn read(data: &Path, role: Role) -> Result<Self, String> {
        let copy = TempDir::with_prefix("derouter-ledger-").map_err(|error| error.to_string())?;
        // The database first: what moves from the log into it meanwhile is in both, never in none.
        for file in FILES {
            let (from, to) = (data.join(file), copy.path().join(file));
            match fs::copy(&from, &to) {
                Ok(_) => {}
                Err(error) if file.ends_with("-wal") && !from.exists() => drop(error),
                Err(error) => return Err(format!("{}: {error}", from.display())),
            }
        }
        let path = copy.path().join(FILES[0]);
        let opened = tokio::task::spawn_blocking(move || Store::open(&path)).await;
        let store = opened
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        let read = Self::of(&store, role).await;
        let _ = store.close().await;
        read
    }

    async fn of(store: &Store, role: Role) -> Result<Self, String> {
        let mut ledger = Self {
            jobs: BTreeMap::new(),
            debts: Vec::new(),
            doubles: 0,
        };
        let mut after: Option<RowId> = None;
        loop {
            let page = JobPage {
                after,
                limit: PAGE_ROWS,
                ..JobPage::default()
            };
            let rows = store.jobs_page(page).await.map_err(|e| e.to_string())?;
            let Some(last) = rows.last() else { break };
            after = Some(last.row_id);
            for job in rows.into_iter().filter(|job| job.role == role) {
                let before = ledger.jobs.insert(job.key.job_id.clone(), job);
                ledger.doubles += usize::from(before.is_some());
            }
        }
        ledger.debts = store.unsigned_debts().await.map_err(|e| e.to_string())?;
        Ok(ledger)
    }

    /// Whether nothing is to happen to it any more: no job is open, and nobody is to be told anything.
    pub fn is_quiet(&self) -> bool {
        self.jobs
            .values()
            .all(|job| !job.is_open() && !job.has_news())
    }

    /// What is owed by the rows, and what the node makes of them.
    fn debts_differ(&self) -> bool {
        let mut sums = HashMap::<PeerId, Wei>::new();
        for job in self.jobs.values() {
            if let Some(debt) = job.unsigned_debt() {
                let sum = sums.entry(job.consumer).or_default();
                *sum = sum.saturating_add(debt);
            }
        }
        sums != self.debts.iter().copied().collect()
    }
}

/// What became of the jobs of a run.
#[derive(Debug, Default)]
pub struct Findings {
    /// How often each verdict came.
    pub verdicts: BTreeMap<String, usize>,
    /// What must not be, in words.
    pub violations: Vec<String>,
}

impl Findings {
    /// How many jobs there were.
    pub fn jobs(&self) -> usize {
        self.verdicts.values().sum()
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Findings) {
        for (verdict, count) in &other.verdicts {
            *self.verdicts.entry(verdict.clone()).or_default() += count;
        }
        self.violations.extend(other.violations.iter().cloned());
    }

    fn violation(&mut self, text: String) {
        self.violations.push(text);
    }
}

/// Compares both ledgers with each other, and with what the modules were told.
pub fn compare(consumer: &Ledger, provider: &Ledger, told: &Told) -> Findings {
    let mut findings = Findings::default();
    let ids: BTreeSet<&JobId> = consumer.jobs.keys().chain(provider.jobs.keys()).collect();
    for id in ids {
        let (bought, sold) = (consumer.jobs.get(id), provider.jobs.get(id));
        let verdict = explain(bought, sold);
        *findings.verdicts.entry(verdict.name()).or_default() += 1;
        if let Verdict::Violation(violation) = verdict {
            let text = format!("{violation:?}: consumer {bought:#?}, provider {sold:#?}");
            findings.violation(text);
        }
    }
    for (name, ledger) in [("consumer", consumer), ("provider", provider)] {
        if ledger.doubles > 0 {
            findings.violation(format!("the {name} has {} jobs twice", ledger.doubles));
        }
        if ledger.debts_differ() {
            findings.violation(format!("the {name}'s debts are not the sum of its jobs"));
        }
    }
    compare_told(consumer, provider, told, &mut findings);
    findings
}

fn compare_told(consumer: &Ledger, provider: &Ledger, told: &Told, findings: &mut Findings) {
    let mut check = |what: &str, ids, good: &dyn Fn(&JobId) -> bool| {
        let ids: std::collections::HashSet<JobId> = ids;
        for id in ids.iter().filter(|id| !good(id)) {
            let (bought, sold) = (consumer.jobs.get(id), provider.jobs.get(id));
            let text = format!("a module was told that a job is {what}: {bought:#?}, {sold:#?}");
            findings.violation(text);
        }
    };
    let state = |ledger: &Ledger, id: &JobId| ledger.jobs.get(id).map(|job| job.state.clone());
    check("signed", noted(&told.signed), &|id| {
        consumer.jobs.get(id).and_then(signature_of).is_some()
    });
    check("completed", noted(&told.completed), &|id| {
        matches!(state(provider, id), Some(JobState::Completed { .. }))
    });
    check("given up", noted(&told.given_up), &|id| {
        matches!(state(consumer, id), Some(JobState::Failed(_)))
    });
    let confirmed = |ledger: &Ledger, id: &JobId| {
        let state = state(ledger, id);
        matches!(
            state,
            Some(JobState::Completed {
                signature: SignatureState::Confirmed { .. },
                ..
            })
        )
    };
    check("confirmed", noted(&told.confirmed), &|id| {
        confirmed(consumer, id) && confirmed(provider, id)
    });
    // The consumer may not have heard of it yet.
    check("signed by its consumer", noted(&told.received), &|id| {
        consumer.jobs.get(id).and_then(signature_of).is_some() && confirmed(provider, id)
    });
}
