//! Programs that others use as a gateway, for comparison, where they are installed: nginx as a plain
//! reverse proxy, and LiteLLM's proxy. Each listens on 127.0.0.1 and has its files in a directory of
//! its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::process::Command;

use super::load::MODEL;
use crate::http;
use crate::pair::free_port;
use crate::process::Process;

/// How long a program may take to serve: LiteLLM loads for half a minute on a small machine.
const START_LIMIT: Duration = Duration::from_secs(180);

/// How often to look whether it serves.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A program that runs; dropping it ends it.
#[derive(Debug)]
pub struct Baseline {
    url: String,
    _process: Process,
    _directory: TempDir,
}

/// Where a program is: at a path that was named, or on the search path (where nginx is for root alone on
/// some systems).
pub fn find(named: Option<&Path>, program: &str) -> Option<PathBuf> {
    if let Some(named) = named {
        return Some(named.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let mut places = directories.map(|directory| directory.join(program));
    places.find(|place| place.is_file())
}

fn directory() -> TempDir {
    TempDir::with_prefix("derouter-bench-").expect("there is a temporary directory")
}

fn write(directory: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("the directory is ours");
    path
}

/// One process, connections to the upstream kept, events passed on as they come.
fn nginx_config(upstream: SocketAddr, port: u16) -> String {
    format!(
        "daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_max_body_size 64m;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  tcp_nodelay on;
  keepalive_requests 1000000;
  upstream backend {{
    server {upstream};
    keepalive 128;
    keepalive_requests 1000000;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_buffering off;
    }}
  }}
}}
"
    )
}

/// Starts nginx in front of a server.
pub async fn nginx(program: &Path, upstream: SocketAddr) -> Result<Baseline, String> {
    let (directory, port) = (directory(), free_port());
    let config = write(&directory, "nginx.conf", &nginx_config(upstream, port));
    let mut command = Command::new(program);
    command
        .arg("-p")
        .arg(directory.path())
        .arg("-c")
        .arg(config);
    Baseline::start("nginx", command, directory, port, "/v1/models").await
}

/// Starts LiteLLM's proxy in front of an OpenAI-compatible server. It asks nobody for prices.
pub async fn litellm(program: &Path, upstream: SocketAddr) -> Result<Baseline, String> {
    let (directory, port) = (directory(), free_port());
    let config = format!(
        "model_list:
  - model_name: {MODEL}
    litellm_params:
      model: openai/{MODEL}
      api_base: http://{upstream}/v1
      api_key: bench
litellm_settings:
  telemetry: false
"
    );
    let config = write(&directory, "config.yaml", &config);
    let mut command = Command::new(program);
    command.arg("--config").arg(config);
    command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
    command
        .current_dir(directory.path())
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        .env("LITELLM_TELEMETRY", "False")
        // It is for this machine alone, and every request has the same key.
        .env(
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY",
            "true",
        )
        .env("LITELLM_LOG", "ERROR")
        .env("NO_PROXY", "127.0.0.1");
    Baseline::start("litellm", command, directory, port, "/health/liveliness").await
}

impl Baseline {
    async fn start(
        name: &str,
        command: Command,
        directory: TempDir,
        port: u16,
        ready: &str,
    ) -> Result<Self, String> {
        let mut process = Process::spawn(name, command);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let begin = Instant::now();
        while !serves(&format!("http://{address}{ready}")).await {
            if process.has_ended() || begin.elapsed() > START_LIMIT {
                let said = process.output();
                let last: Vec<&str> = said.lines().rev().take(5).collect();
                return Err(format!("{name} does not serve: {}", last.join("; ")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(Self {
            url: format!("http://{address}/v1"),
            _process: process,
            _directory: directory,
        })
    }

    /// The base URL for clients.
    pub fn url(&self) -> &str {
        &self.url
    }
}

async fn serves(url: &str) -> bool {
    let answer = http::get(url).await;
    answer.is_ok_and(|answer| answer.status == 200)
}
