//! The configuration as pages show it: each key with its value and where that is from. What the schema
//! calls secret is never shown.

use std::collections::BTreeMap;
use std::path::PathBuf;

use derouter_web::modules::{Setting, Settings};
use serde_json::Value;

use crate::config::schema::{FileKind, resolved, schema, secret_keys};

/// Bytes of the file, as it is read at the start.
const FILE_BYTES: u64 = 8 * 1024 * 1024;

/// Levels of sections.
const MOST_DEPTH: usize = 8;

/// Values that are shown.
const MOST_SHOWN: usize = 5000;

/// The configuration of this process, as it was read at the start.
pub(super) struct Bridge {
    file: Option<PathBuf>,
    all: Vec<Setting>,
}

impl Bridge {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        let written = file.as_deref().and_then(read).unwrap_or_default();
        let schema = schema(FileKind::Node);
        let secrets = secret_keys(&schema);
        let mut found = BTreeMap::new();
        defaults(&schema, &schema, "", &mut found, 0);
        let origin = "file";
        let mut of_file = BTreeMap::new();
        flatten(&written, "", &mut of_file, 0);
        for (key, value) in of_file {
            found.insert(key, (value, origin));
        }
        let secret = |key: &str| {
            let names = key.split(['.', '[']);
            names.into_iter().any(|name| secrets.contains(name))
        };
        let all = found
            .into_iter()
            .take(MOST_SHOWN)
            .map(|(key, (value, origin))| Setting {
                value: if secret(&key) && origin != "default" {
                    "(secret)".to_owned()
                } else {
                    value
                },
                origin: origin.to_owned(),
                key,
            });
        Self {
            all: all.collect(),
            file,
        }
    }
}

fn read(path: &std::path::Path) -> Option<Value> {
    let metadata = std::fs::metadata(path).ok()?;
    if metadata.len() > FILE_BYTES {
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    json5::from_str(text.trim_start_matches('\u{feff}')).ok()
}

fn join(prefix: &str, name: &str) -> String {
    match prefix {
        "" => name.to_owned(),
        prefix => format!("{prefix}.{name}"),
    }
}

/// Amounts of money are objects in the file, and one value to people.
fn amount(value: &Value) -> Option<String> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    let (unit, amount) = object.iter().next()?;
    let unit = unit.strip_prefix('$')?;
    Some(format!("{} {}", amount.as_str()?, unit.to_uppercase()))
}

fn flatten(value: &Value, prefix: &str, found: &mut BTreeMap<String, String>, depth: usize) {
    if depth > MOST_DEPTH || found.len() > MOST_SHOWN {
        return;
    }
    match (amount(value), value) {
        (Some(amount), _) => {
            found.insert(prefix.to_owned(), amount);
        }
        (None, Value::Object(object)) if !object.is_empty() => {
            for (name, inner) in object {
                flatten(inner, &join(prefix, name), found, depth + 1);
            }
        }
        (None, Value::Array(items)) if items.iter().any(Value::is_object) => {
            for (place, inner) in items.iter().enumerate() {
                flatten(inner, &format!("{prefix}[{place}]"), found, depth + 1);
            }
        }
        (None, value) if !prefix.is_empty() => {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            found.insert(prefix.to_owned(), text);
        }
        _ => {}
    }
}

fn defaults(
    root: &Value,
    schema: &Value,
    prefix: &str,
    found: &mut BTreeMap<String, (String, &'static str)>,
    depth: usize,
) {
    let schema = resolved(root, schema);
    let properties = schema.get("properties").and_then(Value::as_object);
    if depth > MOST_DEPTH {
        return;
    }
    for (name, property) in properties.into_iter().flatten() {
        let key = join(prefix, name);
        let inner = resolved(root, property);
        if inner.get("properties").is_some() {
            defaults(root, property, &key, found, depth + 1);
            continue;
        }
        let default = property.get("default").or_else(|| inner.get("default"));
        let text = match default {
            Some(Value::String(text)) => text.clone(),
            Some(value) => amount(value).unwrap_or_else(|| value.to_string()),
            None => continue,
        };
        found.insert(key, (text, "default"));
    }
}

impl Settings for Bridge {
    fn file(&self) -> Option<String> {
        self.file.as_ref().map(|file| file.display().to_string())
    }

    fn all(&self) -> Vec<Setting> {
        self.all.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_origin_and_secrets_are_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let text = r#"{mdns: false, web: {token: "hidden-hidden-hidden"}, openai: {
            provider: {openai_base_url: "http://127.0.0.1:1/v1", openai_api_key: "sk-hidden", offers: {}},
            consumer: {limits: {daily: {$pol: "2"}}}}}"#;
        std::fs::write(&path, text).unwrap();
        let bridge = Bridge::new(Some(path));
        let find = |key: &str| {
            bridge
                .all
                .iter()
                .find(|setting| setting.key == key)
                .unwrap()
        };
        assert_eq!(
            (find("mdns").value.as_str(), find("mdns").origin.as_str()),
            ("false", "file")
        );
        assert_eq!(find("port_mapping").origin, "default");
        assert_eq!(find("openai.consumer.limits.daily").value, "2 POL");
        assert!(
            bridge
                .all
                .iter()
                .all(|setting| !setting.value.contains("hidden"))
        );
    }
}
