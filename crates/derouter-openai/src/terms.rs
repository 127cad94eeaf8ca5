//! What an offer says, whichever version of the protocol it is of: models, limits, prices.

use std::fmt;

use derouter_sdk::Wei;

use crate::protocol::OfferPayload;

/// Tokens that prices are shown and capped for.
pub const TOKENS_SHOWN: u64 = 1_000_000;

/// A price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Of one unit, as `openai:0.2` writes it.
    Each(Wei),
    /// Of 1,000,000 units, as `openai:0.1` writes it.
    PerMillion(Wei),
}

impl Default for Rate {
    fn default() -> Self {
        Self::Each(Wei::ZERO)
    }
}

impl Rate {
    /// What some units cost, rounded down. `None` when it is over 2^256-1 wei.
    pub fn cost(self, units: u64) -> Option<Wei> {
        match self {
            Self::Each(wei) => wei.checked_mul(units),
            Self::PerMillion(wei) => wei.checked_per_million(units),
        }
    }

    /// The price of 1,000,000 units; the highest amount there is when it is over that.
    pub fn of_million(self) -> Wei {
        self.cost(TOKENS_SHOWN).unwrap_or(Wei::MAX)
    }

    /// Whether nothing is asked for.
    pub fn is_free(self) -> bool {
        let (Self::Each(wei) | Self::PerMillion(wei)) = self;
        wei.is_zero()
    }
}

/// What an offer's units cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// Prompt tokens that were not cached.
    pub input: Rate,
    /// Prompt tokens that the backend had cached; `None`: as the others.
    pub cached_input: Option<Rate>,
    /// Tokens of the answer.
    pub output: Rate,
    /// The request itself.
    pub request: Rate,
    /// Images that were made.
    pub image: Rate,
    /// Seconds of sound, begun ones counted whole.
    pub second: Rate,
}

/// What a request used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metered {
    /// Prompt tokens, cached ones among them.
    pub input: u64,
    /// Of these, those that the backend had cached.
    pub cached_input: u64,
    /// Tokens of the answer.
    pub output: u64,
    /// Images that were made.
    pub images: u64,
    /// Seconds of sound, begun ones counted whole.
    pub seconds: u64,
}

impl Prices {
    /// What a request costs: each term rounded down. `None` when it is over 2^256-1 wei.
    pub fn cost(&self, used: &Metered) -> Option<Wei> {
        let cached = used.cached_input.min(used.input);
        let terms = [
            (self.input, used.input.saturating_sub(cached)),
            (self.cached_input.unwrap_or(self.input), cached),
            (self.output, used.output),
            (self.request, 1),
            (self.image, used.images),
            (self.second, used.seconds),
        ];
        terms.iter().try_fold(Wei::ZERO, |sum, (rate, units)| {
            sum.checked_add(rate.cost(*units)?)
        })
    }

    /// The prices of an offer of `openai:0.1`.
    pub fn of_0_1(offer: &OfferPayload) -> Self {
        Self {
            input: Rate::PerMillion(offer.input_token_price.wei),
            output: Rate::PerMillion(offer.output_token_price.wei),
            ..Self::default()
        }
    }
}

/// An endpoint behind the base URL, such as `chat/completions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// `chat/completions`.
    Chat,
    /// `completions`.
    Completions,
    /// `embeddings`.
    Embeddings,
    /// `responses`.
    Responses,
    /// `images/generations`.
    ImageGenerations,
    /// `images/edits`.
    ImageEdits,
    /// `audio/speech`.
    Speech,
    /// `audio/transcriptions`.
    Transcriptions,
    /// `audio/translations`.
    Translations,
    /// `rerank`.
    Rerank,
    /// `moderations`.
    Moderations,
}

impl Endpoint {
    /// All there are.
    pub const ALL: [Self; 11] = [
        Self::Chat,
        Self::Completions,
        Self::Embeddings,
        Self::Responses,
        Self::ImageGenerations,
        Self::ImageEdits,
        Self::Speech,
        Self::Transcriptions,
        Self::Translations,
        Self::Rerank,
        Self::Moderations,
    ];

    /// The path behind the base URL, without a leading slash.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "chat/completions",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Responses => "responses",
            Self::ImageGenerations => "images/generations",
            Self::ImageEdits => "images/edits",
            Self::Speech => "audio/speech",
            Self::Transcriptions => "audio/transcriptions",
            Self::Translations => "audio/translations",
            Self::Rerank => "rerank",
            Self::Moderations => "moderations",
        }
    }

    /// The endpoint of a path without a leading slash.
    pub fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.path() == path)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}

/// What an offer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The model's names: the first is its own, the others are aliases. Never empty.
    pub models: Vec<String>,
    /// What can be asked.
    pub endpoints: Vec<Endpoint>,
    /// Context window in tokens.
    pub context: u64,
    /// The longest answer in tokens; `None`: what the context leaves.
    pub max_output: Option<u64>,
    /// What a prompt may hold, such as `text`, `image`, `audio`.
    pub input_modalities: Vec<String>,
    /// What an answer may hold.
    pub output_modalities: Vec<String>,
    /// What the model can do, such as `tools`, `json_schema`, `reasoning`, `logprobs`; `None` when the
    /// offer does not say (`openai:0.1`), which excludes nothing.
    pub features: Option<Vec<String>>,
    /// How the weights are stored, such as `q4_k_m`, `fp8`, `bf16`.
    pub quantization: Option<String>,
    /// What it costs.
    pub prices: Prices,
    /// What a new consumer may have for nothing.
    pub trial: Option<Wei>,
    /// Requests that are served at once.
    pub max_concurrency: Option<u32>,
    /// How busy the provider was when it announced this, in percent of its places.
    pub load: Option<u8>,
    /// Where the provider is, as it says: ISO 3166-1 alpha-2.
    pub region: Option<String>,
    /// The provider's terms of service.
    pub terms_url: Option<String>,
    /// About the offer.
    pub description: Option<String>,
}

impl Terms {
    /// The model's own name.
    pub fn model(&self) -> &str {
        self.models.first().map_or("", String::as_str)
    }

    /// What an offer of `openai:0.1` says.
    pub fn of_0_1(offer: &OfferPayload) -> Self {
        Self {
            models: vec![offer.model_id.clone()],
            endpoints: vec![Endpoint::Chat, Endpoint::Completions],
            context: offer.context_size,
            max_output: None,
            input_modalities: any_input(),
            output_modalities: vec!["text".to_owned()],
            features: None,
            quantization: None,
            prices: Prices::of_0_1(offer),
            trial: offer.trial.map(|trial| trial.wei),
            max_concurrency: None,
            load: None,
            region: None,
            terms_url: None,
            description: offer.description.clone(),
        }
    }
}

/// What the prompts of a provider may hold that does not say: what it can't read it refuses.
pub(crate) fn any_input() -> Vec<String> {
    let kinds = ["text", "image", "audio", "video", "file"];
    kinds.map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{PolAmount, Usage};

    #[test]
    fn a_request_costs_the_sum_of_its_terms() {
        let each = |wei| Rate::Each(Wei::from_wei(wei));
        let prices = Prices {
            input: each(10),
            cached_input: Some(each(1)),
            output: each(100),
            request: each(5),
            image: each(1_000),
            second: each(7),
        };
        let used = Metered {
            input: 8,
            cached_input: 3,
            output: 2,
            images: 1,
            seconds: 4,
        };
        assert_eq!(
            prices.cost(&used),
            Some(Wei::from_wei(50 + 3 + 200 + 5 + 1_000 + 28))
        );
        let more_cached_than_read = Metered {
            cached_input: 100,
            ..used
        };
        assert_eq!(
            prices.cost(&more_cached_than_read),
            Some(Wei::from_wei(8 + 200 + 5 + 1_000 + 28))
        );
        let dear = Prices {
            output: Rate::Each(Wei::MAX),
            ..prices
        };
        assert_eq!(dear.cost(&used), None);
    }

    #[test]
    fn an_offer_of_0_1_costs_here_what_it_costs_there() {
        let offer = OfferPayload {
            model_id: "m".into(),
            context_size: 10,
            input_token_price: PolAmount {
                wei: Wei::from_wei(199_999),
            },
            output_token_price: PolAmount {
                wei: Wei::from_wei(3_000_001),
            },
            trial: None,
            description: None,
        };
        let usage = Usage {
            prompt_tokens: 10,
            completion_tokens: 7,
        };
        let used = Metered {
            input: 10,
            output: 7,
            ..Metered::default()
        };
        let terms = Terms::of_0_1(&offer);
        assert_eq!(terms.prices.cost(&used), offer.cost(&usage));
        assert_eq!(terms.prices.input.of_million(), Wei::from_wei(199_999));
        assert_eq!(terms.model(), "m");
    }

    #[test]
    fn each_endpoint_is_found_by_its_path() {
        for endpoint in Endpoint::ALL {
            assert_eq!(Endpoint::of_path(endpoint.path()), Some(endpoint));
        }
        assert_eq!(Endpoint::of_path("../admin"), None);
    }
}
