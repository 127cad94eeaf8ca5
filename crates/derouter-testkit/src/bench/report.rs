//! Figures, the table, and the aims.

use std::fmt::Write;
use std::time::Duration;

use super::load::{Batch, Shape};

/// What nodes may add to the median of a plain answer at concurrency 1, as a multiple of what two proxies
/// add.
const ADDED_LIMIT: f64 = 3.0;

/// How much later than through two proxies the first byte of a stream may come, in ms.
const FIRST_BYTE_LIMIT_MS: f64 = 0.5;

/// How much later than through two proxies a chunk of a paced stream may come, in ms.
const LATE_LIMIT_MS: f64 = 0.2;

/// Requests a second at [`BUSY`], as a share of those through two proxies.
const RATE_LIMIT: f64 = 0.5;

/// The concurrency at which rates are compared.
pub const BUSY: usize = 16;

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The backend itself.
    Direct,
    /// A plain reverse proxy.
    Proxy,
    /// Two plain reverse proxies in a row.
    Proxies,
    /// nginx.
    Nginx,
    /// LiteLLM's proxy.
    LiteLlm,
    /// A consumer node and a provider node.
    Nodes,
}

impl Route {
    /// In the order of the table.
    pub const ALL: [Route; 6] = [
        Route::Direct,
        Route::Proxy,
        Route::Proxies,
        Route::Nginx,
        Route::LiteLlm,
        Route::Nodes,
    ];

    fn name(self) -> &'static str {
        match self {
            Route::Direct => "direct",
            Route::Proxy => "one proxy",
            Route::Proxies => "two proxies",
            Route::Nginx => "nginx",
            Route::LiteLlm => "LiteLLM",
            Route::Nodes => "two nodes",
        }
    }

    /// Whether it is ours to answer for.
    pub fn is_ours(self) -> bool {
        self != Route::LiteLlm
    }

    /// How many of `requests` it is asked: LiteLLM takes its time, and no aim is about it.
    pub fn share_of(self, requests: usize) -> usize {
        match self {
            Route::LiteLlm => requests.div_ceil(10),
            _ => requests,
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
    /// How late chunks came at the median, in ms; NaN where that is not measured.
    pub late_ms: f64,
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

fn sorted(times: impl Iterator<Item = Duration>) -> Vec<f64> {
    let mut all: Vec<f64> = times.map(ms).collect();
    all.sort_by(f64::total_cmp);
    all
}

impl Figures {
    /// The figures of a batch.
    pub fn of(batch: &Batch) -> Self {
        let whole = sorted(batch.times.iter().map(|times| times.whole));
        let first = sorted(batch.times.iter().map(|times| times.first_byte));
        let late = sorted(batch.late.iter().copied());
        let good = u32::try_from(batch.times.len()).unwrap_or(u32::MAX);
        Self {
            p50_ms: percentile(&whole, 50),
            p99_ms: percentile(&whole, 99),
            first_byte_ms: percentile(&first, 50),
            late_ms: percentile(&late, 50),
            per_second: f64::from(good) / batch.elapsed.as_secs_f64(),
            good: batch.times.len(),
            failed: batch.failed,
        }
    }
}

/// The rows of one shape and concurrency, one for each route that was taken.
#[derive(Clone, Debug)]
pub struct Section {
    /// What was asked for.
    pub shape: Shape,
    /// How many at a time.
    pub concurrency: usize,
    /// In the order of [`Route::ALL`].
    pub figures: Vec<(Route, Figures)>,
}

impl Section {
    fn of(&self, route: Route) -> Option<Figures> {
        let mut rows = self.figures.iter().filter(|(taken, _)| *taken == route);
        rows.next().map(|(_, figures)| *figures)
    }

    /// The nodes' figure over that of two proxies; NaN when one of them is not there.
    fn over_proxies(&self, figure: impl Fn(Figures) -> f64) -> f64 {
        let both = self.of(Route::Nodes).zip(self.of(Route::Proxies));
        both.map_or(f64::NAN, |(nodes, proxies)| figure(nodes) - figure(proxies))
    }

    /// What the nodes add to the direct median, as a multiple of what two proxies add.
    pub fn added_ratio(&self) -> f64 {
        let [direct, proxies, nodes] = [Route::Direct, Route::Proxies, Route::Nodes]
            .map(|route| self.of(route).map_or(f64::NAN, |figures| figures.p50_ms));
        (nodes - direct) / (proxies - direct)
    }

    /// The nodes' requests a second, as a share of those through two proxies.
    pub fn rate_share(&self) -> f64 {
        let rate = |route| {
            self.of(route)
                .map_or(f64::NAN, |figures| figures.per_second)
        };
        rate(Route::Nodes) / rate(Route::Proxies)
    }

    /// Failed requests of the routes that are ours to answer for.
    pub fn failed(&self) -> usize {
        let ours = self.figures.iter().filter(|(route, _)| route.is_ours());
        ours.map(|(_, figures)| figures.failed).sum()
    }
}

/// An aim of the gateway, against two plain proxies in the same run.
#[derive(Clone, Debug)]
pub struct Aim {
    /// What is to be.
    pub what: String,
    /// What is.
    pub measured: String,
    /// Whether it is so.
    pub met: bool,
}

/// The aims that sections tell something of.
pub fn aims(sections: &[Section]) -> Vec<Aim> {
    sections.iter().filter_map(aim).collect()
}

fn aim(section: &Section) -> Option<Aim> {
    let shape = section.shape.name();
    let (what, measured, met) = match (section.shape, section.concurrency) {
        (Shape::Plain, 1) => {
            let ratio = section.added_ratio();
            let what =
                format!("plain, 1 at once: adds at most {ADDED_LIMIT}x what two proxies add (p50)");
            (what, format!("{ratio:.2}x"), ratio <= ADDED_LIMIT)
        }
        (Shape::Streamed, 1) => {
            let later = section.over_proxies(|figures| figures.first_byte_ms);
            let what = format!(
                "streamed, 1 at once: first byte at most {FIRST_BYTE_LIMIT_MS} ms later (p50)"
            );
            (
                what,
                format!("{later:+.2} ms"),
                later <= FIRST_BYTE_LIMIT_MS,
            )
        }
        (Shape::Paced, 1) => {
            let later = section.over_proxies(|figures| figures.late_ms);
            let what =
                format!("paced, 1 at once: each chunk at most {LATE_LIMIT_MS} ms later (p50)");
            (what, format!("{later:+.3} ms"), later <= LATE_LIMIT_MS)
        }
        (Shape::Plain | Shape::Streamed, BUSY) => {
            let share = section.rate_share();
            let what =
                format!("{shape}, {BUSY} at once: at least {RATE_LIMIT} of the requests a second");
            (what, format!("{share:.2}"), share >= RATE_LIMIT)
        }
        _ => return None,
    };
    Some(Aim {
        what,
        measured,
        met,
    })
}

fn or_dash(value: f64, digits: usize) -> String {
    match value.is_finite() {
        true => format!("{value:.digits$}"),
        false => "-".to_owned(),
    }
}

/// The table of all sections.
pub fn table(sections: &[Section]) -> String {
    let mut text = String::from(concat!(
        "shape     conc  route          p50 ms   p99 ms  ttfb ms  chunk ms    req/s",
        "  added ms  x two proxies'  failed\n"
    ));
    for section in sections {
        let of = |route| section.of(route).map_or(f64::NAN, |figures| figures.p50_ms);
        let direct = of(Route::Direct);
        for (route, row) in &section.figures {
            let added = row.p50_ms - direct;
            let _ = writeln!(
                text,
                "{:<9} {:>4}  {:<11} {:>9.2} {:>8.2} {:>8.2} {:>9} {:>8.0} {:>9.2} {:>15} {:>4}/{}",
                section.shape.name(),
                section.concurrency,
                route.name(),
                row.p50_ms,
                row.p99_ms,
                row.first_byte_ms,
                or_dash(row.late_ms, 3),
                row.per_second,
                added,
                or_dash(added / (of(Route::Proxies) - direct), 2),
                row.failed,
                row.good + row.failed,
            );
        }
    }
    text
}

/// The aims as a table.
pub fn aims_table(aims: &[Aim]) -> String {
    let mut text = String::from(
        "aim, against two plain proxies in this run                             measured\n",
    );
    for aim in aims {
        let verdict = if aim.met { "met" } else { "MISSED" };
        let _ = writeln!(text, "{:<70} {:>9}  {verdict}", aim.what, aim.measured);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::load::Times;
    use super::*;

    fn batch(whole_ms: u64, first_ms: u64) -> Batch {
        Batch {
            times: vec![Times {
                first_byte: Duration::from_millis(first_ms),
                whole: Duration::from_millis(whole_ms),
            }],
            late: vec![Duration::from_millis(first_ms)],
            elapsed: Duration::from_millis(whole_ms),
            ..Batch::default()
        }
    }

    fn section(shape: Shape, concurrency: usize, figures: &[(Route, u64, u64)]) -> Section {
        let figures = figures.iter();
        let figures =
            figures.map(|(route, whole, first)| (*route, Figures::of(&batch(*whole, *first))));
        Section {
            shape,
            concurrency,
            figures: figures.collect(),
        }
    }

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
        let rows = [
            (Route::Direct, 10, 1),
            (Route::Proxies, 12, 1),
            (Route::Nodes, 16, 1),
        ];
        let section = section(Shape::Plain, 1, &rows);
        assert!((section.added_ratio() - 3.0).abs() < 1e-9);
        assert!(table(&[section]).contains("3.00"));
    }

    #[test]
    fn each_aim_is_met_or_missed() {
        let rows = |nodes, first| {
            [
                (Route::Direct, 10, 1),
                (Route::Proxies, 12, 1),
                (Route::Nodes, nodes, first),
            ]
        };
        let met = |shape, concurrency, nodes, first| {
            let section = section(shape, concurrency, &rows(nodes, first));
            let aims = aims(&[section]);
            aims.first().map(|aim| aim.met)
        };
        assert_eq!(met(Shape::Plain, 1, 16, 1), Some(true));
        assert_eq!(met(Shape::Plain, 1, 17, 1), Some(false));
        assert_eq!(met(Shape::Streamed, 1, 100, 1), Some(true));
        assert_eq!(met(Shape::Streamed, 1, 12, 2), Some(false));
        assert_eq!(met(Shape::Paced, 1, 100, 1), Some(true));
        assert_eq!(met(Shape::Paced, 1, 12, 2), Some(false));
        assert_eq!(met(Shape::Streamed, BUSY, 24, 9), Some(true));
        assert_eq!(met(Shape::Plain, BUSY, 25, 9), Some(false));
        assert_eq!(met(Shape::Plain, 64, 99, 9), None);
        let missing = section(Shape::Plain, 1, &[(Route::Direct, 1, 1)]);
        assert!(aims(&[missing]).iter().all(|aim| !aim.met));
    }
}
