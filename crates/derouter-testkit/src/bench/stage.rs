//! All processes of a bench: backend, two proxies, two nodes, and what others use where it is installed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::baselines::{self, Baseline};
use super::load::MODEL;
use super::report::Route;
use crate::home::{NodeConfig, NodeHome, offer};
use crate::pair::wait_model;
use crate::process::{NodeProcess, Process};

/// Everything that is measured, running.
#[derive(Debug)]
pub struct Stage {
    /// The consumer's node, which is asked.
    pub consumer: NodeProcess,
    /// The provider's node.
    pub provider: NodeProcess,
    direct: String,
    proxy: String,
    proxies: String,
    nginx: Option<Baseline>,
    litellm: Option<Baseline>,
    _processes: [Process; 3],
    _homes: [NodeHome; 2],
}

#[derive(Deserialize)]
struct Listening {
    address: SocketAddr,
}

async fn start(
    directory: &Path,
    name: &str,
    argument: Option<SocketAddr>,
) -> (Process, SocketAddr) {
    let argument = argument.map(|address| address.to_string());
    let arguments: Vec<&str> = argument.iter().map(String::as_str).collect();
    let mut process = Process::run(name, directory.join(name), &arguments);
    let parse = |line: &str| serde_json::from_str::<Listening>(line).ok();
    let listening = process.wait_line("its address", parse).await;
    (process, listening.address)
}

/// No limit may end the bench: not what is owed unsigned, not how many at once, not the budget.
fn selling(backend_url: &str) -> NodeConfig {
    let mut sold: Value = offer(MODEL);
    sold["max_concurrency"] = 1_024.into();
    let provider = json!({
        "check_backend": "alive",
        "openai_base_url": backend_url,
        "openai_api_key": "bench",
        "max_unsigned": {"$pol": "1000000"},
        "offers": {MODEL: sold},
    });
    NodeConfig::default().with("openai", json!({"provider": provider}))
}

impl Stage {
    /// Starts everything; the testkit's programs are in this program's directory. `nginx` and `litellm`
    /// name programs that are not on the search path; one that is not there or does not start is left
    /// out, which is told on the standard error.
    pub async fn start(node: &Path, nginx: Option<&Path>, litellm: Option<&Path>) -> Self {
        let own = std::env::current_exe().expect("this program has a path");
        let directory: PathBuf = own.parent().unwrap_or(Path::new(".")).to_owned();
        let (backend, backend_at) = start(&directory, "testkit_backend", None).await;
        let (inner, inner_at) = start(&directory, "testkit_proxy", Some(backend_at)).await;
        let (outer, outer_at) = start(&directory, "testkit_proxy", Some(inner_at)).await;
        let direct = format!("http://{backend_at}/v1");
        let provider_home = NodeHome::new("provider", &selling(&direct));
        let provider = provider_home.start(node).await;
        let buying = NodeConfig::default()
            .consumes()
            .bootstrap(provider.ready.bootstrap());
        let consumer_home = NodeHome::new("consumer", &buying);
        let consumer = consumer_home.start(node).await;
        wait_model(consumer.ready.openai_url(), MODEL).await;
        Self {
            consumer,
            provider,
            direct,
            proxy: format!("http://{inner_at}/v1"),
            nginx: match found(nginx, "nginx") {
                Some(program) => started(baselines::nginx(&program, backend_at).await),
                None => None,
            },
            litellm: match found(litellm, "litellm") {
                Some(program) => started(baselines::litellm(&program, backend_at).await),
                None => None,
            },
            proxies: format!("http://{outer_at}/v1"),
            _processes: [backend, inner, outer],
            _homes: [provider_home, consumer_home],
        }
    }

    /// The base URL of a route, if it is there.
    pub fn url(&self, route: Route) -> Option<&str> {
        match route {
            Route::Direct => Some(&self.direct),
            Route::Proxy => Some(&self.proxy),
            Route::Proxies => Some(&self.proxies),
            Route::Nginx => self.nginx.as_ref().map(Baseline::url),
            Route::LiteLlm => self.litellm.as_ref().map(Baseline::url),
            Route::Nodes => Some(self.consumer.ready.openai_url()),
        }
    }
}

fn found(named: Option<&Path>, program: &str) -> Option<PathBuf> {
    let found = baselines::find(named, program);
    if found.is_none() {
        eprintln!("skipped: {program} is not installed; --{program} PATH names one");
    }
    found
}

fn started(baseline: Result<Baseline, String>) -> Option<Baseline> {
    baseline.map_err(|why| eprintln!("skipped: {why}")).ok()
}
