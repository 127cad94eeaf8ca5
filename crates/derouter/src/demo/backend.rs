//! Which server answers in the demo: the one that the user names, one found on this machine, or
//! the built-in echo.

use std::time::Duration;

use derouter_openai::provider::echo::ECHO_MODEL;
use derouter_openai::provider::{
    DetectedBackend, EchoBackend, Secret, detect_backends, start_echo_backend,
};
use serde_json::Value;

use super::screen::Screen;
use crate::cli::DemoArgs;
use crate::failure::Failure;

/// The environment variable with the key of the server that `--backend` names.
const KEY_VARIABLE: &str = "DEROUTER_BACKEND_API_KEY";

/// How long a server may take to list its models.
const LIST_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes of a list of models at most. The longest known ones are some hundred KiB.
const LIST_BYTES: usize = 4 * 1024 * 1024;

/// A server, and the model to sell from it.
pub(super) struct Backend {
    pub(super) base_url: String,
    pub(super) api_key: Option<Secret>,
    pub(super) model: String,
    pub(super) echo: Option<EchoBackend>,
    /// What to call it.
    name: String,
}

/// Finds the server.
pub(super) async fn choose(args: &DemoArgs) -> Result<Backend, Failure> {
    if let Some(url) = &args.backend {
        return named(url, args.model.as_deref()).await;
    }
    let found = detect_backends().await;
    if let Some(backend) = pick(found, args.model.as_deref())? {
        return Ok(backend);
    }
    echo(args.model.as_deref()).await
}

impl Backend {
    /// Tells what answers.
    pub(super) fn introduce(&self, screen: &Screen) {
        if self.echo.is_none() {
            screen.item("backend", &format!("{} at {}", self.name, self.base_url));
            return;
        }
        screen.item(
            "backend",
            "a built-in echo: it is no model, and only repeats what you say",
        );
        screen.under("No OpenAI-compatible server was found on this machine (looked for Ollama on");
        screen
            .under("port 11434, LM Studio 1234, vLLM 8000, llama.cpp 8080). To use one: start it,");
        screen.under("or name it: derouter demo --backend http://127.0.0.1:11434/v1");
    }
}

async fn named(url: &str, model: Option<&str>) -> Result<Backend, Failure> {
    let client = super::chat::client()?;
    let key = std::env::var(KEY_VARIABLE)
        .ok()
        .filter(|key| !key.is_empty());
    let mut base_url = url.to_owned();
    let mut models = models(&client, &base_url, key.as_deref()).await;
    if models.is_err() && !url.ends_with("/v1") {
        // People give the server's address without the API's path.
        let longer = format!("{url}/v1");
        if let Ok(found) = self::models(&client, &longer, key.as_deref()).await {
            models = Ok(found);
            base_url = longer;
        }
    }
    let models = models.map_err(|error| {
        Failure::environment(format_args!(
            "no OpenAI-compatible server answers at {url}: {error}. Check the URL of --backend \
             and that the server is up; if it wants a key, set {KEY_VARIABLE}"
        ))
    })?;
    let model = choose_model(&models, model).map_err(|problem| wrong_model(&base_url, &problem))?;
    let api_key = key.map(Secret::new);
    Ok(Backend {
        base_url,
        api_key,
        model,
        echo: None,
        name: "the server".to_owned(),
    })
}

fn wrong_model(base_url: &str, problem: &str) -> Failure {
    Failure::environment(format_args!("the server at {base_url} {problem}"))
}

/// The first server that has the model, or any model to chat with.
fn pick(found: Vec<DetectedBackend>, model: Option<&str>) -> Result<Option<Backend>, Failure> {
    let mut problem = None;
    for server in found {
        match choose_model(&server.models, model) {
            Ok(model) => {
                return Ok(Some(Backend {
                    base_url: server.base_url,
                    api_key: None,
                    model,
                    echo: None,
                    name: server.name,
                }));
            }
            Err(error) => problem = Some(wrong_model(&server.base_url, &error)),
        }
    }
    match problem {
        // The user asked for a model of a real server: an echo would not be an answer.
        Some(problem) if model.is_some() => Err(problem),
        _ => Ok(None),
    }
}

async fn echo(model: Option<&str>) -> Result<Backend, Failure> {
    let echo = start_echo_backend()
        .await
        .map_err(|error| Failure::failed(format_args!("can't start the built-in echo: {error}")))?;
    Ok(Backend {
        base_url: echo.base_url(),
        api_key: None,
        model: model.unwrap_or(ECHO_MODEL).to_owned(),
        echo: Some(echo),
        name: "echo".to_owned(),
    })
}

/// The model that is asked for, or the first that looks like one to chat with.
fn choose_model(models: &[String], wanted: Option<&str>) -> Result<String, String> {
    let Some(wanted) = wanted else {
        let first = models.iter().find(|model| chats(model)).cloned();
        return first.ok_or_else(|| "has no model to chat with: load one first".to_owned());
    };
    // Ollama lists `llama3.2:latest` and answers to `llama3.2`.
    let tagged = format!("{wanted}:latest");
    let known = models
        .iter()
        .any(|model| *model == wanted || *model == tagged);
    if known {
        return Ok(wanted.to_owned());
    }
    let list: Vec<&str> = models.iter().take(10).map(String::as_str).collect();
    Err(format!(
        "has no model {wanted:?}. It has: {}",
        list.join(", ")
    ))
}

/// Whether a model's name is not that of one for something else.
fn chats(model: &str) -> bool {
    const OTHERS: [&str; 8] = [
        "embed",
        "rerank",
        "whisper",
        "tts",
        "bge-",
        "dall-e",
        "moderation",
        "transcribe",
    ];
    let model = model.to_lowercase();
    !OTHERS.iter().any(|other| model.contains(other))
}

/// Whether an endpoint lists a model.
pub(super) async fn lists_model(client: &reqwest::Client, url: &str, model: &str) -> bool {
    models(client, url, None)
        .await
        .is_ok_and(|models| models.iter().any(|known| known == model))
}

/// The models that a server lists.
async fn models(
    client: &reqwest::Client,
    base_url: &str,
    key: Option<&str>,
) -> Result<Vec<String>, String> {
    let mut request = client.get(format!("{base_url}/models"));
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    let list = async {
        let mut response = request.send().await.map_err(|error| reason(&error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("it answers {status}"));
        }
        let mut body = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(|error| reason(&error))? {
            body.extend_from_slice(&bytes);
            if body.len() > LIST_BYTES {
                return Err("its list of models is over 4 MiB".to_owned());
            }
        }
        parse_models(&body).ok_or_else(|| "its list of models makes no sense".to_owned())
    };
    match tokio::time::timeout(LIST_DEADLINE, list).await {
        Ok(models) => models,
        Err(_) => Err(format!(
            "it did not answer within {} s",
            LIST_DEADLINE.as_secs()
        )),
    }
}

/// The innermost reason, which says what is wrong ("connection refused").
fn reason(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn parse_models(body: &[u8]) -> Option<Vec<String>> {
    let list: Value = serde_json::from_slice(body).ok()?;
    let models = list.get("data")?.as_array()?.iter();
    Some(
        models
            .filter_map(|model| model.get("id")?.as_str().map(str::to_owned))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_first_model_to_chat_with_is_taken_unless_one_is_asked_for() {
        let models = names(&["nomic-embed-text:latest", "llama3.2:latest", "qwen3"]);
        assert_eq!(choose_model(&models, None).unwrap(), "llama3.2:latest");
        assert_eq!(choose_model(&models, Some("qwen3")).unwrap(), "qwen3");
        assert_eq!(choose_model(&models, Some("llama3.2")).unwrap(), "llama3.2");
        let error = choose_model(&models, Some("gpt")).unwrap_err();
        assert!(error.contains("gpt") && error.contains("qwen3"), "{error}");
        assert!(choose_model(&names(&["bge-m3"]), None).is_err());
    }

    #[test]
    fn a_list_of_models_is_read_and_nonsense_is_not() {
        let body = br#"{"object":"list","data":[{"id":"a"},{"id":"b","object":"model"},{}]}"#;
        assert_eq!(parse_models(body).unwrap(), names(&["a", "b"]));
        assert_eq!(parse_models(b"<html>"), None);
        assert_eq!(parse_models(b"{}"), None);
    }
}
