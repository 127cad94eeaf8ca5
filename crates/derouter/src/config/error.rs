//! What is said of a configuration that can't be used.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_path_to_error::Segment;

/// A configuration that can't be used, in one message: where, what, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ConfigError {
    message: String,
}

/// How far a misspelt key may be from the one that is meant: 1 is the same word.
const NEAR: f64 = 0.8;

impl ConfigError {
    /// The file can't be read at all.
    pub(crate) fn unreadable(path: &Path, reason: impl std::fmt::Display) -> Self {
        let message = format!(
            "can't read the configuration file {}: {reason}. Give its path with `-c`",
            path.display()
        );
        Self { message }
    }

    /// A value that is well formed, but can't be right. `key` is its path in the file.
    pub(crate) fn at(path: &Path, key: &str, problem: impl std::fmt::Display) -> Self {
        Self {
            message: format!("{}: `{key}`: {problem}", path.display()),
        }
    }

    /// The text is not JSON5.
    pub(crate) fn syntax(path: &Path, text: &str, error: &json5::Error) -> Self {
        let place = Place {
            path,
            line: line_of(text, error),
        };
        Self {
            message: format!("{place}: {}: {}", reason_of(error), JSON5_HINT),
        }
    }

    /// The text is JSON5, but not what the file may hold; or it is not JSON5.
    pub(crate) fn wrong(
        path: &Path,
        text: &str,
        error: &serde_path_to_error::Error<json5::Error>,
    ) -> Self {
        let inner = error.inner();
        let place = Place {
            path,
            line: line_of(text, inner),
        };
        let key = key_path(error.path());
        let mut message = format!("{place}: ");
        let reason = reason_of(inner);
        if let Some(unknown) = UnknownKey::of(&reason) {
            unknown.describe(&key, &mut message);
            return Self { message };
        }
        if !key.is_empty() {
            let _ = write!(message, "`{key}`: ");
        }
        message.push_str(&reason);
        if is_syntax(inner) {
            let _ = write!(message, ": {JSON5_HINT}");
        }
        Self { message }
    }
}

const JSON5_HINT: &str = "the file must be JSON5 (JSON, with comments and trailing commas allowed); \
                          look for a missing comma, quote or bracket here or just above";

/// Whether the parser says so, rather than a type that was to be filled. A value of the wrong type
/// also has a code, but then the text itself is in order.
fn is_syntax(error: &json5::Error) -> bool {
    use json5::ErrorCode as Code;
    let of_types = [
        Code::ExpectedBool,
        Code::ExpectedNull,
        Code::ExpectedNumber,
        Code::ExpectedOpeningBrace,
        Code::ExpectedOpeningBracket,
        Code::ExpectedString,
        Code::ExpectedStringOrObject,
    ];
    error.code().is_some_and(|code| !of_types.contains(&code))
}

/// The error's words without its position, which is given in front.
fn reason_of(error: &json5::Error) -> String {
    use json5::ErrorCode as Code;
    let plain = match error.code() {
        Some(Code::ExpectedBool) => "this must be true or false",
        Some(Code::ExpectedNumber) => "this must be a number",
        Some(Code::ExpectedString) => "this must be a text in quotes",
        Some(Code::ExpectedOpeningBrace) => "this must be an object: { ... }",
        Some(Code::ExpectedOpeningBracket) => "this must be a list: [ ... ]",
        Some(Code::TrailingCharacters) => "there is more text behind the end of the object",
        Some(code) if code.to_string().starts_with("EOF") => {
            "the file ends too early: what begins here is not closed"
        }
        Some(code) => return code.to_string(),
        None => {
            let text = error.to_string();
            let Some(position) = error.position() else {
                return text;
            };
            return text.trim_end_matches(&format!(" at {position}")).to_owned();
        }
    };
    plain.to_owned()
}

/// The line, counted from 1, if the parser knows it; a file that ends too early has a last line.
fn line_of(text: &str, error: &json5::Error) -> Option<usize> {
    if let Some(position) = error.position() {
        return Some(position.line + 1);
    }
    error.code().map(|_| text.lines().count().max(1))
}

/// `file` or `file:line`, as compilers write it.
struct Place<'a> {
    path: &'a Path,
    line: Option<usize>,
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())?;
        match self.line {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}

/// `openai.provider.offers.gpt.model_id`.
fn key_path(path: &serde_path_to_error::Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                let _ = write!(text, "[{index}]");
            }
            Segment::Map { key } | Segment::Enum { variant: key } => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Segment::Unknown => {}
        }
    }
    text
}

/// A key that is not known where it stands.
struct UnknownKey<'a> {
    key: &'a str,
    allowed: Vec<&'a str>,
}

impl<'a> UnknownKey<'a> {
    /// Reads serde's message ("unknown field `x`, expected one of `a`, `b`"), which is all that it
    /// gives; the tests hold its form.
    fn of(reason: &'a str) -> Option<Self> {
        let rest = reason.strip_prefix("unknown field `")?;
        let (key, rest) = rest.split_once('`')?;
        let allowed = rest.split('`').skip(1).step_by(2).collect();
        Some(Self { key, allowed })
    }

    fn describe(&self, key_path: &str, message: &mut String) {
        // The path may or may not have the key itself as its end.
        let parent = key_path.strip_suffix(self.key).unwrap_or(key_path);
        let parent = parent.trim_end_matches('.');
        let within = if parent.is_empty() {
            String::new()
        } else {
            format!(" in `{parent}`")
        };
        let _ = write!(message, "unknown key `{}`{within}", self.key);
        if let Some(near) = nearest(self.key, &self.allowed) {
            let _ = write!(message, ": did you mean `{near}`?");
        } else {
            message.push('.');
        }
        if self.allowed.is_empty() {
            message.push_str(" No keys are allowed here");
        } else {
            let list = self.allowed.join(", ");
            let _ = write!(message, " Keys allowed here: {list}");
        }
    }
}

/// The key that is meant, if one is near.
pub(crate) fn nearest<'a>(key: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['_', '-'], "");
    let likeness = |candidate: &str| {
        if plain(candidate) == plain(key) {
            return 1.0;
        }
        strsim::jaro_winkler(&plain(candidate), &plain(key))
    };
    allowed
        .iter()
        .map(|candidate| (likeness(candidate), *candidate))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `path`, unless it begins with `~`, which only a shell would expand.
pub(crate) fn literal_path(path: PathBuf) -> Result<PathBuf, String> {
    if path.as_os_str().is_empty() {
        return Err("a path can't be empty".into());
    }
    if path.starts_with("~") {
        return Err(format!(
            "`~` is not expanded in {}: write the whole path, for example /home/me/derouter",
            path.display()
        ));
    }
    Ok(path)
}
