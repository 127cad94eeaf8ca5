//! What holds: each value of the file, the environment or the default, found along the schema. Pure.

use serde::Serialize;
use serde_json::Value;

use super::path::{KeyPath, Step, shown};
use crate::config::node::RunConfig;
use crate::config::place::{self, Origin};
use crate::config::schema::{FileKind, resolved, schema, secret_keys};
use crate::config::{ConfigError, LogFormat};

/// One value.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Setting {
    /// Its path.
    pub(crate) path: String,
    /// The value; null when there is none.
    pub(crate) value: Value,
    /// From where it comes.
    pub(crate) origin: Origin,
    /// What it means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) about: Option<String>,
    /// Whether it is never to be shown.
    pub(crate) secret: bool,
}

impl Setting {
    /// Hides a secret.
    pub(crate) fn hide(&mut self) {
        if self.secret && !self.value.is_null() {
            self.value = Value::from("(hidden)");
        }
    }
}

/// What goes before the file, and who says so.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Over {
    /// Who says where the data directory is.
    pub(crate) data_dir: Option<Origin>,
    /// How the command line has the log written.
    pub(crate) log_format: Option<LogFormat>,
}

impl Over {
    /// What the environment says.
    pub(crate) fn of_environment() -> Result<Self, ConfigError> {
        let named = place::data_dir()?.is_some();
        Ok(Self {
            data_dir: named.then_some(Origin::Environment),
            log_format: None,
        })
    }
}

/// All values of a node's configuration.
pub(crate) fn settings(config: &RunConfig, over: Over) -> Vec<Setting> {
    let schema = schema(FileKind::Node);
    let mut walk = Walk {
        secrets: secret_keys(&schema),
        schema: &schema,
        settings: Vec::new(),
    };
    walk.object(&schema, Some(&config.written.0), "");
    let mut settings = walk.settings;
    settings.retain(|setting| !is_for_a_process(setting));
    let listen = config.net_listen();
    let known = [
        (
            "data_dir",
            Value::from(config.data_dir.display().to_string()),
        ),
        (
            "database_path",
            Value::from(config.node.database_path.display().to_string()),
        ),
        (
            "keypair_path",
            Value::from(config.node.keypair_path.display().to_string()),
        ),
        ("listen", Value::from(listen)),
    ];
    for (path, value) in known {
        for setting in settings.iter_mut().filter(|setting| setting.path == path) {
            if setting.value.is_null() {
                setting.value = value.clone();
            }
        }
    }
    let data_dir = Value::from(config.data_dir.display().to_string());
    put_over(
        &mut settings,
        "data_dir",
        over.data_dir.map(|origin| (data_dir, origin)),
    );
    let format = over.log_format.map(|format| Value::from(format.name()));
    put_over(
        &mut settings,
        "log.format",
        format.map(|format| (format, Origin::Flag)),
    );
    settings
}

/// Puts what goes before the file in its place.
fn put_over(settings: &mut [Setting], path: &str, over: Option<(Value, Origin)>) {
    let mut all = settings.iter_mut();
    let setting = all.find(|setting| setting.path == path);
    if let (Some(setting), Some((value, origin))) = (setting, over) {
        (setting.value, setting.origin) = (value, origin);
    }
}

/// What sections take in a file of their own, and has no use in a node's.
fn is_for_a_process(setting: &Setting) -> bool {
    const KEYS: [&str; 6] = [
        "rpc",
        "rpc_host",
        "rpc_port",
        "log",
        "drain_seconds",
        "database_url",
    ];
    let key = setting.path.rsplit('.').next().unwrap_or_default();
    setting.value.is_null() && setting.path.starts_with("openai.") && KEYS.contains(&key)
}

struct Walk<'a> {
    schema: &'a Value,
    secrets: std::collections::BTreeSet<String>,
    settings: Vec<Setting>,
}

impl Walk<'_> {
    fn object(&mut self, part: &Value, written: Option<&Value>, path: &str) {
        let properties = part.get("properties").and_then(Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            let path = joined(path, name);
            let written = written.and_then(|written| written.get(name));
            self.property(property, written, path, name);
        }
    }

    fn property(&mut self, property: &Value, written: Option<&Value>, path: String, name: &str) {
        let inside = resolved(self.schema, property).clone();
        match written {
            Some(Value::Object(fields)) if is_section(&inside) => {
                let fields = Value::Object(fields.clone());
                self.object(&inside, Some(&fields), &path);
            }
            // A list of sections, of which one alone needs no list.
            Some(Value::Array(items)) if is_section(&inside) => {
                for (index, item) in items.iter().enumerate() {
                    self.object(&inside, Some(item), &format!("{path}[{index}]"));
                }
            }
            Some(Value::Object(fields)) if names(&inside).is_some() => {
                let Some(inner) = names(&inside).cloned() else {
                    return;
                };
                for (key, value) in fields {
                    self.property(&inner, Some(value), joined(&path, key), key);
                }
            }
            None if is_always(property) && is_section(&inside) => self.object(&inside, None, &path),
            written => self.leaf(property, written, path, name),
        }
    }

    fn leaf(&mut self, property: &Value, written: Option<&Value>, path: String, name: &str) {
        let origin = match written {
            Some(_) => Origin::File,
            None => Origin::Default,
        };
        let value = written.or_else(|| property.get("default"));
        let about = property.get("description").and_then(Value::as_str);
        self.settings.push(Setting {
            path,
            value: value.cloned().unwrap_or(Value::Null),
            origin,
            about: about.map(str::to_owned),
            secret: self.secrets.contains(name),
        });
    }
}

fn joined(path: &str, key: &str) -> String {
    match path {
        "" => shown(key),
        path => format!("{path}.{}", shown(key)),
    }
}

/// Whether it is an object with keys of its own, other than an amount of money.
fn is_section(part: &Value) -> bool {
    let properties = part.get("properties").and_then(Value::as_object);
    properties.is_some_and(|properties| !properties.contains_key("$pol"))
}

/// Whether a section that is absent is there with its defaults.
fn is_always(property: &Value) -> bool {
    property.get("$ref").is_some() || property.get("properties").is_some()
}

/// What objects with names of the user's choice hold, also where they may be absent.
fn names(part: &Value) -> Option<&Value> {
    let own = part
        .get("additionalProperties")
        .filter(|inner| inner.is_object());
    let alternatives = part.get("anyOf").and_then(Value::as_array);
    let mut inner = alternatives.into_iter().flatten().filter_map(names);
    own.or_else(|| inner.next())
}

/// The value at a path: of a setting, of what is inside of one, or of all settings below it.
pub(crate) fn value_at(settings: &[Setting], path: &KeyPath) -> Option<Value> {
    let text = path.to_string();
    if let Some(setting) = settings.iter().find(|setting| setting.path == text) {
        return Some(setting.value.clone()).filter(|value| !value.is_null());
    }
    // Inside of a setting.
    for length in (1..path.0.len()).rev() {
        let (above, rest) = path.0.split_at_checked(length)?;
        let above = KeyPath(above.to_vec()).to_string();
        if let Some(setting) = settings.iter().find(|setting| setting.path == above) {
            return inside(&setting.value, rest).cloned();
        }
    }
    // Above of several.
    let mut whole = serde_json::Map::new();
    for setting in settings {
        let Some(rest) = setting.path.strip_prefix(&text) else {
            continue;
        };
        if rest.starts_with(['.', '[']) && !setting.value.is_null() {
            let key = rest.trim_start_matches('.').to_owned();
            whole.insert(key, setting.value.clone());
        }
    }
    (!whole.is_empty()).then_some(Value::Object(whole))
}

fn inside<'a>(value: &'a Value, steps: &[Step]) -> Option<&'a Value> {
    steps.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(index) => value.get(*index),
    })
}

/// What a value is, for whoever writes it on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An amount of money.
    Money,
    /// A text, and nothing else.
    Text,
    /// Anything else.
    Other,
}

/// What the value at a path is.
pub(crate) fn kind(root: &Value, path: &KeyPath) -> Kind {
    let Some(part) = part_at(root, path) else {
        return Kind::Other;
    };
    let inside = resolved(root, &part);
    if inside.pointer("/properties/$pol").is_some() {
        return Kind::Money;
    }
    let types = |part: &Value| match part.get("type") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(several)) => several
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    };
    let mut all = types(inside);
    let alternatives = inside.get("anyOf").and_then(Value::as_array);
    for alternative in alternatives.into_iter().flatten() {
        all.extend(types(resolved(root, alternative)));
    }
    all.retain(|kind| kind != "null");
    match all.as_slice() {
        [only] if only == "string" => Kind::Text,
        _ => Kind::Other,
    }
}

/// Whether a file may have a value there.
pub(crate) fn is_known(root: &Value, path: &KeyPath) -> bool {
    part_at(root, path).is_some()
}

/// The part of the schema for a path.
fn part_at(root: &Value, path: &KeyPath) -> Option<Value> {
    let mut part = root.clone();
    for step in &path.0 {
        let inside = resolved(root, &part).clone();
        part = match step {
            Step::Key(key) => {
                let property = inside.get("properties").and_then(|all| all.get(key));
                property.or_else(|| names(&inside)).cloned()?
            }
            Step::Index(_) => items(&part).or_else(|| items(&inside)).cloned()?,
        };
    }
    Some(part)
}

fn items(part: &Value) -> Option<&Value> {
    let alternatives = part.get("anyOf").and_then(Value::as_array);
    let mut inner = alternatives.into_iter().flatten().filter_map(items);
    part.get("items").or_else(|| inner.next())
}
