//! Offers and models as people read them. Pure.

use std::fmt::Write as _;

use derouter_openai::consumer::view::{ModelView, OfferView, SpreadView};
use derouter_sdk::UnixSeconds;

use super::end_of;
use crate::table::Table;
use crate::text::{age, cut, day_and_time, now, short_amount, wrapped};

/// A share as percent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

/// Seconds, short.
fn seconds(spread: Option<SpreadView>) -> String {
    spread.map_or_else(|| "-".into(), |spread| format!("{:.2}s", spread.p50))
}

fn speed(spread: Option<SpreadView>) -> String {
    spread.map_or_else(|| "-".into(), |spread| format!("{:.0}", spread.p50))
}

/// One line for each offer. `!` is before those that may not be bought.
pub(crate) fn list(offers: &[OfferView], total: usize, width: usize, full: bool) -> String {
    if offers.is_empty() {
        return "no such offer is on the market".to_owned();
    }
    let mut table = Table::new(&[
        " MODEL", "PROVIDER", ">IN", ">OUT", ">CONTEXT", ">FIRST", ">TOK/S", ">OK", "PATH", "OFFER",
    ]);
    for offer in offers {
        let model = offer.models.first().map_or("", String::as_str);
        let seen = offer.observed.as_ref();
        let tried = seen.filter(|seen| seen.tried > 0.0);
        table.row(vec![
            format!(
                "{}{}",
                if offer.buyable { ' ' } else { '!' },
                if full {
                    model.to_owned()
                } else {
                    cut(model, 20)
                }
            ),
            match full {
                true => offer.provider.clone(),
                false => end_of(&offer.provider).to_owned(),
            },
            short_amount(&offer.prices.input),
            short_amount(&offer.prices.output),
            offer.context.to_string(),
            seconds(seen.and_then(|seen| seen.first_token_seconds)),
            speed(seen.and_then(|seen| seen.tokens_per_second)),
            tried.map_or_else(|| "-".into(), |seen| percent(seen.success)),
            offer.path.kind.clone(),
            offer.offer.clone(),
        ]);
    }
    let mut text = table.text(width);
    if total > offers.len() {
        let _ = write!(text, "\n{} of {total}; --limit shows more", offers.len());
    }
    if offers.iter().any(|offer| !offer.buyable) {
        text.push_str("\n! may not be bought here: `derouter offers show` says why");
    }
    text
}

/// All about one offer.
pub(crate) fn detail(offer: &OfferView, at: UnixSeconds, width: usize) -> String {
    let mut lines = format!("Offer           {}", offer.offer);
    let mut line = |label: &str, value: &str| {
        let _ = write!(lines, "\n{label:<14}  {value}");
    };
    line("Provider", &offer.provider);
    line("Models", &offer.models.join(", "));
    line("Protocol", &offer.protocol);
    line("Endpoints", &offer.endpoints.join(", "));
    let output = offer
        .max_output
        .map_or_else(String::new, |most| format!(", answers of up to {most}"));
    line("Context", &format!("{} tokens{output}", offer.context));
    line("Reads", &offer.input_modalities.join(", "));
    let features = offer.features.as_ref();
    line(
        "Features",
        &features.map_or_else(|| "it does not say".into(), |list| list.join(", ")),
    );
    line(
        "Weights",
        offer.quantization.as_deref().unwrap_or("it does not say"),
    );
    prices(offer, &mut line);
    if let Some(region) = &offer.region {
        line("Region", region);
    }
    if let Some(url) = &offer.terms_url {
        line("Terms", url);
    }
    observed(offer, at, &mut line);
    match &offer.excluded {
        Some(why) => line("May be bought", &format!("no: {} ({})", why.text, why.rule)),
        None if offer.observed.is_some() => line("May be bought", "yes"),
        None => {}
    }
    if let Some(description) = &offer.description {
        let wrapped = wrapped(description, "  ");
        let text: Vec<String> = wrapped.lines().map(|it| cut(it, width)).collect();
        let _ = write!(lines, "\n\n{}", text.join("\n"));
    }
    lines
}

fn prices(offer: &OfferView, line: &mut impl FnMut(&str, &str)) {
    let prices = &offer.prices;
    line(
        "Price",
        &format!(
            "{} POL for 1,000,000 tokens of the prompt, {} of the answer",
            prices.input, prices.output
        ),
    );
    if let Some(cached) = &prices.cached_input {
        line("", &format!("{cached} of the prompt that was cached"));
    }
    for (price, what) in [
        (&prices.request, "a request"),
        (&prices.image, "an image"),
        (&prices.second, "a second of sound"),
    ] {
        if price != "0" {
            line("", &format!("{price} POL for {what}"));
        }
    }
    if let Some(trial) = &offer.trial {
        line("Trial", &format!("{trial} POL for nothing"));
    }
}

fn observed(offer: &OfferView, at: UnixSeconds, line: &mut impl FnMut(&str, &str)) {
    let rtt = offer.path.rtt_us.map_or_else(String::new, |rtt| {
        format!(", {}", crate::text::round_trip(rtt))
    });
    line("Path", &format!("{}{rtt}", offer.path.kind));
    if let Some(seen) = offer.last_seen {
        line("Last heard", &format!("{} ago", age(seen, at)));
    }
    let Some(seen) = &offer.observed else {
        line("Measured", "no OpenAI endpoint was asked");
        return;
    };
    let of = |spread: Option<SpreadView>, unit: &str| {
        spread.map_or_else(
            || "not yet".to_owned(),
            |spread| {
                format!(
                    "{:.2} {unit} (median), {:.2} (p90), of {}",
                    spread.p50, spread.p90, spread.samples
                )
            },
        )
    };
    line("First token", &of(seen.first_token_seconds, "s"));
    line("Speed", &of(seen.tokens_per_second, "tokens/s"));
    let success = format!("{} of some {:.0}", percent(seen.success), seen.tried);
    let none = "nothing asked yet".to_owned();
    line(
        "Good answers",
        if seen.tried > 0.0 { &success } else { &none },
    );
    line("Uptime", &percent(seen.uptime));
    if seen.in_flight > 0 {
        line("Running", &format!("{} of our requests", seen.in_flight));
    }
    if let Some(left) = seen.cooldown_seconds {
        line("Cooldown", &format!("{left:.0} s: it failed just now"));
    }
}

/// One line of a watch.
pub(crate) fn event(what: &str, offer: &OfferView) -> String {
    format!(
        "{}  {what:<7}  {}/{}  {}  {} / {} POL",
        day_and_time(now().0),
        end_of(&offer.provider),
        offer.offer,
        offer.models.first().map_or("", String::as_str),
        offer.prices.input,
        offer.prices.output,
    )
}

/// One line for each model.
pub(crate) fn models(models: &[ModelView], width: usize) -> String {
    let mut table = Table::new(&[
        " MODEL", ">OFFERS", ">PEERS", ">IN FROM", ">OUT", ">CONTEXT", ">FIRST", ">TOK/S",
        "FEATURES",
    ]);
    for model in models {
        let features: Vec<&str> = model.features.iter().map(String::as_str).collect();
        let first = model.first_token_seconds;
        let speed = model.tokens_per_second;
        table.row(vec![
            format!(
                "{}{}",
                if model.buyable > 0 { ' ' } else { '!' },
                cut(&model.model, 28)
            ),
            model.offers.to_string(),
            model.providers.to_string(),
            short_amount(&model.cheapest.input),
            short_amount(&model.cheapest.output),
            model.context.to_string(),
            first.map_or_else(|| "-".into(), |it| format!("{it:.2}s")),
            speed.map_or_else(|| "-".into(), |it| format!("{it:.0}")),
            features.join(","),
        ]);
    }
    table.text(width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_fits_the_terminal_and_marks_what_may_not_be_bought() {
        let offer = OfferView {
            provider: "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp".into(),
            offer: "an-offer-with-a-rather-long-name".into(),
            models: vec!["an-organisation/a-model-with-a-long-name".into()],
            ..OfferView::default()
        };
        let text = list(std::slice::from_ref(&offer), 3, 80, false);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(text.contains("!an-organisation/a-.."));
        assert!(text.contains("1 of 3") && text.contains("c6iDEp"));
        let wide = list(std::slice::from_ref(&offer), 1, usize::MAX, true);
        assert!(wide.contains(&offer.provider) && wide.contains(&offer.models[0]));
    }
}
