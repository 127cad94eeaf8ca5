//! What is given to whoever helps: the checks, the configuration without secrets, the network report and
//! the last lines of the log, in one file of JSON.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::{Patient, node};
use crate::cli::network::NodeArgs;
use crate::config::{self, schema};
use crate::daemon::{log_file, state};
use crate::failure::Failure;
use crate::output;
use crate::text;

/// Of the log's end.
const LOG_BYTES: u64 = 128 * 1024;
const LOG_LINES: usize = 500;

/// What stands in a secret's place.
const HIDDEN: &str = "(hidden)";

/// Hexadecimal digits in a row that are taken for a secret: cookies, keys and seeds have 64.
const SECRET_HEX: usize = 64;

/// Writes it to a new file, for this user alone.
pub(super) async fn write(path: &Path, patient: &Patient, checks: &Value) -> Result<(), Failure> {
    let bundle = gather(patient, checks).await;
    let value = output::with_schema("derouter.bundle/1", &bundle).map_err(Failure::failed)?;
    let text = serde_json::to_string_pretty(&value).map_err(Failure::failed)?;
    let failed = |error: std::io::Error| {
        Failure::environment(format_args!("can't write {}: {error}", path.display()))
    };
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(failed)?;
    writeln!(file, "{text}").map_err(failed)
}

async fn gather(patient: &Patient, checks: &Value) -> Value {
    let written = patient.file.as_deref().map(config::read_value);
    let mut written = written.and_then(Result::ok).unwrap_or_default();
    let mut secrets = Vec::new();
    let names = schema::secret_keys(&schema::schema(schema::FileKind::Node));
    hide(&mut written, &names, &mut secrets);
    let directory = patient.data_dir.as_deref();
    let network = match patient.running && !patient.offline {
        true => {
            let args = NodeArgs {
                config: patient.file.clone(),
                data_dir: patient.data_dir.clone(),
                ..NodeArgs::default()
            };
            node::report(&args).await.ok()
        }
        false => None,
    };
    let state = directory.and_then(state::read);
    let log = directory.map(|directory| log_lines(&log_file::path(directory)));
    let mut bundle = json!({
        "made_at": text::day_and_time(text::now().0),
        "version": env!("CARGO_PKG_VERSION"),
        "system": {"os": std::env::consts::OS, "arch": std::env::consts::ARCH},
        "config_file": patient.file,
        "config": written,
        "config_error": patient.config.as_ref().err().map(ToString::to_string),
        "checks": checks,
        "node": state,
        "network": network,
        "log": log,
    });
    redact(&mut bundle, &secrets);
    bundle
}

/// Takes secrets out of a configuration, and keeps them to look for them elsewhere.
fn hide(value: &mut Value, names: &BTreeSet<String>, secrets: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(secret) if names.contains(name) => {
                        secrets.push(std::mem::replace(secret, HIDDEN.to_owned()));
                    }
                    value => hide(value, names, secrets),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, names, secrets)),
        _ => {}
    }
}

/// Takes out of every text what is a secret or looks like one.
fn redact(value: &mut Value, secrets: &[String]) {
    match value {
        Value::String(text) => *text = redacted(text, secrets),
        Value::Object(fields) => fields.values_mut().for_each(|value| redact(value, secrets)),
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, secrets)),
        _ => {}
    }
}

fn redacted(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    // Short ones are hardly secrets, and would take away much else.
    for secret in secrets.iter().filter(|secret| secret.len() >= 4) {
        text = text.replace(secret.as_str(), HIDDEN);
    }
    let mut kept = String::with_capacity(text.len());
    let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut rest = text.as_str();
    while let Some(start) = rest.find(word) {
        let (before, behind) = rest.split_at_checked(start).unwrap_or((rest, ""));
        let end = behind.find(|c| !word(c)).unwrap_or(behind.len());
        let (token, after) = behind.split_at_checked(end).unwrap_or((behind, ""));
        kept.push_str(before);
        kept.push_str(if looks_secret(token) { HIDDEN } else { token });
        rest = after;
    }
    kept.push_str(rest);
    kept
}

fn looks_secret(token: &str) -> bool {
    let is_hex = token.len() >= SECRET_HEX && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_key = token.len() >= 20 && (token.starts_with("sk-") || token.starts_with("dr-"));
    is_hex || is_key
}

fn log_lines(path: &Path) -> Vec<String> {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().map(text::printable).collect();
    let from = lines.len().saturating_sub(LOG_LINES);
    lines.into_iter().skip(from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_secret_or_looks_so_is_in_the_bundle() {
        let hex = "0123456789abcdef".repeat(4);
        let secrets = vec!["my-own-key".to_owned()];
        let text = format!("a my-own-key b {hex} c sk-0123456789abcdefghij d Bearer x");
        assert_eq!(
            redacted(&text, &secrets),
            "a (hidden) b (hidden) c (hidden) d Bearer x"
        );
        let peer = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
        assert_eq!(redacted(peer, &secrets), peer, "a peer id is public");
        let mut config =
            json!({"openai": {"provider": [{"openai_api_key": "s3cret", "offers": {}}]}});
        let names = schema::secret_keys(&schema::schema(schema::FileKind::Node));
        let mut found = Vec::new();
        hide(&mut config, &names, &mut found);
        assert_eq!(found, ["s3cret"]);
        assert!(!config.to_string().contains("s3cret"));
    }
}
