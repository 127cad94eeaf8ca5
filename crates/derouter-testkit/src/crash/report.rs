//! What runs came to, as a table.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ledgers::Findings;
use super::run::Ran;

/// The heading of the rows.
pub fn heading() -> String {
    format!(
        "{:>8}  {:<52} {:>7} {:>5} {:>5} {:>6}  what both ledgers say",
        "seed", "what ended, and when", "reached", "quiet", "jobs", "s"
    )
}

fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn counts(verdicts: &BTreeMap<String, usize>) -> String {
    let counts = verdicts
        .iter()
        .map(|(name, count)| format!("{name} {count}"));
    counts.collect::<Vec<_>>().join(", ")
}

/// A run as a row; with violations, what repeats it.
pub fn row(ran: &Ran, repeat: &str) -> String {
    let mut row = format!(
        "{:>8}  {:<52} {:>7} {:>5} {:>5} {:>6.1}  {}",
        ran.seed,
        ran.title,
        yes(ran.reached),
        yes(ran.quiet),
        ran.findings.jobs(),
        ran.took.as_secs_f64(),
        counts(&ran.findings.verdicts),
    );
    for violation in &ran.findings.violations {
        let first = violation.lines().next().unwrap_or_default();
        row.push_str(&format!("\n          VIOLATION: {first}"));
    }
    if let Some(kept) = &ran.kept {
        row.push_str(&format!("\n          files: {}", kept.display()));
    }
    if !ran.findings.violations.is_empty() {
        row.push_str(&format!("\n          again: {repeat}"));
    }
    row
}

/// All runs together.
#[derive(Debug, Default)]
pub struct Total {
    runs: usize,
    reached: usize,
    quiet: usize,
    findings: Findings,
    /// The seeds of runs with violations.
    pub bad: Vec<u64>,
}

impl Total {
    /// Counts a run.
    pub fn add(&mut self, ran: &Ran) {
        self.runs += 1;
        self.reached += usize::from(ran.reached);
        self.quiet += usize::from(ran.quiet);
        self.findings.add(&ran.findings);
        if !ran.findings.violations.is_empty() {
            self.bad.push(ran.seed);
        }
    }

    /// In a few lines.
    pub fn text(&self, took: Duration) -> String {
        let mut text = format!(
            "{} runs in {:.0} s: {} ended where they were to, {} came to rest, {} had violations\n\
             {} jobs:\n",
            self.runs,
            took.as_secs_f64(),
            self.reached,
            self.quiet,
            self.bad.len(),
            self.findings.jobs()
        );
        for (name, count) in &self.findings.verdicts {
            text.push_str(&format!("  {name:<36} {count:>7}\n"));
        }
        text
    }
}
