//! Rounds, medians, and the tables.

use std::fmt::Write;
use std::time::Duration;

use super::client::Client;
use super::transfer::Window;
use super::{Direction, ROUTES, Route};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How often the routes take turns.
    pub rounds: usize,
    /// For each transfer.
    pub window: Window,
    /// Streams opened for their time, each route and round.
    pub opens: usize,
}

/// Above the lines of the cells.
const TRANSFERS: &str =
    "streams  way   route              Mbit/s (median)   of raw   core ms/MB   all rounds";

const SHAPES: [(usize, Direction); 4] = [
    (1, Direction::Up),
    (1, Direction::Down),
    (64, Direction::Up),
    (64, Direction::Down),
];

/// A cell of the table: how many streams which way on which route, and its rounds.
#[derive(Clone, Debug)]
struct Cell {
    streams: usize,
    direction: Direction,
    /// In the order of [`Route::ALL`], bytes a second.
    rounds: [Vec<f64>; ROUTES],
    /// In the same order, what both processes computed for a byte, in seconds of one core.
    costs: [Vec<f64>; ROUTES],
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    cells: Vec<Cell>,
    opens: [Vec<Duration>; ROUTES],
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The value below which `share` per cent of the sorted values lie (nearest rank), in ms.
fn percentile_ms(sorted: &[Duration], share: usize) -> f64 {
    let rank = (sorted.len() * share).div_ceil(100).max(1);
    let value = sorted.get(rank - 1).copied().unwrap_or_default();
    value.as_secs_f64() * 1_000.0
}

/// Measures everything, and tells each part of the tables once it is measured. The routes take turns,
/// each time in another order, so that what else the machine does meets them alike.
pub async fn measure(client: &Client, plan: Plan, tell: impl Fn(&str)) -> Measured {
    tell(TRANSFERS);
    let mut cells = Vec::new();
    for (streams, direction) in SHAPES {
        let cell = measure_cell(client, plan, streams, direction).await;
        tell(cell.lines().trim_end());
        cells.push(cell);
    }
    let opens = measure_opens(client, plan).await;
    let measured = Measured { cells, opens };
    tell(&measured.opening());
    measured
}

async fn measure_cell(client: &Client, plan: Plan, streams: usize, direction: Direction) -> Cell {
    let mut rounds = [const { Vec::new() }; ROUTES];
    let mut costs = [const { Vec::new() }; ROUTES];
    for round in 0..plan.rounds {
        for turn in 0..Route::ALL.len() {
            let index = (round + turn) % Route::ALL.len();
            let route = Route::ALL[index];
            let moved = client.throughput(route, direction, streams, plan.window);
            let moved = moved.await;
            rounds[index].push(moved.rate);
            costs[index].push(moved.cost);
        }
    }
    Cell {
        streams,
        direction,
        rounds,
        costs,
    }
}

async fn measure_opens(client: &Client, plan: Plan) -> [Vec<Duration>; ROUTES] {
    let mut opens = [const { Vec::new() }; ROUTES];
    for round in 0..plan.rounds {
        for turn in 0..Route::ALL.len() {
            let index = (round + turn) % Route::ALL.len();
            let times = client.open_times(Route::ALL[index], plan.opens);
            opens[index].extend(times.await);
        }
    }
    for times in &mut opens {
        times.sort_unstable();
    }
    opens
}

impl Measured {
    /// The smallest share of raw TCP that a route reaches, over all cells; from 0.
    pub fn least_share(&self, route: Route) -> f64 {
        let index = Route::ALL.iter().position(|known| *known == route);
        let shares = self.cells.iter().map(|cell| {
            let raw = median(&cell.rounds[0]);
            index.map_or(f64::NAN, |index| median(&cell.rounds[index]) / raw)
        });
        shares.fold(f64::INFINITY, f64::min)
    }

    /// The median time to open a stream, in ms.
    pub fn open_p50_ms(&self, route: Route) -> f64 {
        let index = Route::ALL.iter().position(|known| *known == route);
        index.map_or(f64::NAN, |index| percentile_ms(&self.opens[index], 50))
    }

    fn opening(&self) -> String {
        let mut text = String::from("\nopening          p50 ms   p99 ms   opened\n");
        for (route, times) in Route::ALL.iter().zip(&self.opens) {
            let _ = writeln!(
                text,
                "{:<16} {:>7.3}  {:>7.3}   {}",
                route.name(),
                percentile_ms(times, 50),
                percentile_ms(times, 99),
                times.len()
            );
        }
        text
    }
}

impl Cell {
    fn lines(&self) -> String {
        let mut text = String::new();
        let raw = median(&self.rounds[0]);
        let way = match self.direction {
            Direction::Up => "up",
            Direction::Down => "down",
        };
        for (index, route) in Route::ALL.iter().enumerate() {
            let rounds = &self.rounds[index];
            let rate = median(rounds);
            let all: Vec<String> = rounds.iter().map(|rate| megabits(*rate)).collect();
            let _ = writeln!(
                text,
                "{:>7}  {way:<4}  {:<17}  {:>15}  {:>6.1}%   {:>10.3}   {}",
                self.streams,
                route.name(),
                megabits(rate),
                rate / raw * 100.0,
                median(&self.costs[index]) * 1e9,
                all.join(" ")
            );
        }
        text
    }
}

fn megabits(bytes_per_second: f64) -> String {
    format!("{:.0}", bytes_per_second * 8.0 / 1_000_000.0)
}
