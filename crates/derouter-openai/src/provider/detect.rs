//! Finds OpenAI-compatible servers on this machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use super::backend::Backend;
use super::config::{Limits, Secret};

/// How long a server may take to name its models: it is on this machine.
const LIMIT: Duration = Duration::from_millis(500);

/// Where the usual servers listen when nobody says otherwise.
const USUAL: [(&str, u16); 4] = [
    ("Ollama", 11434),
    ("LM Studio", 1234),
    ("vLLM", 8000),
    ("llama.cpp", 8080),
];

/// A server that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetectedBackend {
    /// Its base URL, ending in `/v1`.
    pub base_url: String,
    /// The server that usually listens on that port.
    pub name: String,
    /// The models that it names; never empty.
    pub models: Vec<String>,
}

/// The servers with at least one model on the usual ports of 127.0.0.1, in the order Ollama, LM
/// Studio, vLLM, llama.cpp. Takes 500 ms at most. Nothing but this machine is asked.
pub async fn detect_backends() -> Vec<DetectedBackend> {
    detect_at(&USUAL).await
}

/// How long a server that was named may take to name its models.
const NAMED_LIMIT: Duration = Duration::from_secs(10);

/// The models that the server at a base URL names, in its order; empty when it is there but has no
/// list. The error is for the operator: why there is no such server.
pub async fn list_models(base_url: &str, api_key: Option<&Secret>) -> Result<Vec<String>, String> {
    let backend = Backend::new_at(base_url, api_key, Limits::default(), true);
    let backend = backend.map_err(|error| error.to_string())?;
    let asked = timeout(NAMED_LIMIT, backend.probe()).await;
    let models = asked.map_err(|_| "it does not answer within 10 s".to_owned())??;
    let models = models.unwrap_or_default().into_iter();
    Ok(models.map(|model| model.id).collect())
}

async fn detect_at(places: &[(&str, u16)]) -> Vec<DetectedBackend> {
    let found = join_all(places.iter().map(|(name, port)| ask(name, *port))).await;
    found.into_iter().flatten().collect()
}

async fn ask(name: &str, port: u16) -> Option<DetectedBackend> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let base_url = format!("http://{address}/v1");
    let backend = Backend::new(&base_url, None, Limits::default()).ok()?;
    let models = timeout(LIMIT, backend.models()).await.ok()?.ok()?;
    if models.is_empty() {
        return None;
    }
    Some(DetectedBackend {
        base_url,
        name: name.to_owned(),
        models,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_is_found_by_its_models_and_a_silent_one_is_passed_over() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let echo = crate::provider::start_echo_backend().await.unwrap();
        let places = [
            ("silent", silent.local_addr().unwrap().port()),
            ("echo", echo.address().port()),
        ];
        let found = detect_at(&places).await;
        let expected = DetectedBackend {
            base_url: echo.base_url(),
            name: "echo".to_owned(),
            models: vec![crate::provider::echo::ECHO_MODEL.to_owned()],
        };
        assert_eq!(found, [expected]);
    }
}
