//! The client libraries for Python and JavaScript, driven step by step (tests/clients).

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The longest that a step may take, a whole stream with its pauses included.
const STEP_DEADLINE: Duration = Duration::from_secs(60);

/// Which package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Python,
    JavaScript,
}

/// A client process.
pub(crate) struct Client {
    pub(crate) language: Language,
    _child: Child,
    steps: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

fn scripts() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients")
}

/// What `cargo xtask test` installed, by an environment variable. Without it a test can't say
/// anything: where all is to be checked that is a failure, elsewhere it says so.
fn installed(variable: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{variable} is not set: run the tests with `cargo xtask test`"
    );
    eprintln!("skipped: {variable} is not set; `cargo xtask test` installs what it names");
    None
}

impl Language {
    fn command(self) -> Option<Command> {
        let mut command = match self {
            Language::Python => {
                let mut command = Command::new(installed("DEROUTER_TEST_PYTHON")?);
                command.arg(scripts().join("client.py"));
                command
            }
            Language::JavaScript => {
                installed("DEROUTER_TEST_NODE_MODULES")?;
                let mut command = Command::new("node");
                command.arg(scripts().join("client.mjs"));
                command
            }
        };
        // Proxies of the machine are not for 127.0.0.1.
        command
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1");
        Some(command)
    }
}

impl Client {
    /// Starts a client of an endpoint; `None` when its package is not there.
    pub(crate) fn start(language: Language, base_url: &str) -> Option<Self> {
        let mut command = language.command()?;
        command.arg(base_url).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let steps = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Some(Self {
            language,
            _child: child,
            steps,
            answers,
        })
    }

    /// Takes a step and returns what came of it.
    pub(crate) async fn step(&mut self, step: &Value) -> Value {
        self.send(step).await;
        self.answer().await
    }

    /// Begins a step.
    pub(crate) async fn send(&mut self, step: &Value) {
        let line = format!("{step}\n");
        self.steps.write_all(line.as_bytes()).await.unwrap();
        self.steps.flush().await.unwrap();
    }

    /// What came of the step that was begun.
    pub(crate) async fn answer(&mut self) -> Value {
        let line = tokio::time::timeout(STEP_DEADLINE, self.answers.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{:?}: a step hangs", self.language));
        let line = line
            .unwrap()
            .unwrap_or_else(|| panic!("{:?} ended", self.language));
        serde_json::from_str(&line).unwrap()
    }

    /// A step that must go well; returns its answer (or its chunks, when streamed).
    pub(crate) async fn good(&mut self, op: &str, request: &Value) -> Value {
        let step = json!({"op": op, "request": request});
        let answer = self.step(&step).await;
        assert_eq!(answer["ok"], true, "{:?} {step}: {answer}", self.language);
        let streamed = answer.get("chunks");
        streamed.unwrap_or(&answer["answer"]).clone()
    }

    /// A step that must fail; returns the whole result.
    pub(crate) async fn bad(&mut self, op: &str, request: &Value) -> Value {
        let step = json!({"op": op, "request": request});
        let answer = self.step(&step).await;
        assert_eq!(answer["ok"], false, "{:?} {step}: {answer}", self.language);
        answer
    }
}

/// The text of streamed chat or completion chunks.
pub(crate) fn text_of(chunks: &Value) -> String {
    let chunks = chunks.as_array().unwrap().iter();
    let choices = chunks.map(|chunk| &chunk["choices"][0]);
    let texts = choices.filter_map(|choice| {
        choice["delta"]["content"]
            .as_str()
            .or_else(|| choice["text"].as_str())
    });
    texts.collect()
}

/// The chunks that carry usage.
pub(crate) fn usages_of(chunks: &Value) -> Vec<Value> {
    let chunks = chunks.as_array().unwrap().iter();
    let usages = chunks.map(|chunk| chunk["usage"].clone());
    usages.filter(|usage| !usage.is_null()).collect()
}
