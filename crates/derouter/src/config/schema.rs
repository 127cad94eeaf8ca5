//! What configuration files may hold, as JSON schema (2020-12), derived from the types that read them.
//! Programs that edit a configuration, the dashboard among them, learn from it each key's meaning,
//! type, limits and default.

use std::collections::BTreeSet;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::Value;

/// What peer ids of this kind look like: base58.
pub(super) const PEER_PATTERN: &str = "^[1-9A-HJ-NP-Za-km-z]{46,59}$";

/// The schema of a value that reads itself.
macro_rules! shape {
    ($type:ty, {$($shape:tt)*}) => {
        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({$($shape)*})
            }
        }
    };
}
pub(super) use shape;

/// A kind of file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FileKind {
    /// A node's, for `derouter run`
    #[default]
    Node,
    /// A provider module's, for `derouter openai provide`
    Provider,
    /// A consumer module's, for `derouter openai consume`
    Consumer,
    /// A relay's, for `derouter relay`
    Relay,
}

/// What a file of that kind may hold.
pub(crate) fn schema(kind: FileKind) -> Value {
    let schema = match kind {
        FileKind::Node => super::node::schema(),
        FileKind::Provider => super::module::provider_schema(),
        FileKind::Consumer => super::module::consumer_schema(),
        FileKind::Relay => super::relay::schema(),
    };
    let mut schema = schema.to_value();
    drop_absent_defaults(&mut schema);
    schema
}

/// The schema of a type.
pub(super) fn of<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    settings.into_generator().into_root_schema_for::<T>()
}

/// `null` as a default says that there is none, which the key's description does better.
fn drop_absent_defaults(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.get("default") == Some(&Value::Null) {
                object.remove("default");
            }
            object.values_mut().for_each(drop_absent_defaults);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_absent_defaults),
        _ => {}
    }
}

/// The schema that a part of `root` means: what `$ref` leads to, and the object among the
/// alternatives of one that is optional.
pub(crate) fn resolved<'a>(root: &'a Value, part: &'a Value) -> &'a Value {
    if let Some(name) = part.get("$ref").and_then(Value::as_str) {
        let found = name
            .strip_prefix("#")
            .and_then(|pointer| root.pointer(pointer));
        return found.map_or(part, |found| resolved(root, found));
    }
    let alternatives = part.get("anyOf").and_then(Value::as_array);
    let objects = alternatives.into_iter().flatten();
    let mut objects = objects
        .map(|alternative| resolved(root, alternative))
        .filter(|alternative| alternative.get("properties").is_some());
    objects.next().unwrap_or(part)
}

/// The names of the keys whose values are never shown.
pub(crate) fn secret_keys(schema: &Value) -> BTreeSet<String> {
    fn walk(schema: &Value, names: &mut BTreeSet<String>) {
        let Value::Object(object) = schema else {
            if let Value::Array(items) = schema {
                items.iter().for_each(|item| walk(item, names));
            }
            return;
        };
        let properties = object.get("properties").and_then(Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            let secret = |shape: &Value| shape.get("writeOnly") == Some(&Value::Bool(true));
            let alternatives = property.get("anyOf").and_then(Value::as_array);
            if secret(property) || alternatives.into_iter().flatten().any(secret) {
                names.insert(name.clone());
            }
        }
        object.values().for_each(|inner| walk(inner, names));
    }
    let mut names = BTreeSet::new();
    walk(schema, &mut names);
    names
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use derouter_testkit::schema::check;
    use serde_json::{Map, json};

    use super::super::node::RunConfig;
    use super::super::{module, node, relay};
    use super::*;

    const KINDS: [FileKind; 4] = [
        FileKind::Node,
        FileKind::Provider,
        FileKind::Consumer,
        FileKind::Relay,
    ];

    fn is_read(kind: FileKind, text: &str) -> bool {
        match kind {
            FileKind::Node => node::fuzz(text).is_ok(),
            FileKind::Provider => module::fuzz_provider(text).is_ok(),
            FileKind::Consumer => module::fuzz_consumer(text).is_ok(),
            FileKind::Relay => relay::fuzz(text).is_ok(),
        }
    }

    /// What a part of the schema allows: its default or its example where it has one, else some value.
    fn sample(root: &Value, part: &Value, defaults_only: bool) -> Option<Value> {
        let chosen = part.get("default").or_else(|| part.pointer("/examples/0"));
        let chosen = chosen
            .or_else(|| part.get("const"))
            .or_else(|| part.pointer("/enum/0"));
        if let Some(chosen) = part.get("default").or(chosen.filter(|_| !defaults_only)) {
            return Some(chosen.clone());
        }
        if let Some(name) = part.get("$ref").and_then(Value::as_str) {
            return sample(
                root,
                root.pointer(name.trim_start_matches('#'))?,
                defaults_only,
            );
        }
        if let Some(alternatives) = part.get("anyOf").and_then(Value::as_array) {
            if defaults_only {
                return None;
            }
            if let Some(least) = part.get("minimum") {
                return Some(least.clone());
            }
            return alternatives
                .iter()
                .find_map(|inner| sample(root, inner, false));
        }
        if let Some(properties) = part.get("properties").and_then(Value::as_object) {
            if defaults_only && properties.contains_key("$pol") {
                return None;
            }
            let mut object = Map::new();
            for (name, property) in properties {
                if let Some(value) = sample(root, property, defaults_only) {
                    object.insert(name.clone(), value);
                }
            }
            return Some(Value::Object(object));
        }
        if defaults_only {
            return None;
        }
        let kind = match part.get("type") {
            Some(Value::Array(kinds)) => kinds.first(),
            kind => kind,
        };
        match kind.and_then(Value::as_str)? {
            "boolean" => Some(json!(true)),
            "integer" | "number" => Some(part.get("minimum").cloned().unwrap_or(json!(1))),
            "string"
                if part
                    .get("pattern")
                    .is_some_and(|pattern| pattern == PEER_PATTERN) =>
            {
                Some(json!(
                    "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
                ))
            }
            "string" => Some(json!("text")),
            "array" => {
                let item = sample(root, part.get("items")?, false)?;
                Some(json!([item]))
            }
            "object" => {
                let inner = sample(root, part.get("additionalProperties")?, false)?;
                Some(json!({"name": inner}))
            }
            _ => None,
        }
    }

    /// Every key of every object in the schema has a meaning and a type.
    fn described(part: &Value, path: &str) {
        match part {
            Value::Object(object) => {
                let properties = object.get("properties").and_then(Value::as_object);
                for (name, property) in properties.into_iter().flatten() {
                    let about = property.get("description").and_then(Value::as_str);
                    let is_pol = name == "$pol";
                    assert!(
                        is_pol || about.is_some_and(|about| !about.is_empty()),
                        "{path}.{name}"
                    );
                }
                for (name, inner) in object {
                    described(inner, &format!("{path}.{name}"));
                }
            }
            Value::Array(items) => items.iter().for_each(|item| described(item, path)),
            _ => {}
        }
    }

    #[test]
    fn whatever_the_schema_allows_is_read() {
        for kind in KINDS {
            let schema = schema(kind);
            described(&schema, "$");
            let whole = sample(&schema, &schema, false).unwrap();
            assert_eq!(check(&schema, &whole), Ok(()), "{kind:?}: {whole}");
            let Value::Object(keys) = &whole else {
                panic!("{kind:?}");
            };
            // Each by itself, so that a message names it. 0.1.0's names stand for others.
            for (key, value) in keys {
                let mut alone = json!({ (key.clone()): value });
                if kind == FileKind::Provider {
                    alone["openai_base_url"] = json!("http://127.0.0.1:1/v1");
                    alone["discover"] = json!({"input_token_price": {"$pol": "1"}, "output_token_price": {"$pol": "1"}});
                    alone[key] = value.clone();
                }
                // A window has prices or a factor, which the schema can't tell.
                let mut text = alone.to_string();
                if text.contains("\"schedule\"") {
                    text = text.replace("\"factor\":0,", "");
                }
                assert!(is_read(kind, &text), "{kind:?}: {text}");
            }
        }
    }

    #[test]
    fn the_defaults_of_the_schema_are_those_that_hold() {
        let directory = tempfile::tempdir().unwrap();
        let load = |value: &Value| {
            let text = value.to_string();
            let read = RunConfig::parse(Path::new("config.json"), &text);
            format!(
                "{:#?}",
                read.unwrap_or_else(|error| panic!("{error}\n{text}"))
            )
        };
        let schema = schema(FileKind::Node);
        let mut written = sample(&schema, &schema, true).unwrap();
        written["data_dir"] = json!(directory.path());
        assert!(written["server"]["port"] == 4269 && written["drain_seconds"] == 30);
        assert_eq!(load(&written), load(&json!({"data_dir": directory.path()})));
        // The modules, which are there only when they are named.
        let definition = |name: &str| {
            let part = schema.pointer(&format!("/$defs/{name}")).unwrap();
            sample(&schema, part, true).unwrap()
        };
        let consumer = definition("ConsumerSection");
        assert!(consumer["routing"]["weights"]["success"] == 2.0);
        let with = |consumer: &Value| json!({"data_dir": directory.path(), "openai": {"consumer": consumer}});
        assert_eq!(load(&with(&consumer)), load(&with(&json!({}))));
        let required = json!({"model_id": "m", "context_size": 1, "input_token_price": {"$pol": "1"}, "output_token_price": {"$pol": "1"}});
        let mut offer = definition("OfferSection");
        let (mut provider, mut bare) = (definition("SellerSection"), json!({}));
        for section in [&mut provider, &mut bare] {
            section["openai_base_url"] = json!("http://127.0.0.1:1/v1");
            section["offers"] = json!({"a": required});
        }
        let with = |provider: &Value| json!({"data_dir": directory.path(), "openai": {"provider": provider}});
        assert_eq!(load(&with(&provider)), load(&with(&bare)));
        // What an offer leaves open is filled in later: here it must only be taken.
        for (key, value) in required.as_object().unwrap() {
            offer[key] = value.clone();
        }
        provider["offers"]["a"] = offer;
        load(&with(&provider));
    }

    #[test]
    fn the_examples_of_the_documentation_fit_the_schema_and_the_parser_alike() {
        let page = include_str!("../../../../docs/config.md");
        let blocks: Vec<&str> = page.split("```json5\n").skip(1).collect();
        assert!(blocks.len() >= 4);
        for block in blocks {
            let text = block.split("```").next().unwrap();
            let value: Value = json5::from_str(text).unwrap();
            let fits = |kind: &FileKind| {
                let read = is_read(*kind, text);
                let checked = check(&schema(*kind), &value);
                assert!(!read || checked.is_ok(), "{kind:?}: {checked:?}\n{text}");
                read
            };
            assert!(KINDS.iter().any(fits), "{text}");
        }
    }

    #[test]
    fn what_can_not_be_right_fits_neither() {
        for wrong in [
            json!({"prt": 1}),
            json!({"server": {"port": 65536}}),
            json!({"server": {"port": "4269"}}),
            json!({"mdns": "yes"}),
            json!({"relays": 5}),
            json!({"relay_server": 1}),
            json!({"reachability": "perhaps"}),
            json!({"drain_seconds": 3601}),
            json!({"discovery": {"shards": 17}}),
            json!({"ledger": {"keep_payloads_days": "none"}}),
            json!({"listen": "/ip4/0.0.0.0/tcp/1"}),
            json!({"openai": {"consumer": {"limits": {"daily": 2}}}}),
            json!({"openai": {"consumer": {"limits": {"daily": {"$pol": 2}}}}}),
            json!({"openai": {"consumer": {"routing": {"explore": 2}}}}),
            json!({"openai": {"provider": {"offers": {}}}}),
            json!({"openai": {"provider": {"openai_base_url": "http://127.0.0.1:1", "offers": {"a": {}}}}}),
        ] {
            let text = wrong.to_string();
            assert!(!is_read(FileKind::Node, &text), "{text}");
            assert!(check(&schema(FileKind::Node), &wrong).is_err(), "{text}");
        }
    }
}
