//! What the providers in this process know, as pages show it, and changes of their offers.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use derouter_openai::provider::prices::{NoWindow, PriceWindow};
use derouter_openai::provider::view::{OfferView, Viewer};
use derouter_openai::provider::{BackendConfig, OfferEdit, OfferStore, Secret};
use derouter_sdk::{Wei, async_trait};
use derouter_web::modules::{Backend, OfferDraft, OfferTerms, ProvidedOffer, Provider};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::text;

/// How long a test of an offer may take: a model may have to be loaded first.
const TEST_TIME: Duration = Duration::from_secs(60);

/// Tokens that a test asks for.
const TEST_TOKENS: u32 = 16;

/// Bytes of a test's answer that are read.
const TEST_BYTES: usize = 256 * 1024;

/// A server, and its key.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    url: String,
    key: Option<Secret>,
}

impl Server {
    pub(super) fn of(config: &BackendConfig) -> Self {
        Self {
            url: config.base_url.clone(),
            key: config.api_key.clone(),
        }
    }
}

/// The providers of this process.
pub(super) struct Bridge {
    viewers: Vec<Viewer>,
    store: OfferStore,
    servers: Vec<Server>,
    client: reqwest::Client,
}

impl Bridge {
    pub(super) fn new(
        viewers: Vec<Viewer>,
        data_dir: &Path,
        servers: Vec<Server>,
    ) -> Result<Self, Failure> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(TEST_TIME)
            .redirect(reqwest::redirect::Policy::none())
            .build();
        Ok(Self {
            viewers,
            store: OfferStore::new(data_dir),
            servers,
            client: client.map_err(Failure::failed)?,
        })
    }

    fn find(&self, id: &str) -> Option<OfferView> {
        let views = self.viewers.iter().map(Viewer::view);
        let mut offers = views.flat_map(|view| view.offers);
        offers.find(|offer| offer.id == id)
    }

    /// Whether a server is one of the configuration: no other one is asked.
    fn serves_from(&self, url: &str) -> bool {
        let mut views = self.viewers.iter().map(Viewer::view);
        views.any(|view| view.backends.iter().any(|it| it.base_url == url))
    }

    async fn ask(&self, offer: &OfferView) -> Result<String, String> {
        let server = self
            .servers
            .iter()
            .find(|it| shown(&it.url) == shown(&offer.backend));
        let server = server.ok_or("The server of this offer is not known.")?;
        let url = format!("{}/chat/completions", server.url.trim_end_matches('/'));
        let question = json!({
            "model": offer.backend_model,
            "max_tokens": TEST_TOKENS,
            "messages": [{"role": "user", "content": "Say one word."}],
        });
        let asked = self
            .client
            .post(url)
            .header("content-type", "application/json");
        let mut asked = asked.body(question.to_string());
        if let Some(key) = &server.key {
            asked = asked.bearer_auth(key.expose());
        }
        let begin = Instant::now();
        let mut answer = asked.send().await.map_err(|error| {
            let error = error.without_url();
            format!("The test failed: the server does not answer ({error}).")
        })?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer
            .chunk()
            .await
            .map_err(|_| "The test failed: the answer broke off.")?
        {
            body.extend_from_slice(&chunk);
            if body.len() > TEST_BYTES {
                return Err("The test failed: the answer is too long.".to_owned());
            }
        }
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !status.is_success() {
            let message = value.pointer("/error/message").and_then(Value::as_str);
            let message = message.unwrap_or("it gives no reason");
            return Err(format!(
                "The test failed: the server says {status}: {message}"
            ));
        }
        let tokens = value
            .pointer("/usage/completion_tokens")
            .and_then(Value::as_u64);
        let took = begin.elapsed().as_secs_f64();
        Ok(match tokens {
            Some(tokens) => format!("The test went well: {tokens} tokens in {took:.2} s."),
            None => format!(
                "An answer came in {took:.2} s, but without `usage`: answers can't be billed."
            ),
        })
    }
}

/// A base URL as the view shows it: without user and password.
fn shown(url: &str) -> String {
    let Ok(mut url) = reqwest::Url::parse(url) else {
        return url.to_owned();
    };
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.as_str().trim_end_matches('/').to_owned()
}

/// What a draft changes of an offer: what is as it was is left to the configuration.
fn edit(draft: OfferDraft, before: Option<&ProvidedOffer>) -> Result<OfferEdit, String> {
    fn other<T: PartialEq>(said: T, was: Option<&T>) -> Option<T> {
        (Some(&said) != was).then_some(said)
    }
    let was = before.map_or_else(OfferTerms::none, |it| it.terms.clone());
    let terms = draft.terms.other_than(&was);
    let windows = terms.schedule.map(|lines| {
        let windows = lines.iter().map(|line| line.parse());
        windows.collect::<Result<Vec<PriceWindow>, NoWindow>>()
    });
    Ok(OfferEdit {
        model_id: other(draft.model, before.map(|it| &it.model)),
        context_size: other(draft.context, before.map(|it| &it.context)),
        input_token_price: other(draft.input_price, before.map(|it| &it.own_input_price)),
        output_token_price: other(draft.output_price, before.map(|it| &it.own_output_price)),
        max_concurrency: other(draft.places, before.map(|it| &it.places)),
        backend_model: terms.backend_model,
        aliases: terms.aliases,
        description: terms.description,
        schedule: windows.transpose().map_err(|error| error.to_string())?,
        request_price: terms.request_price,
        trial: terms.trial,
        max_output: terms.max_output,
        max_concurrency_per_consumer: terms.places_per_consumer,
        max_queue: terms.queue,
        features: terms.features,
        quantization: terms.quantization,
        region: terms.region,
        ..OfferEdit::default()
    })
}

fn provided(view: OfferView) -> ProvidedOffer {
    let wei = |text: &str| Wei::from_pol_text(text).unwrap_or(Wei::MAX);
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let total = view.total;
    let problem = view.problem.into_iter();
    let state: Vec<String> = view.text.into_iter().chain(problem).collect();
    ProvidedOffer {
        on_market: view.state == "announced",
        paused: view.state == "paused",
        state: state.join(". "),
        input_price: wei(&view.price.input),
        output_price: wei(&view.price.output),
        own_input_price: wei(&view.own_price.input),
        own_output_price: wei(&view.own_price.output),
        places: small(view.slots),
        running: small(view.in_use),
        waiting: small(view.queued),
        asked: total.requests,
        turned_away: total
            .full
            .saturating_add(total.waited)
            .saturating_add(total.too_fast),
        earned_today: wei(&view.income_today),
        terms: OfferTerms {
            backend_model: Some(view.backend_model),
            aliases: Some(view.aliases),
            description: Some(view.description.unwrap_or_default()),
            schedule: Some(
                view.schedule
                    .into_iter()
                    .map(|window| window.text)
                    .collect(),
            ),
            request_price: Some(wei(&view.request_price)),
            trial: Some(view.trial.as_deref().map_or(Wei::ZERO, wei)),
            max_output: Some(view.max_output.unwrap_or(0)),
            places_per_consumer: Some(small(view.slots_per_consumer)),
            queue: Some(small(view.queue)),
            features: Some(view.features.unwrap_or_default()),
            quantization: Some(view.quantization.unwrap_or_default()),
            region: Some(view.region.unwrap_or_default()),
        },
        of_config: view.origin != "added",
        edited: view.edited,
        id: view.id,
        model: view.model,
        backend: view.backend,
        context: view.context,
    }
}

#[async_trait]
impl Provider for Bridge {
    fn backends(&self) -> Vec<Backend> {
        let all = self
            .viewers
            .iter()
            .flat_map(|viewer| viewer.view().backends);
        let backend = |view: derouter_openai::provider::view::BackendView| Backend {
            up: view.state != "down",
            state: view.error.unwrap_or(match view.state.as_str() {
                "full" => "it refuses requests for now".to_owned(),
                "unchecked" => "it is not looked at (check_backend)".to_owned(),
                _ => String::new(),
            }),
            url: view.base_url,
        };
        let mut seen = BTreeSet::new();
        let each = all.map(backend);
        each.filter(|backend| seen.insert(backend.url.clone()))
            .collect()
    }

    fn offers(&self) -> Vec<ProvidedOffer> {
        let all = self.viewers.iter().flat_map(|viewer| viewer.view().offers);
        all.map(provided).collect()
    }

    async fn set_paused(&self, id: &str, paused: bool) -> Result<(), String> {
        self.find(id).ok_or("There is no such offer.")?;
        let done = match paused {
            true => self.store.pause(id, text::now()),
            false => self.store.resume(id, text::now()),
        };
        done.map_err(|error| error.to_string())
    }

    async fn save(&self, draft: OfferDraft) -> Result<(), String> {
        let before = self.find(&draft.id);
        let other = before.as_ref().is_none_or(|it| it.backend != draft.backend);
        if other && !self.serves_from(&draft.backend) {
            return Err("The configuration has no such server.".to_owned());
        }
        let (id, backend, now) = (draft.id.clone(), draft.backend.clone(), text::now());
        let done = match (before.map(provided), draft.is_new) {
            (None, true) => self.store.add(&id, &backend, edit(draft, None)?, now),
            (Some(before), false) => {
                let moved = other.then_some(backend.as_str());
                self.store
                    .edit(&id, edit(draft, Some(&before))?, moved, now)
            }
            (Some(_), true) => {
                return Err("There is an offer of that id already: edit that one.".to_owned());
            }
            (None, false) => return Err("There is no such offer.".to_owned()),
        };
        done.map_err(|error| error.to_string())
    }

    async fn remove(&self, id: &str) -> Result<(), String> {
        self.find(id).ok_or("There is no such offer.")?;
        self.store
            .remove(id, text::now())
            .map_err(|error| error.to_string())
    }

    async fn restore(&self, id: &str) -> Result<(), String> {
        self.store
            .restore(id)
            .map(drop)
            .map_err(|error| error.to_string())
    }

    async fn test(&self, id: &str) -> Result<String, String> {
        let offer = self.find(id).ok_or("There is no such offer.")?;
        self.ask(&offer).await
    }
}
