//! The offers, with what was seen of their providers and why one can't be bought.

use std::sync::Arc;

use derouter_sdk::{OfferEvent, OfferSnapshot, PathKind, PeerId, UnixSeconds, Wei};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Onlooker, rounded};
use crate::consumer::config::ConsumerConfig;
use crate::consumer::error::ApiError;
use crate::consumer::gateway::Gateway;
use crate::consumer::ledger::unix_now;
use crate::consumer::offers::{Offer, OfferIndex};
use crate::consumer::quality::{Quality, Spread};
use crate::consumer::router::{Exclusion, Path};
use crate::protocol::{PROTOCOL, v0_2};
use crate::terms::{Prices, Rate, Terms};

/// Offers of one answer at most, and when the question does not say: some 1 kB of JSON each.
const MOST_TOLD: usize = 5000;
const USUALLY_TOLD: usize = 1000;

/// Offers whose measurements are read under one lock.
const STEP: usize = 256;

/// Bytes of a question.
const MOST_QUERY_BYTES: usize = 4096;

/// Which offers are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffersQuery {
    /// Only those of a model, by any of its names.
    pub model: Option<String>,
    /// Only those of a provider: the end of its peer id is enough.
    pub provider: Option<String>,
    /// How many at most; 1000 when it is absent, 5000 at most.
    pub limit: Option<usize>,
    /// How many to leave out first.
    pub skip: usize,
}

impl OffersQuery {
    /// Reads the query of a URL: `model`, `provider`, `limit`, `skip`.
    pub(crate) fn read(query: Option<&str>) -> Result<Self, ApiError> {
        let query = query.unwrap_or("");
        if query.len() > MOST_QUERY_BYTES {
            return Err(ApiError::invalid("The question is too long."));
        }
        let url = reqwest::Url::parse(&format!("http://gateway/?{query}"));
        let url = url.map_err(|_| ApiError::invalid("The question is no query of a URL."))?;
        let mut asked = Self::default();
        for (name, value) in url.query_pairs() {
            let number = |name: &'static str| {
                let message = format!("{name} must be a whole number.");
                value
                    .parse()
                    .map_err(|_| ApiError::invalid_param(name, message))
            };
            match name.as_ref() {
                "model" => asked.model = Some(value.into_owned()),
                "provider" => asked.provider = Some(value.into_owned()),
                "limit" => asked.limit = Some(number("limit")?),
                "skip" => asked.skip = number("skip")?,
                _ => {
                    let name: String = name.chars().take(64).collect();
                    return Err(ApiError::invalid(format!("{name} is not known.")));
                }
            }
        }
        Ok(asked)
    }

    fn wants(&self, offer: &Offer, provider: &str) -> bool {
        let model = self.model.as_ref();
        let of_model = model.is_none_or(|model| offer.terms.models.contains(model));
        let end = self.provider.as_ref();
        of_model && end.is_none_or(|end| provider.ends_with(end.as_str()))
    }
}

/// The offers on the market.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OffersView {
    /// When this was looked at.
    pub at: UnixSeconds,
    /// Whether the node has told its offers: before that there are none here.
    pub known: bool,
    /// How many fit the question.
    pub total: usize,
    /// Those that are told, by model, provider and id.
    pub offers: Vec<OfferView>,
}

/// An offer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OfferView {
    /// Who offers.
    pub provider: String,
    /// Its name there. From outside.
    pub offer: String,
    /// What a job is created with.
    pub snapshot: u64,
    /// `openai:0.2`, or `openai:0.1`.
    pub protocol: String,
    /// The model's names, its own first. From outside.
    pub models: Vec<String>,
    /// What can be asked, such as `chat/completions`.
    pub endpoints: Vec<String>,
    /// Context window in tokens.
    pub context: u64,
    /// The longest answer in tokens; `None`: what the context leaves.
    pub max_output: Option<u64>,
    /// What a prompt may hold. From outside.
    pub input_modalities: Vec<String>,
    /// What an answer may hold. From outside.
    pub output_modalities: Vec<String>,
    /// Such as `tools`; `None` when the offer does not say. From outside.
    pub features: Option<Vec<String>>,
    /// How the weights are stored. From outside.
    pub quantization: Option<String>,
    /// What it costs.
    pub prices: PricesView,
    /// POL that a new consumer may have for nothing.
    pub trial: Option<String>,
    /// Where the provider is, as it says. From outside.
    pub region: Option<String>,
    /// About the offer. From outside.
    pub description: Option<String>,
    /// The provider's terms of service. From outside.
    pub terms_url: Option<String>,
    /// Requests served at once, when the offer says.
    pub max_concurrency: Option<u32>,
    /// How busy its provider said it was, in percent.
    pub load: Option<u8>,
    /// What was seen of it; `None` when no gateway was asked.
    pub observed: Option<ObservedView>,
    /// How its provider is reached.
    pub path: PathView,
    /// When the provider was last heard, as far as the node said.
    pub last_seen: Option<UnixSeconds>,
    /// Whether the configuration (and a key) lets it be bought, under one of its names at least.
    pub buyable: bool,
    /// Why not.
    pub excluded: Option<ExclusionView>,
}

/// Prices in POL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PricesView {
    /// `POL`.
    pub currency: String,
    /// Of 1,000,000 tokens of the prompt.
    pub input: String,
    /// Of 1,000,000 of these that the backend had cached, where that differs.
    pub cached_input: Option<String>,
    /// Of 1,000,000 tokens of the answer.
    pub output: String,
    /// Of a request.
    pub request: String,
    /// Of an image.
    pub image: String,
    /// Of a second of sound.
    pub second: String,
}

impl PricesView {
    /// Prices as text.
    pub fn of(prices: &Prices) -> Self {
        let million = |rate: Rate| rate.of_million().to_pol_text();
        let one = |rate: Rate| rate.cost(1).unwrap_or(Wei::MAX).to_pol_text();
        Self {
            currency: "POL".to_owned(),
            input: million(prices.input),
            cached_input: prices.cached_input.map(million),
            output: million(prices.output),
            request: one(prices.request),
            image: one(prices.image),
            second: one(prices.second),
        }
    }
}

/// How the latest answers were spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpreadView {
    /// Half of them were no larger.
    pub p50: f64,
    /// Nine of ten were no larger.
    pub p90: f64,
    /// How many answers.
    pub samples: usize,
}

impl From<Spread> for SpreadView {
    fn from(spread: Spread) -> Self {
        Self {
            p50: rounded(spread.p50),
            p90: rounded(spread.p90),
            samples: spread.samples,
        }
    }
}

/// What this gateway saw of a provider and a model lately.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObservedView {
    /// Seconds to the first token.
    pub first_token_seconds: Option<SpreadView>,
    /// Tokens a second, once they come.
    pub tokens_per_second: Option<SpreadView>,
    /// The share of good answers; a newcomer is given 0.95.
    pub success: f64,
    /// How many answers that stands for; old ones count less.
    pub tried: f64,
    /// The share of the time since it was first seen that the provider was on the market.
    pub uptime: f64,
    /// Requests of this gateway that it answers now.
    pub in_flight: u32,
    /// For how long it is still asked after all others.
    pub cooldown_seconds: Option<f64>,
}

/// How a provider is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathView {
    /// `own`, `lan`, `direct`, `hole_punched`, `relayed`, `barred`, or `unknown` while there is no
    /// connection.
    pub kind: String,
    /// The last round trip, in microseconds.
    pub rtt_us: Option<u64>,
}

/// Why an offer can't be bought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExclusionView {
    /// A word for programs, as `/derouter/quote` has it; and `models` or `key` where the model is not
    /// among those that may be bought.
    pub rule: String,
    /// In words, with what to change.
    pub text: String,
}

/// Looks at the offers.
pub(crate) fn offers(gateway: &Gateway, query: &OffersQuery, onlooker: &Onlooker) -> OffersView {
    let (known, mut found) = gateway.with_offers(|index| (index.known(), index.all()));
    let mut named: Vec<(String, Arc<Offer>)> = found
        .drain(..)
        .map(|offer| (offer.provider.to_string(), offer))
        .filter(|(provider, offer)| query.wants(offer, provider) && may_see(offer, onlooker))
        .collect();
    named.sort_by(|(one_provider, one), (provider, offer)| {
        let one = (one.terms.model(), one_provider, &one.offer_id);
        one.cmp(&(offer.terms.model(), provider, &offer.offer_id))
    });
    let total = named.len();
    let limit = query.limit.unwrap_or(USUALLY_TOLD).min(MOST_TOLD);
    let told: Vec<_> = named.into_iter().skip(query.skip).take(limit).collect();
    OffersView {
        at: unix_now(),
        known,
        total,
        offers: views(gateway, &told, onlooker),
    }
}

/// Looks at all of them, however many there are.
pub(super) fn all(gateway: &Gateway, onlooker: &Onlooker) -> (bool, Vec<OfferView>) {
    let (known, found) = gateway.with_offers(|index| (index.known(), index.all()));
    let named: Vec<_> = found
        .into_iter()
        .map(|offer| (offer.provider.to_string(), offer))
        .filter(|(_, offer)| may_see(offer, onlooker))
        .collect();
    (known, views(gateway, &named, onlooker))
}

fn may_see(offer: &Offer, onlooker: &Onlooker) -> bool {
    let key = onlooker.key();
    key.is_none_or(|key| offer.terms.models.iter().any(|model| key.allows(model)))
}

fn views(
    gateway: &Gateway,
    offers: &[(String, Arc<Offer>)],
    onlooker: &Onlooker,
) -> Vec<OfferView> {
    let now = Instant::now();
    let mut views = Vec::with_capacity(offers.len());
    for step in offers.chunks(STEP) {
        let observed: Vec<ObservedView> = {
            let quality = gateway.quality();
            let of = |(_, offer): &(String, Arc<Offer>)| observed(&quality, offer, now);
            step.iter().map(of).collect()
        };
        for ((provider, offer), observed) in step.iter().zip(observed) {
            let path = gateway.path(&offer.provider);
            views.push(OfferView {
                observed: Some(observed),
                path: path_view(gateway, &offer.provider, path),
                last_seen: gateway.look_at_paths(|paths| paths.heard(&offer.provider)),
                ..plain(gateway, provider, offer, onlooker, path)
            });
        }
    }
    views
}

fn observed(quality: &Quality, offer: &Offer, now: Instant) -> ObservedView {
    let (provider, model) = (&offer.provider, offer.terms.model());
    let seen = quality.observed(provider, model, now);
    let (first_token, speed) = quality.spreads(provider, model);
    let cools_for = quality.cools_for(provider, now);
    ObservedView {
        first_token_seconds: first_token.map(SpreadView::from),
        tokens_per_second: speed.map(SpreadView::from),
        success: rounded(seen.success),
        tried: rounded(seen.tried),
        uptime: rounded(seen.uptime),
        in_flight: seen.in_flight,
        cooldown_seconds: cools_for.map(|left| rounded(left.as_secs_f64())),
    }
}

fn path_view(gateway: &Gateway, provider: &PeerId, path: Path) -> PathView {
    let way = gateway.look_at_paths(|paths| paths.way(provider));
    let kind = match (path, way.map(|way| way.kind)) {
        (Path::Direct, Some(PathKind::Lan)) => "lan",
        (Path::Direct, Some(PathKind::HolePunched)) => "hole_punched",
        (path, _) => path.name(),
    };
    PathView {
        kind: kind.to_owned(),
        rtt_us: way.and_then(|way| way.rtt_us),
    }
}

/// All but what was seen.
fn plain(
    gateway: &Gateway,
    provider: &str,
    offer: &Offer,
    onlooker: &Onlooker,
    path: Path,
) -> OfferView {
    let excluded = excluded(&gateway.config, offer, onlooker, path);
    OfferView {
        buyable: excluded.is_none(),
        excluded,
        ..announced(provider, offer)
    }
}

/// What offers say, as a node tells of them, where no gateway is asked: nothing was seen of them, and
/// no configuration leaves any out. Those that make no sense are left out; of one in two versions the
/// newer is there.
pub fn offers_of(snapshots: Vec<OfferSnapshot>) -> Vec<OfferView> {
    let mut index = OfferIndex::default();
    index.apply(OfferEvent::Reset(snapshots));
    let offers = index.all().into_iter();
    let view = |offer: Arc<Offer>| OfferView {
        buyable: true,
        path: PathView {
            kind: Path::Unknown.name().to_owned(),
            rtt_us: None,
        },
        ..announced(&offer.provider.to_string(), &offer)
    };
    offers.map(view).collect()
}

/// What an offer says.
fn announced(provider: &str, offer: &Offer) -> OfferView {
    let terms: &Terms = &offer.terms;
    let protocol = match offer.of_0_1 {
        Some(_) => PROTOCOL,
        None => v0_2::PROTOCOL,
    };
    OfferView {
        provider: provider.to_owned(),
        offer: offer.offer_id.to_string(),
        snapshot: offer.snapshot_id.0,
        protocol: protocol.to_owned(),
        models: terms.models.clone(),
        endpoints: terms.endpoints.iter().map(ToString::to_string).collect(),
        context: terms.context,
        max_output: terms.max_output,
        input_modalities: terms.input_modalities.clone(),
        output_modalities: terms.output_modalities.clone(),
        features: terms.features.clone(),
        quantization: terms.quantization.clone(),
        prices: PricesView::of(&terms.prices),
        trial: terms.trial.map(Wei::to_pol_text),
        region: terms.region.clone(),
        description: terms.description.clone(),
        terms_url: terms.terms_url.clone(),
        max_concurrency: terms.max_concurrency,
        load: terms.load,
        ..OfferView::default()
    }
}

/// What is in the way under each of the offer's names; `None` when one of them is free.
fn excluded(
    config: &ConsumerConfig,
    offer: &Offer,
    onlooker: &Onlooker,
    path: Path,
) -> Option<ExclusionView> {
    if path == Path::Barred {
        return Some(view(
            &Exclusion::Unreachable,
            "this node keeps its provider out: `derouter peers --all` says why",
        ));
    }
    let mut first = None;
    for model in &offer.terms.models {
        let found = excluded_as(config, offer, onlooker, model)?;
        first.get_or_insert(found);
    }
    first
}

fn excluded_as(
    config: &ConsumerConfig,
    offer: &Offer,
    onlooker: &Onlooker,
    model: &str,
) -> Option<ExclusionView> {
    if !config.may_buy(model) {
        return Some(ExclusionView {
            rule: "models".to_owned(),
            text: "`server.models` of the configuration does not name this model".to_owned(),
        });
    }
    if onlooker.key().is_some_and(|key| !key.allows(model)) {
        return Some(ExclusionView {
            rule: "key".to_owned(),
            text: "the key is not for this model".to_owned(),
        });
    }
    let broken = config
        .rules(model)
        .excludes(&offer.provider, &offer.terms)?;
    Some(view(&broken, words(&broken)))
}

fn view(broken: &Exclusion, text: &str) -> ExclusionView {
    ExclusionView {
        rule: broken.name().to_owned(),
        text: text.to_owned(),
    }
}

/// What to change for a rule of the configuration.
fn words(broken: &Exclusion) -> &'static str {
    match broken {
        Exclusion::SmallContext => "its context window is smaller than `minContextSize` asks for",
        Exclusion::Denied => "`routing.deny_providers` names its provider",
        Exclusion::NotAllowed => "`routing.allow_providers` names other providers alone",
        Exclusion::InputPrice => "its price of the prompt is over `maxInputPrice`",
        Exclusion::OutputPrice => "its price of the answer is over `maxOutputPrice`",
        Exclusion::OtherPrice => {
            "its price of a request, an image or a second is over `maxRequestPrice`"
        }
        _ => "it can't serve such a request",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_for_offers_is_read_or_refused_with_what_is_wrong() {
        let query = OffersQuery::read(Some("model=org%2Fm&provider=abc&limit=5&skip=2")).unwrap();
        assert_eq!(query.model.as_deref(), Some("org/m"));
        assert_eq!((query.limit, query.skip), (Some(5), 2));
        assert_eq!(OffersQuery::read(None).unwrap(), OffersQuery::default());
        for (query, named) in [("limit=-1", "limit must"), ("what=1", "what is not known")] {
            let error = OffersQuery::read(Some(query)).unwrap_err();
            assert!(error.message.contains(named), "{}", error.message);
        }
        assert!(OffersQuery::read(Some(&"x".repeat(5000))).is_err());
    }

    #[test]
    fn what_the_configuration_leaves_out_says_which_rule_and_what_to_change() {
        let offer = Offer {
            snapshot_id: derouter_sdk::SnapshotId(1),
            provider: PeerId::random(),
            offer_id: derouter_sdk::OfferId::new("o").unwrap(),
            terms: Arc::new(Terms::of_0_1(
                &crate::protocol::OfferPayload::parse(
                    r#"{"model_id":"m","context_size":10,"input_token_price":{"$pol":"60000000000000000000"},"output_token_price":{"$pol":"1"}}"#,
                )
                .unwrap(),
            )),
            of_0_1: None,
        };
        let look = |config: &ConsumerConfig, path| {
            excluded(config, &offer, &Onlooker::Owner, path).map(|why| (why.rule, why.text))
        };
        let mut config = ConsumerConfig::default();
        let (rule, text) = look(&config, Path::Direct).unwrap();
        assert_eq!(rule, "input_price");
        assert!(text.contains("maxInputPrice"));
        config.default_max_price.input = Wei::MAX;
        assert_eq!(look(&config, Path::Direct), None);
        assert_eq!(look(&config, Path::Barred).unwrap().0, "unreachable");
        config.models = Some([("x".to_owned(), Default::default())].into());
        assert_eq!(look(&config, Path::Direct).unwrap().0, "models");
    }
}
