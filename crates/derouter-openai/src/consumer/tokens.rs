//! Exact counts of tokens, for models whose tokenizer the owner names: what a bill may be is known to a few
//! percent then, and not only within [`estimate`](crate::estimate).
//!
//! What no text shows is allowed for: the marks of a chat's template, ends, marks around calls, and that a
//! model may spell a text in more tokens than its tokenizer would.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kitoken::Kitoken;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::keys::matches;
use super::measure::{OPAQUE_PARTS, PROMPT_FIELDS, SHOWN_FIELDS};
use super::request::{OPAQUE_PART_TOKENS, Size, TEMPLATE_TOKENS};
use crate::estimate;
use crate::files::read_within;

mod said;

pub(crate) use said::Said;

/// The largest file: those of the largest vocabularies have half of it.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Text of a prompt or an answer that is counted; of more, only the estimate is known.
const MAX_TEXT_BYTES: usize = 2 * 1024 * 1024;

/// Text is counted in pieces, so that none takes long. Each cut adds a token at most to a few thousand.
const PIECE_BYTES: usize = 16 * 1024;

/// What a bill may be over the count: a sixteenth.
const TOLERANCE_DIVISOR: u64 = 16;

/// Tokens around each named field of a message.
const FIELD_TOKENS: u64 = 8;

/// Tokens with which a template tells of tools. Their JSON counts twice: it may be laid out.
const TOOLS_TOKENS: u64 = 512;

/// Counts at a time, over all answers: each takes a processor.
const COUNTS_AT_A_TIME: usize = 2;

/// How long a count may take, its wait for a place included. A bill does not wait longer.
const COUNTING_TIME: Duration = Duration::from_secs(10);

/// Why a tokenizer can't be used.
#[derive(Debug, thiserror::Error)]
#[error("the tokenizer {} can't be used: {why}", path.display())]
pub struct TokenizerError {
    path: PathBuf,
    why: String,
}

/// The tokenizers that the owner names.
#[derive(Debug, Default)]
pub(crate) struct Tokenizers {
    /// By the name of a model or a pattern of names.
    named: Vec<(String, Tokenizer)>,
}

/// One of them.
#[derive(Clone)]
pub(crate) struct Tokenizer(Arc<Kitoken>);

/// The most that may be billed, allowances included. `None` where the text was too long to be counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) input: Option<u64>,
    pub(crate) output: Option<u64>,
}

/// More is billed than the tokenizer makes of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{billed} {what} are billed, and by the model's tokenizer they can be {most} at most")]
pub(crate) struct Inflated {
    what: &'static str,
    billed: u64,
    most: u64,
}

impl Counted {
    /// Checks a bill, of an answer that may have so many tokens beside its text.
    pub(crate) fn check(&self, input: u64, output: u64, hidden: u64) -> Result<(), Inflated> {
        let output_most = self.output.map(|most| most.saturating_add(hidden));
        let counts = [
            ("input tokens", input, self.input),
            ("output tokens", output, output_most),
        ];
        for (what, billed, most) in counts {
            if let Some(most) = most.filter(|most| billed > *most) {
                return Err(Inflated { what, billed, most });
            }
        }
        Ok(())
    }
}

impl Tokenizers {
    /// Reads the files, each once. Blocks for the disk.
    pub(crate) fn load(named: &BTreeMap<String, PathBuf>) -> Result<Self, TokenizerError> {
        let mut files = HashMap::new();
        let mut all = Vec::new();
        for (pattern, path) in named {
            let tokenizer = match files.get(path) {
                Some(known) => Tokenizer::clone(known),
                None => Tokenizer::read(path)?,
            };
            files.insert(path, tokenizer.clone());
            all.push((pattern.clone(), tokenizer));
        }
        // The longest pattern that fits says most.
        all.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
        Ok(Self { named: all })
    }

    /// That of a model, by any of these names of it.
    pub(crate) fn of(&self, names: [&str; 2]) -> Option<Tokenizer> {
        let exact = |(pattern, _): &&(String, Tokenizer)| names.contains(&pattern.as_str());
        let fits =
            |(pattern, _): &&(String, Tokenizer)| names.iter().any(|name| matches(pattern, name));
        let mut all = self.named.iter();
        let found = all.find(exact).or_else(|| self.named.iter().find(fits));
        found.map(|(_, tokenizer)| tokenizer.clone())
    }
}

/// Checks a file. Blocks for the disk.
///
/// # Errors
/// When a gateway could not use it.
pub fn check_tokenizer(path: &Path) -> Result<(), TokenizerError> {
    Tokenizer::read(path).map(drop)
}

impl Tokenizer {
    fn read(path: &Path) -> Result<Self, TokenizerError> {
        let failed = |why: String| TokenizerError {
            path: path.to_owned(),
            why,
        };
        let bytes = read_within(path, FILE_BYTES).map_err(|error| failed(error.to_string()))?;
        let bytes = bytes.ok_or_else(|| failed("there is no such file".to_owned()))?;
        // What the file says is not to be trusted: a reader that gives up in the middle says so by a panic.
        let parsed = std::panic::catch_unwind(|| Kitoken::from_tokenizers_slice(&bytes));
        match parsed {
            Ok(Ok(tokenizer)) => Ok(Self(Arc::new(tokenizer))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("it is damaged".to_owned())),
        }
    }

    fn count(&self, text: &str) -> Option<u64> {
        let mut tokens = 0_usize;
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at_checked(rest.floor_char_boundary(PIECE_BYTES))?;
            tokens = tokens.saturating_add(self.0.encode(piece, false).ok()?.len());
            rest = behind;
        }
        u64::try_from(tokens).ok()
    }
}

/// Where counts are made: off the threads that serve, some at a time, each with a deadline.
pub(crate) struct Counting {
    places: Arc<Semaphore>,
    /// The gateway stops: no bill waits any more.
    stop: CancellationToken,
}

impl Counting {
    /// Counts until the gateway stops.
    pub(crate) fn until(stop: CancellationToken) -> Self {
        Self {
            places: Arc::new(Semaphore::new(COUNTS_AT_A_TIME)),
            stop,
        }
    }

    /// The most that may be billed for a prompt and an answer. One is known when the other can't be counted.
    pub(crate) async fn most(
        &self,
        tokenizer: &Tokenizer,
        prompt: Prompt,
        said: Said,
        size: &Size,
    ) -> Counted {
        let (size, for_prompt, for_answer) = (*size, tokenizer.clone(), tokenizer.clone());
        let input = self.count(move || prompt.most(&for_prompt, &size));
        let output = self.count(move || said.most(&for_answer, &size));
        let (input, output) = tokio::join!(input, output);
        Counted { input, output }
    }

    async fn count<F>(&self, count: F) -> Option<u64>
    where
        F: FnOnce() -> Option<u64> + Send + 'static,
    {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            counted = timeout(COUNTING_TIME, self.in_its_turn(count)) => counted.ok().flatten(),
        }
    }

    async fn in_its_turn<F>(&self, count: F) -> Option<u64>
    where
        F: FnOnce() -> Option<u64> + Send + 'static,
    {
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        let counting = tokio::task::spawn_blocking(move || {
            // A count that is no longer waited for keeps its place until it ends.
            let _place = place;
            count()
        });
        // A text that it can't count, which the tokenizer says by a panic.
        counting.await.ok().flatten()
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokenizer")
    }
}

fn with_tolerance(tokens: u64) -> u64 {
    tokens.saturating_add(tokens / TOLERANCE_DIVISOR)
}

/// The texts of a prompt.
#[derive(Debug, Default)]
pub(crate) struct Prompt {
    text: String,
    /// What is shown to a model as JSON.
    shown: String,
    /// Named fields of messages, and token ids.
    fields: u64,
    ids: u64,
}

impl Prompt {
    /// That of a request.
    pub(crate) fn of(fields: &Map<String, Value>) -> Self {
        let mut prompt = Self::default();
        for name in PROMPT_FIELDS {
            let Some(value) = fields.get(name) else {
                continue;
            };
            match SHOWN_FIELDS.contains(&name) {
                true => prompt.shown.push_str(&value.to_string()),
                false => prompt.read(value),
            }
        }
        if let Some(format) = fields.get("response_format") {
            prompt.shown.push_str(&format.to_string());
        }
        prompt
    }

    fn read(&mut self, value: &Value) {
        match value {
            Value::String(text) => {
                self.text.push_str(text);
                // Texts of a prompt do not touch.
                self.text.push('\n');
            }
            Value::Number(_) => self.ids = self.ids.saturating_add(1),
            Value::Array(items) => items.iter().for_each(|item| self.read(item)),
            Value::Object(object) => {
                for (name, inner) in object {
                    self.fields = self.fields.saturating_add(1);
                    if !OPAQUE_PARTS.contains(&name.as_str()) {
                        self.read(inner);
                    }
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn most(&self, tokenizer: &Tokenizer, size: &Size) -> Option<u64> {
        if self.text.len().saturating_add(self.shown.len()) > MAX_TEXT_BYTES {
            return None;
        }
        let tools = match self.shown.is_empty() {
            true => 0,
            false => TOOLS_TOKENS.saturating_add(tokenizer.count(&self.shown)?.saturating_mul(2)),
        };
        let counted = with_tolerance(tokenizer.count(&self.text)?)
            .saturating_add(tools)
            .saturating_add(self.ids)
            .saturating_add(self.fields.saturating_mul(FIELD_TOKENS))
            .saturating_add(TEMPLATE_TOKENS.saturating_mul(size.prompts))
            .saturating_add(OPAQUE_PART_TOKENS.saturating_mul(size.prompt.opaque_parts));
        // What is billed where a server reports nothing.
        Some(counted.max(estimate::billed(size.prompt.text_bytes)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::consumer::request::Asked;
    use crate::protocol::Endpoint;

    const SMALL: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../testdata/tokenizer/small.json"
    );

    pub(super) fn small() -> Tokenizer {
        Tokenizer::read(Path::new(SMALL)).unwrap()
    }

    pub(super) fn chat(more: &Value) -> Asked {
        let mut request = json!({"model": "m", "messages": [{"role": "user", "content": "Hello, how are you today?"}]});
        for (name, value) in more.as_object().unwrap() {
            request[name] = value.clone();
        }
        Asked::parse(Endpoint::Chat, request.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn counts_are_those_of_the_tokenizers_own_library() {
        let tokenizer = small();
        for (text, tokens) in [
            ("", 0),
            ("Hello, how are you today?", 14),
            ("word0 word1 word2 word3", 15),
            ("fn main() {\n    println!(\"{}\", 1 + 2);\n}\n", 26),
            (" \n\n\t  x", 7),
            (
                "The gateway counts the tokens of a prompt and of an answer.",
                16,
            ),
        ] {
            assert_eq!(tokenizer.count(text), Some(tokens), "{text:?}");
        }
        // What looks like a mark of the model is text, when somebody writes it.
        assert!(tokenizer.count("<|end|>").unwrap() > 1);
        let long = "The gateway counts the tokens of a prompt and of an answer. ".repeat(5000);
        let counted = tokenizer.count(&long).unwrap();
        assert!((80_000..81_000).contains(&counted), "{counted}");
    }

    #[tokio::test]
    async fn what_can_not_be_counted_leaves_the_rest_counted() {
        let counting = Counting::until(CancellationToken::new());
        assert_eq!(
            counting.count(|| panic!("a text like no other")).await,
            None
        );
        let asked = chat(&json!({}));
        let mut said = Said::of(&asked);
        for _ in 0..3 {
            said.event(&json!({"choices": [{"delta": {"content": "x".repeat(1 << 20)}}]}));
        }
        let counted = counting
            .most(&small(), Prompt::of(&asked.fields), said, &asked.size)
            .await;
        assert!(counted.input.is_some() && counted.output.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn no_bill_waits_for_its_count_for_ever() {
        let stop = CancellationToken::new();
        let counting = Counting::until(stop.clone());
        let asked = chat(&json!({}));
        let most = async || {
            let (prompt, said) = (Prompt::of(&asked.fields), Said::of(&asked));
            counting.most(&small(), prompt, said, &asked.size).await
        };
        let permits = u32::try_from(COUNTS_AT_A_TIME).unwrap();
        let others = counting.places.acquire_many(permits).await.unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(most().await, Counted::default());
        assert_eq!(began.elapsed().as_secs(), COUNTING_TIME.as_secs());
        stop.cancel();
        let began = tokio::time::Instant::now();
        assert_eq!(most().await, Counted::default());
        assert!(
            began.elapsed().is_zero(),
            "none waits once the gateway stops"
        );
        drop(others);
        assert_eq!(most().await, Counted::default());
    }

    #[test]
    fn a_prompt_is_allowed_its_template_and_no_more() {
        let tokenizer = small();
        let most = |more: &Value| {
            let asked = chat(more);
            Prompt::of(&asked.fields)
                .most(&tokenizer, &asked.size)
                .unwrap()
        };
        let plain = most(&json!({}));
        assert!(plain > 1024, "some templates have long system prompts");
        // A line of text and the word of a role, with two fields.
        let counted = tokenizer
            .count("user\nHello, how are you today?\n")
            .unwrap();
        assert_eq!(
            plain,
            with_tolerance(counted) + 2 * FIELD_TOKENS + TEMPLATE_TOKENS
        );
        let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
        let shown = tokenizer.count(&tools.to_string()).unwrap();
        assert_eq!(
            most(&json!({"tools": tools})),
            plain + TOOLS_TOKENS + 2 * shown
        );
        let words = "word ".repeat(10_000);
        let long = most(&json!({"messages": [{"role": "user", "content": words}]}));
        let counted = tokenizer.count(&words).unwrap();
        assert!(
            long <= with_tolerance(counted).max(50_016 / 4) + TEMPLATE_TOKENS + 72,
            "{long}"
        );
        let asked = chat(&json!({"messages": [{"role": "user", "content": "x".repeat(3 << 20)}]}));
        assert_eq!(
            Prompt::of(&asked.fields).most(&tokenizer, &asked.size),
            None
        );
    }

    #[test]
    fn a_model_has_the_tokenizer_whose_name_says_most() {
        let path = PathBuf::from(SMALL);
        let named =
            ["*", "llama*", "llama-3*", "llama-3"].map(|name| (name.to_owned(), path.clone()));
        let tokenizers = Tokenizers::load(&named.into_iter().collect()).unwrap();
        assert!(tokenizers.of(["other", "qwen"]).is_some());
        let order: Vec<&str> = tokenizers
            .named
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(order, ["llama-3*", "llama-3", "llama*", "*"]);
        let first = &tokenizers.named[0].1.0;
        assert!(
            tokenizers
                .named
                .iter()
                .all(|(_, it)| Arc::ptr_eq(&it.0, first)),
            "read once"
        );
        assert!(Tokenizers::default().of(["m", "m"]).is_none());
    }

    #[test]
    fn a_file_that_can_not_be_used_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tokenizer.json");
        let small = std::fs::read_to_string(SMALL).unwrap();
        let cut = small.get(..small.len() / 2).unwrap();
        let others = [
            None,
            Some(""),
            Some("{}"),
            Some("[]"),
            Some(cut),
            Some(r#"{"model": {"type": "BPE"}}"#),
        ];
        for text in others {
            if let Some(text) = text {
                std::fs::write(&file, text).unwrap();
            }
            let error = check_tokenizer(&file).unwrap_err().to_string();
            assert!(error.contains(file.to_str().unwrap()), "{error}");
        }
    }
}
