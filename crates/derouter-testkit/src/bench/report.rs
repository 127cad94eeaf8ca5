//! Figures and the table.

use std::fmt::Write;
use std::time::Duration;

use super::load::{Batch, Shape};

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The backend itself.
    Direct,
    /// Two plain reverse proxies in a row.
    Proxies,
    /// A consumer node and a provider node.
    Nodes,
}

impl Route {
    /// In the order of the table.
    pub const ALL: [Route; 3] = [Route::Direct, Route::Proxies, Route::Nodes];

    fn name(self) -> &'static str {
        match self {
            Route::Direct => "direct",
            Route::Proxies => "two proxies",
            Route::Nodes => "two nodes",
        }
    }
}

/// One row: a route's figures for one shape and concurrency.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// The median time of a whole answer, in ms.
    pub p50_ms: f64,
    /// The 99th percentile of it, in ms.
    pub p99_ms: f64,
    /// The median time to the first byte, in ms.
    pub first_byte_ms: f64,
    /// Good answers per second.
    pub per_second: f64,
    /// Good answers.
    pub good: usize,
    /// Failed requests.
    pub failed: usize,
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// The value below which `share` per cent of the sorted values lie (nearest rank).
fn percentile(sorted: &[f64], share: usize) -> f64 {
    let rank = (sorted.len() * share).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

impl Figures {
    /// The figures of a batch.
    pub fn of(batch: &Batch) -> Self {
        let mut whole: Vec<f64> = batch.times.iter().map(|times| ms(times.whole)).collect();
        let mut first: Vec<f64> = batch
            .times
            .iter()
            .map(|times| ms(times.first_byte))
            .collect();
        whole.sort_by(f64::total_cmp);
        first.sort_by(f64::total_cmp);
        let good = u32::try_from(batch.times.len()).unwrap_or(u32::MAX);
        Self {
            p50_ms: percentile(&whole, 50),
            p99_ms: percentile(&whole, 99),
            first_byte_ms: percentile(&first, 50),
            per_second: f64::from(good) / batch.elapsed.as_secs_f64(),
            good: batch.times.len(),
            failed: batch.failed,
        }
    }
}

/// The rows of one shape and concurrency, one for each route.
#[derive(Clone, Debug)]
pub struct Section {
    /// What was asked for.
    pub shape: Shape,
    /// How many at a time.
    pub concurrency: usize,
    /// In the order of [`Route::ALL`].
    pub figures: [Figures; 3],
}

impl Section {
    /// What the nodes add to the direct median, as a multiple of what the proxies add.
    pub fn added_ratio(&self) -> f64 {
        let [direct, proxies, nodes] = self.figures;
        (nodes.p50_ms - direct.p50_ms) / (proxies.p50_ms - direct.p50_ms)
    }
}

/// The table of all sections.
pub fn table(sections: &[Section]) -> String {
    let mut text = String::from(concat!(
        "shape     conc  route          p50 ms   p99 ms  ttfb ms    req/s",
        "   x direct  added ms  x proxies' added  failed\n"
    ));
    for section in sections {
        let [direct, proxies, _] = section.figures;
        let proxies_added = proxies.p50_ms - direct.p50_ms;
        for (route, row) in Route::ALL.iter().zip(&section.figures) {
            let added = row.p50_ms - direct.p50_ms;
            let _ = writeln!(
                text,
                "{:<9} {:>4}  {:<11} {:>9.2} {:>8.2} {:>8.2} {:>8.0} {:>9.2}x {:>9.2} {:>16.2}x {:>3}/{}",
                section.shape.name(),
                section.concurrency,
                route.name(),
                row.p50_ms,
                row.p99_ms,
                row.first_byte_ms,
                row.per_second,
                row.p50_ms / direct.p50_ms,
                added,
                added / proxies_added,
                row.failed,
                row.good + row.failed,
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::load::Times;
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(
            percentile(&values, 50).total_cmp(&100.0),
            std::cmp::Ordering::Equal
        );
        assert_eq!(
            percentile(&values, 99).total_cmp(&198.0),
            std::cmp::Ordering::Equal
        );
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn what_nodes_add_is_told_as_a_multiple_of_what_proxies_add() {
        let batch = |whole_ms| Batch {
            times: vec![Times {
                first_byte: Duration::from_millis(1),
                whole: Duration::from_millis(whole_ms),
            }],
            elapsed: Duration::from_secs(1),
            ..Batch::default()
        };
        let figures = [10, 12, 16].map(|whole_ms| Figures::of(&batch(whole_ms)));
        let section = Section {
            shape: Shape::Plain,
            concurrency: 1,
            figures,
        };
        assert!((section.added_ratio() - 3.0).abs() < 1e-9);
        assert!(table(&[section]).contains("3.00x"));
    }
}
