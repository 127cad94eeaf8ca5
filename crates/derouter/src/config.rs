//! Configuration files: JSON5, read strictly. A key that is not known, or a value that can't be
//! right, is an error that names the file, the line, the key, and what would be right.
//!
//! [`node`] is the node's file, [`module`] the files of modules that run as processes of their
//! own; both hold the sections of [`openai`]. docs/config.md describes every key.

pub(crate) mod error;
mod ledger;
pub(crate) mod module;
pub(crate) mod network;
pub(crate) mod node;
mod offer_terms;
pub(crate) mod openai;
pub(crate) mod paths;
mod peers;
pub(crate) mod place;
pub(crate) mod relay;
pub(crate) mod schema;
mod value;
pub(crate) mod web;

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub(crate) use error::ConfigError;
pub(crate) use value::base_url;

/// Bytes of a configuration file at most. A thousand offers are under 1 MiB; what is larger is not
/// a configuration file.
const FILE_BYTES: u64 = 8 * 1024 * 1024;

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// The `log` section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogSection {
    /// How to write.
    #[schemars(extend("default" = "text"))]
    pub(crate) format: LogFormat,
}

/// Reads a file as whatever it holds.
pub(crate) fn read_value(path: &Path) -> Result<serde_json::Value, ConfigError> {
    read(path)
}

/// Reads a file.
fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    parse(path, &read_text(path)?)
}

/// Reads a file's text.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |reason: String| ConfigError::unreadable(path, reason);
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    if metadata.is_dir() {
        return Err(unreadable("it is a directory".into()));
    }
    if metadata.len() > FILE_BYTES {
        return Err(unreadable("it is over 8 MiB".into()));
    }
    let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".into()))?;
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

/// Reads a file's text. `path` is for messages.
fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let mut deserializer = json5::Deserializer::from_str(text);
    let parsed = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| ConfigError::wrong(path, text, &error))?;
    // `serde_path_to_error` stops behind the value; whether anything follows shows only here.
    json5::from_str::<serde::de::IgnoredAny>(text)
        .map_err(|error| ConfigError::syntax(path, text, &error))?;
    Ok(parsed)
}

/// See [`crate::fuzz::config`]. No file is looked for.
pub(crate) fn fuzz(text: &str) {
    let problems = [
        node::fuzz(text).err(),
        relay::fuzz(text).err(),
        module::fuzz_provider(text).err(),
        module::fuzz_consumer(text).err(),
    ];
    for problem in problems.into_iter().flatten() {
        assert!(!problem.to_string().is_empty());
    }
}

#[cfg(test)]
mod tests;
