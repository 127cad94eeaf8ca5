//! Which server a new node sells from.

use derouter_openai::provider::{DetectedBackend, Secret, detect_backends, list_models};

use super::output;
use crate::cli::init::InitArgs;
use crate::failure::Failure;
use crate::text;

/// Models that are shown in a question.
const SHOWN_MODELS: usize = 5;

/// An OpenAI-compatible server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) base_url: String,
    pub(super) name: String,
    /// Those that it names; those to sell, once it is chosen.
    pub(super) models: Vec<String>,
}

impl From<DetectedBackend> for Server {
    fn from(found: DetectedBackend) -> Self {
        Self {
            base_url: found.base_url,
            name: found.name,
            models: found.models,
        }
    }
}

/// The server that is named, or those that are found on this machine.
pub(super) async fn find(args: &InitArgs) -> Result<Vec<Server>, Failure> {
    let Some(url) = &args.backend else {
        let wanted = args.role.is_none_or(crate::cli::init::Role::sells);
        let found = match wanted {
            true => detect_backends().await,
            false => Vec::new(),
        };
        return Ok(found.into_iter().map(Server::from).collect());
    };
    let key = args.backend_key.clone().map(Secret::new);
    let mut problem = None;
    // People give the server's address without the API's path.
    let longer = (!url.ends_with("/v1")).then(|| format!("{url}/v1"));
    for base_url in std::iter::once(url.clone()).chain(longer) {
        match list_models(&base_url, key.as_ref()).await {
            Ok(models) => {
                let name = "the server".to_owned();
                return Ok(vec![Server {
                    base_url,
                    name,
                    models,
                }]);
            }
            Err(error) => problem = problem.or(Some(error)),
        }
    }
    let problem = problem.unwrap_or_default();
    Err(Failure::environment(format_args!(
        "no OpenAI-compatible server answers at {url}: {problem}. Check the URL of --backend and that \
         the server is up; if it wants a key, set DEROUTER_BACKEND_API_KEY"
    )))
}

/// The one to sell from, with the models to sell.
pub(super) fn choose(
    mut found: Vec<Server>,
    args: &InitArgs,
    asks: bool,
) -> Result<Server, Failure> {
    if found.is_empty() {
        return Err(Failure::environment(
            "no OpenAI-compatible server was found on this machine to sell from (looked for Ollama on port \
             11434, LM Studio 1234, vLLM 8000, llama.cpp 8080). Start it, or name it with `--backend URL`; \
             or buy only: `--role buy`",
        ));
    }
    let chosen = match asks && found.len() > 1 {
        true => ask_which(&found)?,
        false => 0,
    };
    let mut server = found.swap_remove(chosen);
    for model in &args.models {
        if !server.models.is_empty() && !server.models.contains(model) {
            let named = server.models.iter().take(SHOWN_MODELS).cloned();
            let named = text::printable(&named.collect::<Vec<_>>().join(", "));
            return Err(Failure::environment(format_args!(
                "{} names no model {model:?}. It names {named}",
                server.base_url
            )));
        }
    }
    if !args.models.is_empty() {
        server.models.clone_from(&args.models);
    }
    Ok(server)
}

fn ask_which(found: &[Server]) -> Result<usize, Failure> {
    for (index, server) in found.iter().enumerate() {
        let models: Vec<&str> = server.models.iter().map(String::as_str).collect();
        let shown = models.get(..SHOWN_MODELS.min(models.len())).unwrap_or(&[]);
        output::error_line(&format!(
            "  {}  {} at {}: {}",
            index + 1,
            server.name,
            server.base_url,
            text::printable(&shown.join(", "))
        ));
    }
    loop {
        let answer = output::ask("Sell from which? [1] ")?;
        let number = if answer.is_empty() {
            Ok(1)
        } else {
            answer.parse::<usize>()
        };
        match number.ok().and_then(|number| number.checked_sub(1)) {
            Some(index) if index < found.len() => return Ok(index),
            _ => output::error_line(&format!("Write a number from 1 to {}.", found.len())),
        }
    }
}
