//! What a request says about how its provider is chosen: the `derouter` object of its body, or
//! OpenRouter's `provider` object, whose fields have the same names, and headers for clients that
//! can set nothing else. docs/router.md lists the fields.

use derouter_sdk::{PeerId, Wei};
use hyper::HeaderMap;
use serde_json::{Map, Value};

use super::score::Weights;
use crate::consumer::error::ApiError;
use crate::consumer::hedge::Hedge;

/// Entries of a list.
const MOST_ENTRIES: usize = 64;

/// Bytes of a provider's name or a quantization.
const MOST_NAME_BYTES: usize = 128;

/// The least of a peer id's end that stands for it. Fewer characters could be those of a peer that
/// somebody made for that.
const LEAST_PART: usize = 8;

/// Bytes of a decimal number.
const MOST_NUMBER_BYTES: usize = 64;

/// How the quantization of an offer is called that does not say.
pub(super) const UNKNOWN_QUANTIZATION: &str = "unknown";

/// The object of the body.
const OWN: &str = "derouter";

/// OpenRouter's.
const OPENROUTER: &str = "provider";

/// What offers are sorted by, in place of the score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// The cheapest for this request.
    Price,
    /// The quickest to the first token.
    Latency,
    /// The most tokens a second.
    Throughput,
}

impl Sort {
    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "price" => Self::Price,
            "latency" => Self::Latency,
            "throughput" => Self::Throughput,
            _ => return None,
        })
    }
}

/// Who is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderName {
    /// A whole peer id.
    Peer(PeerId),
    /// The end of one.
    End(String),
}

impl ProviderName {
    /// Whether a provider is meant.
    pub fn means(&self, provider: &PeerId) -> bool {
        match self {
            Self::Peer(peer) => peer == provider,
            Self::End(end) => end.len() >= LEAST_PART && provider.to_string().ends_with(end),
        }
    }
}

/// The most that a request may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxPrice {
    /// Of 1,000,000 prompt tokens.
    pub prompt: Option<Wei>,
    /// Of 1,000,000 tokens of the answer.
    pub completion: Option<Wei>,
    /// Of the request itself.
    pub request: Option<Wei>,
    /// Of an image.
    pub image: Option<Wei>,
}

/// What a request wants of its provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Preferences {
    /// What offers are sorted by; `None`: by score.
    pub sort: Option<Sort>,
    /// Providers that are asked first, in this order.
    pub order: Vec<ProviderName>,
    /// The only ones that are asked.
    pub only: Option<Vec<ProviderName>>,
    /// Those that are not asked.
    pub ignore: Vec<ProviderName>,
    /// Whether others are asked when the first choice (or all of `order`) fails.
    pub allow_fallbacks: bool,
    /// How the weights may be stored.
    pub quantizations: Option<Vec<String>>,
    /// What it may cost.
    pub max_price: MaxPrice,
    /// Tokens a second that a measured provider must reach.
    pub min_throughput: Option<f64>,
    /// Seconds within which a measured provider must begin.
    pub max_latency: Option<f64>,
    /// Weights in place of the configuration's.
    pub weights: Vec<(&'static str, f64)>,
    /// Whether a second provider is asked beside a slow one; `None`: as the configuration says.
    pub hedge: Option<Hedge>,
}

impl Default for Preferences {
    fn default() -> Self {
        Self {
            sort: None,
            order: Vec::new(),
            only: None,
            ignore: Vec::new(),
            allow_fallbacks: true,
            quantizations: None,
            max_price: MaxPrice::default(),
            min_throughput: None,
            max_latency: None,
            weights: Vec::new(),
            hedge: None,
        }
    }
}

impl Preferences {
    /// Takes the preferences out of a request's fields. Where both objects are there, our own wins
    /// field by field.
    pub(crate) fn take(fields: &mut Map<String, Value>) -> Result<Self, ApiError> {
        let mut preferences = Self::default();
        for object in [OPENROUTER, OWN] {
            let Some(value) = fields.shift_remove(object) else {
                continue;
            };
            match value {
                Value::Null => {}
                Value::Object(inner) => preferences.read(object, &inner)?,
                _ => return Err(wrong(object, "", "must be an object")),
            }
        }
        Ok(preferences)
    }

    /// Whether a request's fields have any.
    pub(crate) fn are_in(fields: &Map<String, Value>) -> bool {
        fields.contains_key(OWN) || fields.contains_key(OPENROUTER)
    }

    /// The place of a provider in the order.
    pub(super) fn place(&self, provider: &PeerId) -> Option<usize> {
        self.order.iter().position(|name| name.means(provider))
    }

    fn read(&mut self, object: &'static str, fields: &Map<String, Value>) -> Result<(), ApiError> {
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            self.set(object, name, value)
                .map_err(|problem| wrong(object, name, &problem))?;
        }
        Ok(())
    }

    fn set(&mut self, object: &str, name: &str, value: &Value) -> Result<(), String> {
        match name {
            "sort" => self.sort = Some(sort(value)?),
            "order" => self.order = providers(value)?,
            "only" => self.only = Some(providers(value)?),
            "ignore" => self.ignore = providers(value)?,
            "allow_fallbacks" => self.allow_fallbacks = flag(value)?,
            "quantizations" => self.quantizations = Some(texts(value)?),
            "max_price" => self.set_max_price(value)?,
            "min_throughput" => self.min_throughput = Some(number(value)?),
            "max_latency" => self.max_latency = Some(number(value)?),
            "weights" => self.set_weights(value)?,
            "hedge" if object == OWN => self.hedge = Some(Hedge::read(value)?),
            _ if object == OPENROUTER => openrouter_only(name, value)?,
            _ => return Err("is not known".into()),
        }
        Ok(())
    }

    fn set_max_price(&mut self, value: &Value) -> Result<(), String> {
        let Value::Object(prices) = value else {
            return Err(
                r#"must be an object, such as {"prompt": "0.2", "completion": "1"}"#.into(),
            );
        };
        for (name, price) in prices.iter().filter(|(_, price)| !price.is_null()) {
            let price = Some(pol(price).map_err(|problem| format!("has a {name} that {problem}"))?);
            let most = &mut self.max_price;
            match name.as_str() {
                "prompt" => most.prompt = price,
                "completion" => most.completion = price,
                "request" => most.request = price,
                "image" => most.image = price,
                _ => return Err("knows prompt, completion, request and image only".into()),
            }
        }
        Ok(())
    }

    fn set_weights(&mut self, value: &Value) -> Result<(), String> {
        let Value::Object(weights) = value else {
            return Err(r#"must be an object, such as {"price": 1, "latency": 0.5}"#.into());
        };
        for (name, weight) in weights {
            let known = Weights::NAMES.iter().find(|known| *known == name);
            let Some(name) = known else {
                return Err(format!("knows {} only", Weights::NAMES.join(", ")));
            };
            let weight = number(weight)?;
            if weight > Weights::MOST {
                return Err(format!("has a {name} over {}", Weights::MOST));
            }
            self.weights.retain(|(own, _)| own != name);
            self.weights.push((name, weight));
        }
        Ok(())
    }

    /// Takes over what headers say. The body goes before them: set these first.
    pub(crate) fn of_headers(headers: &HeaderMap) -> Result<Map<String, Value>, ApiError> {
        let mut fields = Map::new();
        for header in HEADERS {
            let mut values = headers.get_all(header.name).iter();
            let Some(value) = values.next() else {
                continue;
            };
            let text = value.to_str().ok().filter(|_| values.next().is_none());
            let text = text.map(str::trim).filter(|text| text.len() <= 8192);
            let Some(text) = text else {
                let message = format!("{} must be there once, as plain text.", header.name);
                return Err(ApiError::invalid_param(header.name, message));
            };
            let (field, value) = header.read(text);
            fields.insert(field, value);
        }
        Ok(fields)
    }
}

/// A header and the field that it stands for. A quote's URL names the field itself.
pub(crate) struct Header {
    name: &'static str,
    field: &'static str,
    /// The value as the body would have it. What makes no sense is found where the body's is.
    value: fn(&str) -> Value,
}

/// The fields that a quote's URL may name.
pub(crate) const FIELDS_OF_QUERY: &[Header] = &HEADERS;

impl Header {
    /// Whether it stands for the field.
    pub(crate) fn is(&self, field: &str) -> bool {
        self.field == field
    }

    /// The field, and a value of it as the body would have it.
    pub(crate) fn read(&self, text: &str) -> (String, Value) {
        (self.field.to_owned(), (self.value)(text.trim()))
    }
}

const HEADERS: [Header; 10] = [
    header("x-derouter-sort", "sort", |text| text.into()),
    header("x-derouter-order", "order", list),
    header("x-derouter-only", "only", list),
    header("x-derouter-ignore", "ignore", list),
    header("x-derouter-quantizations", "quantizations", list),
    header("x-derouter-max-price", "max_price", prices),
    header(
        "x-derouter-allow-fallbacks",
        "allow_fallbacks",
        json_or_text,
    ),
    header("x-derouter-min-throughput", "min_throughput", json_or_text),
    header("x-derouter-max-latency", "max_latency", json_or_text),
    header("x-derouter-hedge", "hedge", json_or_text),
];

const fn header(name: &'static str, field: &'static str, value: fn(&str) -> Value) -> Header {
    Header { name, field, value }
}

fn list(text: &str) -> Value {
    let items = text.split(',').map(str::trim).filter(|it| !it.is_empty());
    items.map(Value::from).collect()
}

fn json_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// `0.5` for prompt and answer, or `prompt=0.2, completion=1`.
fn prices(text: &str) -> Value {
    if !text.contains('=') {
        return serde_json::json!({"prompt": text, "completion": text});
    }
    let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
    let pair = |pair: &str| {
        let (name, price) = pair.split_once('=').unwrap_or((pair, ""));
        (name.trim().to_owned(), Value::from(price.trim()))
    };
    Value::Object(pairs.map(pair).collect())
}

/// Puts what headers say into the body's object, where the body does not say it itself.
pub(crate) fn merge_headers(
    fields: &mut Map<String, Value>,
    headers: Map<String, Value>,
) -> Result<(), ApiError> {
    if headers.is_empty() {
        return Ok(());
    }
    let openrouter = fields.get(OPENROUTER).and_then(Value::as_object).cloned();
    let own = fields.entry(OWN).or_insert(Value::Null);
    if own.is_null() {
        *own = Value::Object(Map::new());
    }
    let Value::Object(own) = own else {
        return Err(wrong(OWN, "", "must be an object"));
    };
    for (name, value) in headers {
        let in_body =
            |fields: &Map<String, Value>| fields.get(&name).is_some_and(|it| !it.is_null());
        if !in_body(own) && !openrouter.as_ref().is_some_and(in_body) {
            own.insert(name, value);
        }
    }
    Ok(())
}

/// Fields of OpenRouter that mean nothing here are taken when they ask for nothing. A demand that
/// can't be met is refused: nobody is to believe that it was.
fn openrouter_only(name: &str, value: &Value) -> Result<(), String> {
    let fine = match name {
        // What a request needs is always required.
        "require_parameters" => value.is_boolean(),
        "data_collection" => value == "allow",
        "zdr" | "enforce_distillable_text" => value == &Value::Bool(false),
        "preferred_min_throughput" | "preferred_max_latency" => true,
        _ => return Err("is not known".into()),
    };
    match fine {
        true => Ok(()),
        false => Err("asks for what this gateway can't know of providers".into()),
    }
}

fn wrong(object: &'static str, field: &str, problem: &str) -> ApiError {
    let field: String = field.chars().take(MOST_NAME_BYTES).collect();
    let dot = if field.is_empty() { "" } else { "." };
    ApiError::invalid_param(object, format!("{object}{dot}{field} {problem}."))
}

fn sort(value: &Value) -> Result<Sort, String> {
    let name = value.get("by").unwrap_or(value).as_str();
    name.and_then(Sort::named)
        .ok_or_else(|| "must be price, latency or throughput".into())
}

fn flag(value: &Value) -> Result<bool, String> {
    value
        .as_bool()
        .ok_or_else(|| "must be true or false".into())
}

fn number(value: &Value) -> Result<f64, String> {
    let number = value.as_f64().filter(|it| it.is_finite() && *it >= 0.0);
    number.ok_or_else(|| "must be a number from 0".into())
}

fn texts(value: &Value) -> Result<Vec<String>, String> {
    let problem = || format!("must be a list of up to {MOST_ENTRIES} names");
    let list = value.as_array().filter(|list| list.len() <= MOST_ENTRIES);
    let text = |value: &Value| {
        let text = value.as_str().map(str::trim)?;
        (1..=MOST_NAME_BYTES)
            .contains(&text.len())
            .then(|| text.to_owned())
    };
    let texts: Option<Vec<String>> = list.ok_or_else(problem)?.iter().map(text).collect();
    texts.ok_or_else(problem)
}

/// OpenRouter's names for its providers are no error: they mean nobody here.
fn providers(value: &Value) -> Result<Vec<ProviderName>, String> {
    let name = |text: String| match text.parse() {
        Ok(peer) => ProviderName::Peer(peer),
        Err(_) => ProviderName::End(text),
    };
    Ok(texts(value)?.into_iter().map(name).collect())
}

/// POL as decimal text or as a number, which is read by its digits.
fn pol(value: &Value) -> Result<Wei, String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => decimal(&number.to_string()),
        _ => return Err("is no number".into()),
    };
    if text.len() > MOST_NUMBER_BYTES {
        return Err("has too many digits".into());
    }
    Wei::from_pol_text(&text).map_err(|error| format!("is no amount of POL ({error})"))
}

/// A JSON number without its exponent, if it has a small one: `1e-7` is how `0.0000001` is written
/// by some clients.
fn decimal(number: &str) -> String {
    let Some((digits, exponent)) = number.split_once(['e', 'E']) else {
        return number.to_owned();
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let Some(places) = exponent
        .parse::<i32>()
        .ok()
        .filter(|it| (-18..=18).contains(it))
    else {
        return number.to_owned();
    };
    let digits = format!("{whole}{fraction}");
    let point = i32::try_from(whole.len()).unwrap_or(0) + places;
    let before = usize::try_from(point).unwrap_or(0);
    let zeros = "0".repeat(usize::try_from(-point).unwrap_or(0));
    let padded = format!("{digits:0<before$}");
    match padded.split_at_checked(before) {
        Some(("", behind)) => format!("0.{zeros}{behind}"),
        Some((front, "")) => front.to_owned(),
        Some((front, behind)) => format!("{front}.{behind}"),
        None => number.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn take(mut body: Value) -> Result<Preferences, ApiError> {
        let fields = body.as_object_mut().unwrap();
        let taken = Preferences::take(fields)?;
        assert!(!Preferences::are_in(fields), "nothing is sent on");
        Ok(taken)
    }

    fn wei(pol: &str) -> Option<Wei> {
        Some(Wei::from_pol_text(pol).unwrap())
    }

    #[test]
    fn both_objects_are_read_and_ours_wins() {
        let peer = PeerId::random();
        let read = take(json!({"model": "m",
            "derouter": {"sort": "price", "max_price": {"prompt": 0.25, "request": "0.001"}},
            "provider": {"sort": {"by": "latency"}, "order": [peer.to_string(), "OpenAI"],
                "allow_fallbacks": false, "data_collection": "allow", "max_price": {"completion": 1e-7}}}));
        let read = read.unwrap();
        assert_eq!(read.sort, Some(Sort::Price));
        assert_eq!(read.max_price.prompt, wei("0.25"));
        assert_eq!(read.max_price.completion, wei("0.0000001"));
        assert_eq!(read.max_price.request, wei("0.001"));
        assert_eq!(read.place(&peer), Some(0));
        assert!(!read.allow_fallbacks);
        assert_eq!(
            take(json!({"provider": null})).unwrap(),
            Preferences::default()
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let many: Vec<String> = (0..65).map(|n| n.to_string()).collect();
        for (body, name) in [
            (json!({"derouter": 1}), "derouter must"),
            (json!({"derouter": {"sort": "best"}}), "derouter.sort must"),
            (
                json!({"derouter": {"ordre": []}}),
                "derouter.ordre is not known",
            ),
            (json!({"derouter": {"only": "x"}}), "derouter.only must"),
            (json!({"derouter": {"only": many}}), "derouter.only must"),
            (
                json!({"derouter": {"max_price": {"prompt": -1}}}),
                "derouter.max_price",
            ),
            (
                json!({"derouter": {"max_price": {"prompt": "9".repeat(80)}}}),
                "derouter.max_price",
            ),
            (
                json!({"derouter": {"max_price": {"promt": 1}}}),
                "derouter.max_price",
            ),
            (json!({"derouter": {"max_price": 1}}), "derouter.max_price"),
            (
                json!({"derouter": {"weights": {"luck": 1}}}),
                "derouter.weights",
            ),
            (
                json!({"derouter": {"weights": {"price": 1e9}}}),
                "derouter.weights",
            ),
            (
                json!({"derouter": {"min_throughput": -1}}),
                "derouter.min_throughput",
            ),
            (
                json!({"provider": {"data_collection": "deny"}}),
                "provider.data_collection",
            ),
            (json!({"provider": {"new": 1}}), "provider.new"),
        ] {
            let error = take(body.clone()).unwrap_err();
            assert_eq!(error.status, 400);
            assert!(error.message.starts_with(name), "{body}: {}", error.message);
        }
    }

    #[test]
    fn headers_say_what_the_body_does_not() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-derouter-sort", "price"),
            ("x-derouter-only", "abcdefgh, ijklmnop"),
            ("x-derouter-max-price", "prompt=0.2, completion=1"),
            ("x-derouter-allow-fallbacks", "false"),
            ("x-derouter-min-throughput", "20"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let mut body = json!({"provider": {"sort": "latency"}, "derouter": {"min_throughput": 5}});
        let fields = body.as_object_mut().unwrap();
        let said = Preferences::of_headers(&headers).unwrap();
        merge_headers(fields, said).unwrap();
        let read = Preferences::take(fields).unwrap();
        assert_eq!(read.sort, Some(Sort::Latency));
        assert_eq!(read.min_throughput, Some(5.0));
        assert_eq!(read.only.unwrap().len(), 2);
        assert_eq!(read.max_price.completion, wei("1"));
        assert!(!read.allow_fallbacks);
        let both = prices("0.5");
        assert_eq!(both, json!({"prompt": "0.5", "completion": "0.5"}));
        headers.append("x-derouter-sort", "latency".parse().unwrap());
        assert_eq!(
            Preferences::of_headers(&headers).unwrap_err().param,
            Some("x-derouter-sort")
        );
    }

    #[test]
    fn the_end_of_a_peer_id_stands_for_it_if_it_is_long_enough() {
        let peer = PeerId::random();
        let id = peer.to_string();
        let end = |count: usize| ProviderName::End(id.get(id.len() - count..).unwrap().to_owned());
        assert!(end(8).means(&peer));
        assert!(!end(7).means(&peer));
        assert!(!end(8).means(&PeerId::random()));
    }

    #[test]
    fn numbers_with_an_exponent_are_read_by_their_digits() {
        for (number, text) in [
            ("1e-7", "0.0000001"),
            ("1.5e-3", "0.0015"),
            ("1.25e1", "12.5"),
            ("2e3", "2000"),
            ("12.5e-1", "1.25"),
            ("0.25", "0.25"),
        ] {
            assert_eq!(decimal(number), text, "{number}");
        }
    }
}
