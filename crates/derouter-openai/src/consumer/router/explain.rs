//! What a client is told when no offer can serve its request: which rule was in the way, and how
//! to get past it.

use derouter_sdk::Wei;

use super::filter::dearest_input;
use super::{Candidate, Exclusion, Wanted};
use crate::consumer::error::ApiError;

/// Names that are compared with one that is not there.
const MOST_COMPARED: usize = 5000;

/// Bytes of a name up to which it is compared.
const MOST_COMPARED_BYTES: usize = 128;

/// Names that are proposed.
const MOST_PROPOSED: usize = 3;

/// How alike a name must be to be proposed, from 0 to 1.
const LEAST_ALIKE: f64 = 0.8;

/// Why none of a model's offers, of which there is at least one, can serve a request. The rule that
/// the closest of them breaks is told, with how many break which other one.
pub(crate) fn explain(
    candidates: &[Candidate],
    excluded: &[(usize, Exclusion)],
    wanted: &Wanted,
) -> ApiError {
    let model = &wanted.model;
    let count = plural(candidates.len(), "offer");
    let on_offer = format!("{model} is on offer ({count}), but");
    let Some(closest) = excluded.iter().map(|(_, exclusion)| exclusion).max() else {
        return ApiError::model_not_found(format!("No offer of {model} can serve this request."));
    };
    let of_kind = Of {
        candidates,
        excluded,
        name: closest.name(),
    };
    let mut error = of_kind.error(closest, &on_offer, wanted);
    if let Some(others) = others(excluded, closest.name()) {
        error.message.push_str(&others);
    }
    error
}

/// The candidates that break one rule.
struct Of<'a> {
    candidates: &'a [Candidate],
    excluded: &'a [(usize, Exclusion)],
    name: &'static str,
}

impl<'a> Of<'a> {
    fn each(&self) -> impl Iterator<Item = &'a Candidate> {
        let (candidates, name) = (self.candidates, self.name);
        let broken = self.excluded.iter();
        let broken = broken.filter(move |(_, exclusion)| exclusion.name() == name);
        broken.filter_map(move |(index, _)| candidates.get(*index))
    }

    fn error(&self, closest: &Exclusion, on_offer: &str, wanted: &Wanted) -> ApiError {
        let rules = &wanted.rules;
        match closest {
            Exclusion::Model => {
                ApiError::model_not_found(format!("{} is not on offer.", wanted.model))
            }
            Exclusion::Endpoint | Exclusion::Modality(_) | Exclusion::Feature(_) => {
                unable(closest, on_offer, wanted)
            }
            Exclusion::SmallContext => {
                let largest = self.each().map(|it| it.terms.context).max();
                ApiError::model_not_found(format!(
                    "{on_offer} the largest context window has {} tokens and minContextSize asks for {}.",
                    largest.unwrap_or(0),
                    rules.min_context_size.unwrap_or(0)
                ))
            }
            Exclusion::LongPrompt => {
                let longest = self.each().map(|it| it.terms.context).max();
                ApiError::context_too_long(format!(
                    "{on_offer} the prompt is at least {} tokens long and the largest context window that the rules allow has {}.",
                    wanted.least_prompt_tokens,
                    longest.unwrap_or(0)
                ))
            }
            Exclusion::InputPrice => {
                let cheapest = self.each().map(|it| dearest_input(&it.terms.prices)).min();
                let words = ("input", "maxInputPrice");
                price_error(on_offer, words, cheapest, rules.cap.input)
            }
            Exclusion::OutputPrice => {
                let prices = self.each().map(|it| it.terms.prices.output.of_million());
                let words = ("output", "maxOutputPrice");
                price_error(on_offer, words, prices.min(), rules.cap.output)
            }
            Exclusion::OtherPrice => ApiError::price_limit(format!(
                "{on_offer} its price of a request, an image or a second is over the cap of {} POL (maxRequestPrice of the server). Raise it to buy.",
                rules.most_for_one.to_pol_text()
            )),
            Exclusion::MaxPrice(what) => ApiError::price_limit(format!(
                "{on_offer} its {what} price is over the max_price of this request."
            )),
            Exclusion::Unreachable => ApiError::unavailable(
                "no_provider",
                format!(
                    "{on_offer} this node keeps its providers out (`derouter peers` says why)."
                ),
            ),
            Exclusion::Slow | Exclusion::Late => ApiError::unavailable(
                "no_provider",
                format!(
                    "{on_offer} its providers were measured to miss this request's {}.",
                    self.name
                ),
            ),
            Exclusion::Denied | Exclusion::NotAllowed => ApiError::model_not_found(format!(
                "{on_offer} {} of the gateway's configuration leaves none of its providers.",
                self.name
            )),
            Exclusion::Ignored
            | Exclusion::NotOnly
            | Exclusion::NotInOrder
            | Exclusion::Quantization
            | Exclusion::Fallback => ApiError::model_not_found(format!(
                "{on_offer} {} of this request leaves none of its offers.",
                self.name
            )),
        }
    }
}

fn unable(closest: &Exclusion, on_offer: &str, wanted: &Wanted) -> ApiError {
    let lacking = match closest {
        Exclusion::Modality(modality) => format!("reads {modality} input"),
        Exclusion::Feature(feature) => format!("can do {feature}, which this request asks for"),
        _ => format!("serves {}", wanted.endpoint),
    };
    ApiError::unsupported(format!("{on_offer} none of its offers {lacking}."))
}

/// How many offers other rules leave out.
fn others(excluded: &[(usize, Exclusion)], told: &str) -> Option<String> {
    let mut counts: Vec<(&'static str, usize)> = Vec::new();
    for name in excluded.iter().map(|(_, exclusion)| exclusion.name()) {
        match counts.iter_mut().find(|(own, _)| *own == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    counts.retain(|(name, _)| *name != told);
    let each = counts
        .iter()
        .map(|(name, count)| format!("{count} by {name}"));
    let each: Vec<String> = each.collect();
    (!each.is_empty()).then(|| format!(" Others are left out: {}.", each.join(", ")))
}

fn price_error(
    on_offer: &str,
    (direction, rule): (&str, &str),
    cheapest: Option<Wei>,
    cap: Wei,
) -> ApiError {
    ApiError::price_limit(format!(
        "{on_offer} its {direction} price, from {} POL per 1M tokens, is over the cap of {} POL ({rule} of the model, or of the server). Raise it to buy.",
        cheapest.unwrap_or(Wei::MAX).to_pol_text(),
        cap.to_pol_text()
    ))
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}

/// The names that are most like one that is not there.
pub(crate) fn near_names<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    if wanted.len() > MOST_COMPARED_BYTES {
        return Vec::new();
    }
    let plain = |name: &str| name.to_lowercase();
    let (whole, own) = (plain(wanted), plain(last_part(wanted)));
    let alike = |name: &'a str| {
        let alike = strsim::normalized_levenshtein(&whole, &plain(name));
        let parts = strsim::normalized_levenshtein(&own, &plain(last_part(name)));
        (alike.max(parts), name)
    };
    let short = |name: &&str| name.len() <= MOST_COMPARED_BYTES;
    let mut near: Vec<(f64, &str)> = names
        .take(MOST_COMPARED)
        .filter(short)
        .map(alike)
        .filter(|(alike, _)| *alike >= LEAST_ALIKE)
        .collect();
    near.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    near.truncate(MOST_PROPOSED);
    near.into_iter().map(|(_, name)| name).collect()
}

/// A model's name without who made it: `llama-3` of `meta/llama-3`.
fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_nearly_right_are_proposed() {
        let there = ["llama-3.1-8b", "meta/llama-3.2", "gpt-oss-120b", "Qwen3"];
        let near = |wanted| near_names(wanted, there.into_iter());
        assert_eq!(near("llama-3.2"), ["meta/llama-3.2"]);
        assert_eq!(near("qwen3"), ["Qwen3"]);
        assert_eq!(near("gpt-oss-12b"), ["gpt-oss-120b"]);
        assert_eq!(near("claude"), [""; 0]);
        assert_eq!(near(&"x".repeat(1000)), [""; 0]);
    }
}
