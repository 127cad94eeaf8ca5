//! `GET /derouter/quote`: which offers a request would be sent to, what it would cost at each, and
//! why. Nothing is bought.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::choosing::{offers_of, rank};
use super::error::ApiError;
use super::gateway::Gateway;
use super::models::pricing;
use super::quality::Estimate;
use super::router::preferences::FIELDS_OF_QUERY;
use super::router::{Candidate, Exclusion, Needs, Preferences, Wanted, Weights, Why};
use crate::terms::{Endpoint, Metered};

/// Offers that are told in full, of those that fit and of those that do not.
const MOST_TOLD: usize = 100;

/// Tokens of prompt and answer when the question does not say: those of a short chat.
const USUAL_INPUT: u64 = 1000;
const USUAL_OUTPUT: u64 = 500;

/// Bytes of a question.
const MOST_QUERY_BYTES: usize = 8192;

/// Features that a question may name.
const FEATURES: [&str; 4] = ["tools", "json_schema", "logprobs", "reasoning"];

/// Kinds of input that a question may name.
const MODALITIES: [&str; 4] = ["image", "audio", "video", "file"];

/// What is asked: a request that is not there yet.
#[derive(Debug)]
pub(crate) struct Question {
    model: String,
    endpoint: Endpoint,
    needs: Needs,
    used: Metered,
    preferences: Preferences,
}

impl Question {
    /// Reads the question of a URL, and of headers as requests have them.
    pub(crate) fn read(
        query: Option<&str>,
        of_headers: Map<String, Value>,
    ) -> Result<Self, ApiError> {
        let query = query.unwrap_or("");
        if query.len() > MOST_QUERY_BYTES {
            return Err(ApiError::invalid("The question is too long."));
        }
        let url = reqwest::Url::parse(&format!("http://gateway/?{query}"));
        let url = url.map_err(|_| ApiError::invalid("The question is no query of a URL."))?;
        let mut question = Self {
            model: String::new(),
            endpoint: Endpoint::Chat,
            needs: Needs::default(),
            used: Metered {
                input: USUAL_INPUT,
                output: USUAL_OUTPUT,
                ..Metered::default()
            },
            preferences: Preferences::default(),
        };
        let mut said = of_headers;
        for (name, value) in url.query_pairs() {
            question.set(&name, &value, &mut said)?;
        }
        if question.model.is_empty() {
            let message = "You must name a model: /derouter/quote?model=NAME&in=1000&out=500.";
            return Err(ApiError::invalid_param("model", message));
        }
        let mut fields = Map::new();
        fields.insert("derouter".to_owned(), Value::Object(said));
        question.preferences = Preferences::take(&mut fields)?;
        Ok(question)
    }

    fn set(
        &mut self,
        name: &str,
        value: &str,
        said: &mut Map<String, Value>,
    ) -> Result<(), ApiError> {
        match name {
            "model" => self.model = value.to_owned(),
            "in" => self.used.input = tokens("in", value)?,
            "out" => self.used.output = tokens("out", value)?,
            "endpoint" => {
                let known = Endpoint::of_path(value.trim_start_matches('/'));
                let message = "endpoint must be one such as chat/completions.";
                self.endpoint =
                    known.ok_or_else(|| ApiError::invalid_param("endpoint", message))?;
            }
            "features" => self.needs.features = known("features", value, &FEATURES)?,
            "modalities" => self.needs.modalities = known("modalities", value, &MODALITIES)?,
            _ => {
                let field = FIELDS_OF_QUERY.iter().find(|field| field.is(name));
                let Some(field) = field else {
                    let name: String = name.chars().take(64).collect();
                    return Err(ApiError::invalid(format!("{name} is not known.")));
                };
                let (name, value) = field.read(value);
                said.insert(name, value);
            }
        }
        Ok(())
    }
}

fn tokens(name: &'static str, value: &str) -> Result<u64, ApiError> {
    let number = value.parse().ok();
    let message = || format!("{name} must be a whole number of tokens.");
    number.ok_or_else(|| ApiError::invalid_param(name, message()))
}

fn known(
    name: &'static str,
    value: &str,
    all: &[&'static str],
) -> Result<Vec<&'static str>, ApiError> {
    let named = value.split(',').map(str::trim).filter(|it| !it.is_empty());
    let named = named.map(|it| all.iter().find(|known| **known == it).copied());
    let message = || format!("{name} knows {} only.", all.join(", "));
    named
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| ApiError::invalid_param(name, message()))
}

/// Answers a question.
pub(crate) fn quote(gateway: &Gateway, question: Question) -> Result<Value, ApiError> {
    let wanted = Wanted {
        rules: Arc::new(gateway.rules(&question.model)),
        model: question.model,
        endpoint: question.endpoint,
        needs: question.needs,
        // A prompt of that many tokens is meant, not one that may be shorter.
        least_prompt_tokens: question.used.input,
        typical: question.used,
        preferences: question.preferences,
    };
    let (candidates, ranked) = gateway.with_offers(|index| {
        let offers = offers_of(gateway, index, &wanted.model)?;
        Ok(rank(gateway, offers, &wanted))
    })?;
    let weights = wanted.tuning().weights;
    let fit = ranked.order.iter().zip(&ranked.why).take(MOST_TOLD);
    let fit = fit.filter_map(|(place, why)| Some(offer(candidates.get(*place)?, why, &weights)));
    let out = ranked.excluded.iter().take(MOST_TOLD);
    let out = out.filter_map(|(place, why)| Some(left_out(candidates.get(*place)?, why)));
    Ok(json!({
        "object": "derouter.quote",
        "model": wanted.model,
        "in": wanted.typical.input,
        "out": wanted.typical.output,
        "currency": "POL",
        "fitting": ranked.order.len(),
        "offers": fit.collect::<Vec<_>>(),
        "left_out": ranked.excluded.len(),
        "excluded": out.collect::<Vec<_>>(),
    }))
}

fn offer(candidate: &Candidate, why: &Why, weights: &Weights) -> Value {
    let quality = &candidate.quality;
    let parts = why.parts.named(weights).into_iter();
    let parts: Map<String, Value> = parts
        .map(|(name, part)| (name.to_owned(), rounded(part)))
        .collect();
    json!({
        "provider": candidate.provider.to_string(),
        "offer": candidate.offer.as_str(),
        "cost": why.cost.to_pol_text(),
        "pricing": pricing(&candidate.terms.prices),
        "context_length": candidate.terms.context,
        "quantization": candidate.terms.quantization,
        "features": candidate.terms.features,
        "path": candidate.path.name(),
        "first_token_seconds": measured(quality.first_token),
        "tokens_per_second": measured(quality.speed),
        "success": rounded(quality.success),
        "tried": rounded(quality.tried),
        "uptime": rounded(quality.uptime),
        "in_flight": quality.in_flight,
        "cooling": quality.cooling,
        "score": rounded(why.score),
        "parts": parts,
        "explored": why.explored,
        "balanced": why.balanced,
    })
}

fn left_out(candidate: &Candidate, why: &Exclusion) -> Value {
    json!({
        "provider": candidate.provider.to_string(),
        "offer": candidate.offer.as_str(),
        "pricing": pricing(&candidate.terms.prices),
        "context_length": candidate.terms.context,
        "rule": why.name(),
        "detail": why.detail(),
    })
}

fn measured(estimate: Option<Estimate>) -> Option<Value> {
    estimate.map(|estimate| rounded(estimate.value))
}

/// To a thousandth: more would be noise.
fn rounded(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Question, ApiError> {
        Question::read(Some(query), Map::new())
    }

    #[test]
    fn a_question_names_what_a_request_would() {
        let question = read(
            "model=org%2Fm&in=12&out=34&sort=price&only=abcdefgh,ijklmnop&max_price=0.5&features=tools",
        );
        let question = question.unwrap();
        assert_eq!(question.model, "org/m");
        assert_eq!((question.used.input, question.used.output), (12, 34));
        assert_eq!(question.needs.features, ["tools"]);
        assert!(question.preferences.sort.is_some());
        assert!(question.preferences.max_price.completion.is_some());
        assert_eq!(question.preferences.only.unwrap().len(), 2);
        assert_eq!(read("model=m").unwrap().used.input, USUAL_INPUT);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (query, named) in [
            ("", "name a model"),
            ("model=m&in=-1", "in must"),
            ("model=m&out=many", "out must"),
            ("model=m&endpoint=x", "endpoint must"),
            ("model=m&features=magic", "features knows"),
            ("model=m&sort=best", "derouter.sort"),
            ("model=m&what=1", "what is not known"),
        ] {
            let error = read(query).unwrap_err();
            assert_eq!(error.status, 400);
            assert!(error.message.contains(named), "{query}: {}", error.message);
        }
        assert!(read(&"x".repeat(9000)).is_err());
    }
}
