//! Charts as SVG, drawn here. Colours are the stylesheet's, by classes; each chart has its numbers as a
//! table besides, for those who can't see it.

use maud::{Markup, html};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 160.0;
const FLOOR: f64 = 22.0;

/// A day of a chart: its name, and two amounts.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) first: f64,
    pub(crate) second: f64,
}

fn number(value: f64) -> String {
    format!("{value:.1}")
}

#[expect(clippy::cast_precision_loss, reason = "a few dozen bars")]
fn real(count: usize) -> f64 {
    count as f64
}

/// Bars, two for each name.
pub(crate) fn bars(label: &str, bars: &[Bar]) -> Markup {
    let most = bars.iter().map(|bar| bar.first.max(bar.second));
    let most = most.fold(f64::MIN_POSITIVE, f64::max);
    let step = WIDTH / real(bars.len().max(1));
    let wide = (step * 0.36).min(24.0);
    let tall = |value: f64| (value / most) * (HEIGHT - FLOOR - 8.0);
    let every = bars.len().div_ceil(6).max(1);
    html! {
        svg.chart viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(label) {
            line.axis x1="0" x2=(number(WIDTH)) y1=(number(HEIGHT - FLOOR)) y2=(number(HEIGHT - FLOOR)) {}
            @for (place, bar) in bars.iter().enumerate() {
                @let middle = step * (real(place) + 0.5);
                @for (class, value, x) in [("first", bar.first, middle - wide), ("second", bar.second, middle)] {
                    @let high = tall(value);
                    @if value > 0.0 {
                        rect class=(class) x=(number(x)) y=(number(HEIGHT - FLOOR - high.max(1.0)))
                            width=(number(wide)) height=(number(high.max(1.0))) rx="1.5" {}
                    }
                }
                @if place % every == 0 {
                    text x=(number(middle)) y=(number(HEIGHT - 6.0)) text-anchor="middle" { (bar.name) }
                }
            }
        }
    }
}

/// Two lines of values, oldest first, each over its own highest one. Who draws it says what it is.
pub(crate) fn lines(first: &[f64], second: &[f64]) -> Markup {
    let line = |values: &[f64]| {
        let most = values.iter().copied().fold(1.0, f64::max);
        let step = WIDTH / real(values.len().saturating_sub(1).max(1));
        let at = |(place, value): (usize, &f64)| {
            let y = (1.0 - value / most) * (HEIGHT - FLOOR - 8.0) + 8.0;
            format!("{},{}", number(real(place) * step), number(y))
        };
        let points: Vec<String> = values.iter().enumerate().map(at).collect();
        points.join(" ")
    };
    html! {
        svg.chart viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) aria-hidden="true" {
            line.axis x1="0" x2=(number(WIDTH)) y1=(number(HEIGHT - FLOOR)) y2=(number(HEIGHT - FLOOR)) {}
            polyline.line.first points=(line(first)) {}
            polyline.line.second points=(line(second)) {}
        }
    }
}

/// A small line of values, oldest first.
pub(crate) fn spark(label: &str, values: &[f64]) -> Markup {
    const WIDE: f64 = 120.0;
    const HIGH: f64 = 28.0;
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    let least = values.iter().copied().fold(f64::MAX, f64::min);
    let span = (most - least).max(f64::MIN_POSITIVE);
    let step = WIDE / real(values.len().saturating_sub(1).max(1));
    let flat = values.len() < 2 || most <= least;
    let at = |(place, value): (usize, &f64)| {
        let y = match flat {
            true => HIGH / 2.0,
            false => HIGH - 3.0 - (value - least) / span * (HIGH - 6.0),
        };
        format!("{},{}", number(real(place) * step), number(y))
    };
    let mut points: Vec<String> = values.iter().enumerate().map(at).collect();
    if let [only] = points.as_slice() {
        let y = only.split_once(',').map_or("0", |(_, y)| y).to_owned();
        points.push(format!("{},{y}", number(WIDE)));
    }
    html! {
        svg.spark viewBox=(format!("0 0 {WIDE} {HIGH}")) role="img" aria-label=(label) {
            polyline points=(points.join(" ")) {}
        }
    }
}

/// How much of something is used, 0 to 1.
pub(crate) fn meter(label: &str, share: f64) -> Markup {
    let share = share.clamp(0.0, 1.0);
    let class = if share >= 0.9 { "meter full" } else { "meter" };
    html! {
        svg class=(class) viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label=(label) {
            rect.track x="0" y="0" width="100" height="6" rx="3" {}
            rect.used x="0" y="0" width=(number(share * 100.0)) height="6" rx="3" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_of_nothing_one_and_strange_values_are_drawn() {
        let bar = |first| Bar {
            name: "<b>".into(),
            first,
            second: 0.0,
        };
        let drawn = bars("x", &[bar(0.0), bar(3.0)]).into_string();
        assert!(drawn.contains("&lt;b&gt;") && !drawn.contains("<b>"));
        for values in [&[][..], &[1.0], &[2.0, 2.0], &[1.0, 5.0, 3.0]] {
            let drawn = spark("x", values).into_string();
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        }
        assert!(!bars("x", &[]).into_string().contains("NaN"));
        for values in [&[][..], &[0.0], &[0.0, 0.0], &[1.0, 5.0, 3.0]] {
            let drawn = lines(values, values).into_string();
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        }
        assert!(meter("x", f64::INFINITY).into_string().contains("100.0"));
    }
}
