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
