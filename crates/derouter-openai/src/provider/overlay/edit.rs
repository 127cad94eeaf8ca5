//! What can be said of an offer without its configuration. Pure.

use std::time::Duration;

use derouter_sdk::Wei;
use serde::{Deserialize, Serialize};

use super::super::admission::MAX_QUEUE_TIME;
use super::super::config::{OfferConfig, OfferTerms};
use super::super::prices::{MAX_WINDOWS, PriceWindow};

/// What an offer is, or what of it is changed; what is absent stays. A text that is empty, a list that
/// is, a trial and a longest answer of 0 take away what was there. Changed prices are those that the
/// factors of the schedule multiply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OfferEdit {
    /// The model as the market names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// The model as the backend names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_model: Option<String>,
    /// Other names of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aliases: Option<Vec<String>>,
    /// Context window in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_size: Option<u64>,
    /// The longest answer in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output: Option<u64>,
    /// About the offer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Wei for 1,000,000 prompt tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_token_price: Option<Wei>,
    /// Wei for 1,000,000 completion tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_token_price: Option<Wei>,
    /// Prices by the clock: `sat,sun 22:00-06:00 x0.5`, or in POL `22:00-06:00 0.1/0.4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Vec<PriceWindow>>,
    /// Wei for a request that is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_price: Option<Wei>,
    /// Wei that each new consumer may have for nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<Wei>,
    /// Jobs served at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// Of these for one consumer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrency_per_consumer: Option<u32>,
    /// Requests that wait for a slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_queue: Option<u32>,
    /// How long they wait, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<u64>,
    /// Such as `tools`, `json_schema`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// What a prompt may hold, such as `text`, `image`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_modalities: Option<Vec<String>>,
    /// Such as `q4_k_m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// Where the provider is: ISO 3166-1 alpha-2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The terms of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms_url: Option<String>,
}

/// Takes over what is said.
fn set<T>(own: &mut T, said: Option<T>) {
    if let Some(said) = said {
        *own = said;
    }
}

/// Takes over what is said, where an empty text is none.
fn set_text(own: &mut Option<String>, said: Option<String>) {
    if let Some(said) = said {
        *own = (!said.is_empty()).then_some(said);
    }
}

impl OfferEdit {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes over what another one says.
    pub(super) fn merge(&mut self, other: Self) {
        macro_rules! merge {
            ($($field:ident),* $(,)?) => {
                $(if other.$field.is_some() { self.$field = other.$field; })*
            };
        }
        merge!(
            model_id,
            backend_model,
            aliases,
            context_size,
            max_output,
            description,
            input_token_price,
            output_token_price,
            schedule,
            request_price,
            trial,
            max_concurrency,
            max_concurrency_per_consumer,
            max_queue,
            queue_ms,
            features,
            input_modalities,
            quantization,
            region,
            terms_url,
        );
    }

    /// Looks for what no offer can have.
    pub(super) fn check(&self) -> Result<(), String> {
        let zero = |number: Option<u32>| number == Some(0);
        if zero(self.max_concurrency) || zero(self.max_concurrency_per_consumer) {
            return Err("max_concurrency must be at least 1".to_owned());
        }
        if self.context_size == Some(0) {
            return Err("context_size must be at least 1".to_owned());
        }
        if self
            .model_id
            .as_ref()
            .is_some_and(|it| it.trim().is_empty())
        {
            return Err("model_id is empty".to_owned());
        }
        let most = u64::try_from(MAX_QUEUE_TIME.as_millis()).unwrap_or(u64::MAX);
        if self.queue_ms.is_some_and(|ms| ms > most) {
            return Err(format!("a request can wait for {most} ms at most"));
        }
        let windows = self.schedule.as_ref().map_or(0, Vec::len);
        if windows > MAX_WINDOWS {
            return Err(format!("a schedule has at most {MAX_WINDOWS} windows"));
        }
        Ok(())
    }

    /// The offer that it is, when it says all that one needs.
    pub(super) fn whole(&self) -> Result<OfferConfig, String> {
        let missing = |what: &str| format!("an offer that is added needs {what}");
        let mut config = OfferConfig {
            model_id: self.model_id.clone().ok_or_else(|| missing("model_id"))?,
            context_size: self.context_size.ok_or_else(|| missing("context_size"))?,
            description: None,
            input_token_price: self
                .input_token_price
                .ok_or_else(|| missing("input_token_price"))?,
            output_token_price: self
                .output_token_price
                .ok_or_else(|| missing("output_token_price"))?,
            max_concurrency: None,
            backend_model: None,
            terms: OfferTerms::default(),
        };
        self.change(&mut config);
        Ok(config)
    }

    /// Changes an offer.
    pub fn change(&self, config: &mut OfferConfig) {
        let said = self.clone();
        if let Some(model) = said.model_id.filter(|model| *model != config.model_id) {
            // The backend knows it by the name that it had.
            let before = std::mem::replace(&mut config.model_id, model);
            config.backend_model.get_or_insert(before);
        }
        set_text(&mut config.backend_model, said.backend_model);
        set(&mut config.context_size, said.context_size);
        set_text(&mut config.description, said.description);
        set(&mut config.input_token_price, said.input_token_price);
        set(&mut config.output_token_price, said.output_token_price);
        set(&mut config.max_concurrency, said.max_concurrency.map(Some));
        let terms = &mut config.terms;
        set(
            &mut terms.max_concurrency_per_consumer,
            said.max_concurrency_per_consumer.map(Some),
        );
        set(&mut terms.max_queue, said.max_queue);
        set(&mut terms.schedule, said.schedule);
        set(
            &mut terms.queue_time,
            said.queue_ms.map(|ms| Some(Duration::from_millis(ms))),
        );
        if let Some(trial) = said.trial {
            terms.trial = (!trial.is_zero()).then_some(trial);
        }
        let announced = &mut terms.announced;
        set(&mut announced.aliases, said.aliases);
        if let Some(most) = said.max_output {
            announced.max_output = (most > 0).then_some(most);
        }
        set(&mut announced.request_price, said.request_price);
        set(&mut announced.features, said.features);
        set(&mut announced.input_modalities, said.input_modalities);
        set_text(&mut announced.quantization, said.quantization);
        set_text(&mut announced.region, said.region);
        set_text(&mut announced.terms_url, said.terms_url);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_renamed_is_still_asked_for_by_its_name_at_the_backend() {
        let first = OfferEdit {
            model_id: Some("old".to_owned()),
            context_size: Some(1),
            input_token_price: Some(Wei::ZERO),
            output_token_price: Some(Wei::ZERO),
            quantization: Some("q4".to_owned()),
            trial: Some(Wei::from_wei(5)),
            max_output: Some(9),
            schedule: Some(vec!["sat x0.5".parse().unwrap()]),
            ..OfferEdit::default()
        };
        let mut config = first.whole().unwrap();
        assert_eq!(config.terms.schedule.len(), 1);
        assert_eq!(config.terms.announced.max_output, Some(9));
        assert_eq!(config.terms.trial, Some(Wei::from_wei(5)));
        let renamed = OfferEdit {
            model_id: Some("new".to_owned()),
            quantization: Some(String::new()),
            trial: Some(Wei::ZERO),
            max_output: Some(0),
            schedule: Some(Vec::new()),
            ..OfferEdit::default()
        };
        renamed.change(&mut config);
        assert_eq!(config.model_id, "new");
        assert_eq!(config.backend_model(), "old");
        assert_eq!(config.terms.announced.quantization, None);
        assert_eq!(config.terms.trial, None);
        assert_eq!(config.terms.announced.max_output, None);
        assert!(config.terms.schedule.is_empty());
        let back = OfferEdit {
            backend_model: Some(String::new()),
            ..OfferEdit::default()
        };
        back.change(&mut config);
        assert_eq!(config.backend_model(), "new");
    }
}
