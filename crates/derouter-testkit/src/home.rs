//! A node's directory and configuration; it outlives the node's processes.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::{NodeProcess, Process};

/// A node's configuration, as the file will have it. All ports are free ones; mDNS and port mapping
/// are off, so that nothing outside of this machine is spoken to.
#[derive(Clone, Debug)]
pub struct NodeConfig(pub Value);

impl Default for NodeConfig {
    fn default() -> Self {
        Self(json!({
            "server": {"port": 0},
            "listen": ["/ip4/127.0.0.1/tcp/0"],
            "mdns": false,
            "port_mapping": false,
            "bootstrap": [],
            "web": {"port": 0},
        }))
    }
}

/// What one million tokens cost in the tests: 1 POL in, 2 POL out, so that a token is 1e12 wei
/// and 2e12 wei.
const PRICES_POL: (&str, &str) = ("1", "2");

/// An offer for a configuration, under the tests' prices.
pub fn offer(model_id: &str) -> Value {
    let (input, output) = PRICES_POL;
    json!({
        "model_id": model_id,
        "context_size": 131_072,
        "max_concurrency": 64,
        "input_token_price": {"$pol": input},
        "output_token_price": {"$pol": output},
    })
}

/// The body of an OpenAI provider's configuration: one offer for each model, named after it.
pub fn openai_provider(backend_url: &str, models: &[&str]) -> Value {
    let offers = models
        .iter()
        .map(|model| ((*model).to_owned(), offer(model)));
    json!({
        // Tests name models as they like.
        "check_backend": "alive",
        "openai_base_url": backend_url,
        "openai_api_key": BACKEND_KEY,
        "offers": Value::Object(offers.collect()),
    })
}

/// The body of an OpenAI consumer's configuration: a free port, every model on offer.
pub fn openai_consumer() -> Value {
    json!({
        "server": {"host": "127.0.0.1", "port": 0},
        "limits": {"daily": {"$pol": "1000000"}, "total": {"$pol": "1000000"}},
    })
}

/// The key that providers in tests have for their backend.
pub const BACKEND_KEY: &str = "backend-key";

impl NodeConfig {
    /// Sets a top-level key.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0[key] = value.into();
        self
    }

    /// Provides one offer for each model, named after it, in front of a backend.
    #[must_use]
    pub fn provides(mut self, backend_url: &str, models: &[&str]) -> Self {
        self.0["provider"] = json!({"name": "testkit"});
        self.0["openai"]["provider"] = openai_provider(backend_url, models);
        self
    }

    /// Serves the OpenAI endpoint on a free port, for every model on offer.
    #[must_use]
    pub fn consumes(mut self) -> Self {
        self.0["openai"]["consumer"] = openai_consumer();
        self
    }

    /// Knows this peer from the start.
    #[must_use]
    pub fn bootstrap(mut self, address: impl Into<Value>) -> Self {
        if let Some(list) = self.0["bootstrap"].as_array_mut() {
            list.push(address.into());
        }
        self
    }
}

/// A directory with a configuration file and the node's data; removed when dropped.
#[derive(Debug)]
pub struct NodeHome {
    directory: TempDir,
    name: String,
}

impl NodeHome {
    /// Makes a directory in which `config` is written, with `data_dir` set inside unless the
    /// configuration names one.
    pub fn new(name: &str, config: &NodeConfig) -> Self {
        let home = Self {
            directory: TempDir::with_prefix("derouter-").expect("there is a temporary directory"),
            name: name.to_owned(),
        };
        home.configure(config);
        home
    }

    /// Replaces the configuration, for the next start.
    pub fn configure(&self, config: &NodeConfig) {
        let mut value = config.0.clone();
        if value.get("data_dir").is_none() {
            value["data_dir"] = self.data_dir().to_string_lossy().into_owned().into();
        }
        let text = serde_json::to_string_pretty(&value).expect("a value is JSON");
        self.write("config.json", &text);
    }

    /// Writes a file into the directory and returns its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).expect("the directory is ours");
        path
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where the node keeps its data.
    pub fn data_dir(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.path().join("config.json")
    }

    /// The command that runs the node, for a caller that wraps it.
    pub fn command(&self, binary: &Path) -> Command {
        let mut command = Command::new(binary);
        self.arguments(&mut command);
        command
    }

    /// Adds the node's arguments and environment to a command.
    pub fn arguments(&self, command: &mut Command) {
        command.arg("run").arg("-c").arg(self.config_path());
        command.arg("--ready-json");
        self.environment(command);
    }

    /// Sets a command's directory and environment as those of the node.
    pub fn environment(&self, command: &mut Command) {
        command.current_dir(self.path());
        let level = std::env::var("DEROUTER_TEST_LOG").unwrap_or_else(|_| "info".to_owned());
        command.env("RUST_LOG", level).env("NO_COLOR", "1");
    }

    /// Starts the node without waiting for it.
    pub fn spawn(&self, binary: &Path) -> Process {
        Process::spawn(&self.name, self.command(binary))
    }

    /// Starts the node and waits until it serves.
    pub async fn start(&self, binary: impl AsRef<Path>) -> NodeProcess {
        NodeProcess::start(binary, self).await
    }
}
