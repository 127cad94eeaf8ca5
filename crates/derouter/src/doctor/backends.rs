//! The servers that are sold from.

use derouter_openai::provider::{BackendCheck, BackendConfig, list_models};

use super::{Check, Patient};

pub(super) async fn check(patient: &Patient, checks: &mut Vec<Check>) {
    const ID: &str = "backend";
    let Ok(config) = &patient.config else {
        return;
    };
    let backends = config
        .openai
        .providers
        .iter()
        .flat_map(|provider| &provider.backends);
    for backend in backends {
        if patient.offline {
            checks.push(Check::skip(
                ID,
                format!("{} was not asked", backend.base_url),
            ));
            continue;
        }
        one(backend, checks).await;
    }
}

async fn one(backend: &BackendConfig, checks: &mut Vec<Check>) {
    const ID: &str = "backend";
    const MODELS: &str = "backend-models";
    let url = &backend.base_url;
    let models = match list_models(url, backend.api_key.as_ref()).await {
        Ok(models) => models,
        Err(error) => {
            let remedy = match error.contains("401") || error.contains("key") {
                true => {
                    "set the right `openai_api_key`: derouter config set openai.provider.openai_api_key - < key.txt"
                }
                false => {
                    "start the server, or set the right `openai_base_url`; it ends in /v1 with most servers"
                }
            };
            checks.push(Check::fail(ID, format!("{url}: {error}"), remedy));
            return;
        }
    };
    checks.push(Check::ok(ID, format!("{url} answers")));
    if backend.options.check != BackendCheck::Models || models.is_empty() {
        checks.push(Check::ok(MODELS, "not compared"));
        return;
    }
    let named = |offer: &&derouter_openai::provider::OfferConfig| {
        let wanted = offer.backend_model.as_ref().unwrap_or(&offer.model_id);
        !models.iter().any(|model| model == wanted)
    };
    let missing = backend.offers.values().find(named);
    checks.push(match missing {
        None => Check::ok(MODELS, format!("{} named", models.len())),
        Some(offer) => {
            let wanted = offer.backend_model.as_ref().unwrap_or(&offer.model_id);
            let some: Vec<&str> = models.iter().take(5).map(String::as_str).collect();
            Check::fail(
                MODELS,
                format!("{url} names no model {wanted:?}: what offers it is not on the market"),
                format!(
                    "load the model there (`ollama pull {wanted}`), set `backend_model` to its name there, or \
                     `check_backend: \"alive\"`. It names {}",
                    some.join(", ")
                ),
            )
        }
    });
}
