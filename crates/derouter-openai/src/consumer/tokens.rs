//! Exact counts of tokens, for models whose tokenizer the owner names: what a bill may be is known to a few
//! percent then, and not only within [`estimate`](crate::estimate).
//!
//! What no text shows is allowed for: the marks of a chat's template, ends, marks around calls, and that a
//! model may spell a text in more tokens than its tokenizer would.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use kitoken::Kitoken;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::keys::matches;
use super::measure::{OPAQUE_PARTS, PROMPT_FIELDS, SHOWN_FIELDS, SILENT_FIELDS};
use super::request::{OPAQUE_PART_TOKENS, Size};
use crate::estimate;
use crate::files::read_within;

/// The largest file: those of the largest vocabularies have half of it.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Text of a prompt or an answer that is counted; of more, only the estimate is known.
const MAX_TEXT_BYTES: usize = 2 * 1024 * 1024;

/// Text is counted in pieces, so that none takes long. Each cut adds a token at most to a few thousand.
const PIECE_BYTES: usize = 16 * 1024;

/// What a bill may be over the count: a sixteenth.
const TOLERANCE_DIVISOR: u64 = 16;

/// Tokens of an answer besides its text: its beginning and end, marks around reasoning.
const ANSWER_TOKENS: u64 = 16;

/// Tokens around a call of a tool.
const CALL_TOKENS: u64 = 48;

/// Tokens of a chat's template besides its messages: a default system prompt.
const TEMPLATE_TOKENS: u64 = 128;

/// Tokens around each named field of a message.
const FIELD_TOKENS: u64 = 8;

/// Tokens with which a template tells of tools. Their JSON counts twice: it may be laid out.
const TOOLS_TOKENS: u64 = 512;

/// Counts at a time, over all answers: each takes a processor.
static COUNTING: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(2));

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

    /// The most that may be billed for a prompt and an answer.
    pub(crate) async fn most(&self, prompt: Prompt, said: Said, size: &Size) -> Counted {
        let Ok(_place) = COUNTING.acquire().await else {
            return Counted::default();
        };
        let (tokenizer, size) = (self.clone(), *size);
        let counting = tokio::task::spawn_blocking(move || Counted {
            input: prompt.most(&tokenizer, &size),
            output: said.most(&tokenizer, &size),
        });
        // A text that it can't count, which the tokenizer says by a panic.
        counting.await.unwrap_or_default()
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

/// The texts of an answer, each choice by itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    choices: BTreeMap<u64, Voice>,
    bytes: usize,
    calls: u64,
    /// Parts with text: one for an answer in one piece.
    parts: u64,
}

/// A choice's text.
#[derive(Clone, Debug, Default)]
struct Voice {
    text: String,
    /// Which field the last of it was of.
    field: u64,
}

impl Said {
    /// Adds a part of a choice. Behind too much of it, nothing is kept.
    pub(crate) fn add(&mut self, choice: u64, part: &Value) {
        let before = self.bytes;
        self.read(choice, part, 0);
        if self.bytes > before {
            self.parts = self.parts.saturating_add(1);
        }
        if self.is_too_long() {
            self.choices.clear();
        }
    }

    fn is_too_long(&self) -> bool {
        self.bytes > MAX_TEXT_BYTES
    }

    fn read(&mut self, choice: u64, part: &Value, field: u64) {
        match part {
            Value::String(text) => self.say(choice, text, field),
            Value::Array(items) => items.iter().for_each(|item| self.read(choice, item, field)),
            Value::Object(object) => {
                let generated = object
                    .iter()
                    .filter(|(name, _)| !SILENT_FIELDS.contains(&name.as_str()));
                for (name, inner) in generated {
                    let is_call = name == "name" && inner.as_str().is_some_and(|it| !it.is_empty());
                    self.calls = self.calls.saturating_add(u64::from(is_call));
                    self.read(choice, inner, within(field, name));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn say(&mut self, choice: u64, text: &str, field: u64) {
        self.bytes = self.bytes.saturating_add(text.len());
        if text.is_empty() || self.is_too_long() {
            return;
        }
        let voice = self.choices.entry(choice).or_default();
        if voice.field != field && !voice.text.is_empty() {
            // Texts of two fields do not touch.
            voice.text.push('\n');
        }
        voice.field = field;
        voice.text.push_str(text);
    }

    fn most(&self, tokenizer: &Tokenizer, size: &Size) -> Option<u64> {
        if self.is_too_long() {
            return None;
        }
        let mut counted = 0_u64;
        for voice in self.choices.values() {
            counted = counted.saturating_add(tokenizer.count(&voice.text)?);
        }
        let counted = with_tolerance(counted)
            .saturating_add(ANSWER_TOKENS.saturating_mul(size.answers))
            .saturating_add(CALL_TOKENS.saturating_mul(self.calls));
        let bytes = u64::try_from(self.bytes).unwrap_or(u64::MAX);
        // What is billed for an answer in one piece where a server reports nothing.
        Some(match self.parts {
            0 | 1 => counted.max(estimate::billed(bytes)),
            _ => counted,
        })
    }
}

fn within(field: u64, name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (field, name).hash(&mut hasher);
    hasher.finish()
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

    fn small() -> Tokenizer {
        Tokenizer::read(Path::new(SMALL)).unwrap()
    }

    fn chat(more: &Value) -> Asked {
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

    #[test]
    fn an_answer_counts_the_same_however_it_comes() {
        let tokenizer = small();
        let text = "Hello, how are you today?";
        let size = chat(&json!({})).size;
        let mut streamed = Said::default();
        for piece in text.split_inclusive(['e', ' ']) {
            streamed.add(
                0,
                &json!({"index": 0, "delta": {"role": "assistant", "content": piece}}),
            );
        }
        let most = 14 + ANSWER_TOKENS;
        assert_eq!(streamed.most(&tokenizer, &size), Some(most));
        let mut whole = Said::default();
        whole.add(
            0,
            &json!({"index": 0, "message": {"content": text}, "finish_reason": "stop"}),
        );
        assert_eq!(whole.most(&tokenizer, &size), Some(most));

        let mut thought = Said::default();
        thought.add(0, &json!({"delta": {"reasoning_content": text}}));
        thought.add(0, &json!({"delta": {"content": text}}));
        thought.add(
            0,
            &json!({"delta": {"tool_calls": [{"id": "call_1", "index": 0, "type": "function",
            "function": {"name": "Hello", "arguments": ""}}]}}),
        );
        let counted = thought.most(&tokenizer, &size).unwrap();
        let call = tokenizer.count("Hello").unwrap() + CALL_TOKENS;
        assert!(
            (28 + call..34 + call + ANSWER_TOKENS).contains(&counted),
            "{counted}"
        );

        let mut long = Said::default();
        for _ in 0..3 {
            long.add(0, &json!({"delta": {"content": "x".repeat(1 << 20)}}));
        }
        assert_eq!(long.most(&tokenizer, &size), None);
        assert!(long.choices.is_empty(), "nothing is kept");
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
            long <= with_tolerance(counted).max(50_016 / 4) + 200,
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
