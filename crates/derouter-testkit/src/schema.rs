//! Checks JSON against JSON schemas: those in `docs/schemas`, by the name that each object carries, and
//! any other. It knows what those schemas use, and refuses a schema with anything else, so that nothing is
//! passed over.

use std::path::PathBuf;

use serde_json::{Map, Value};

/// What a schema may say without a meaning for the check.
const ANNOTATIONS: [&str; 9] = [
    "$schema",
    "$id",
    "title",
    "description",
    "default",
    "examples",
    "writeOnly",
    "format",
    "$defs",
];

/// Where the schema of a name such as `derouter.peers/1` is.
pub fn path(name: &str) -> PathBuf {
    let file = name.replace('/', ".") + ".json";
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("../../docs/schemas").join(file)
}

/// Checks that an object is what the schema that it names says, and holds nothing that the schema does not
/// describe. Whoever reads such objects takes more than is described, as fields may be added.
pub fn check_document(document: &Value) -> Result<(), String> {
    let name = document.get("schema").and_then(Value::as_str);
    let name = name.ok_or_else(|| format!("it names no schema: {document}"))?;
    let path = path(name);
    let text =
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let schema: Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let named = schema
        .pointer("/properties/schema/const")
        .and_then(Value::as_str);
    if named != Some(name) {
        return Err(format!("{} is not the schema of {name}", path.display()));
    }
    part(&schema, &schema, document, "$", true)
}

/// Checks a value against a schema. The error says where, and what is wrong.
pub fn check(schema: &Value, value: &Value) -> Result<(), String> {
    part(schema, schema, value, "$", false)
}

fn part(root: &Value, schema: &Value, value: &Value, at: &str, closed: bool) -> Result<(), String> {
    let schema = match schema {
        Value::Bool(true) => return Ok(()),
        Value::Object(schema) => schema,
        other => return Err(format!("{at}: {other} allows nothing, or is no schema")),
    };
    for (keyword, rule) in schema {
        let wrong = |why: String| Err(format!("{at}: {why} ({value})"));
        match keyword.as_str() {
            name if ANNOTATIONS.contains(&name) => {}
            "$ref" => {
                let pointer = rule.as_str().and_then(|name| name.strip_prefix('#'));
                let target = pointer.and_then(|pointer| root.pointer(pointer));
                let target = target.ok_or_else(|| format!("{at}: {rule} leads nowhere"))?;
                part(root, target, value, at, closed)?;
            }
            "type" if !is_of_type(rule, value) => return wrong(format!("not of type {rule}")),
            "const" if rule != value => return wrong(format!("not {rule}")),
            "enum" if !list(rule).contains(value) => return wrong(format!("not one of {rule}")),
            "minimum" if is_less(number(value), number(rule)) => {
                return wrong(format!("under {rule}"));
            }
            "maximum" if is_less(number(rule), number(value)) => {
                return wrong(format!("over {rule}"));
            }
            "minLength" if is_less(length(value), number(rule)) => {
                return wrong(format!("shorter than {rule}"));
            }
            "minItems" if is_less(length(value), number(rule)) => {
                return wrong(format!("fewer than {rule}"));
            }
            "pattern" => is_pattern(rule, value).or_else(wrong)?,
            "required" => required(rule, value).or_else(wrong)?,
            "anyOf" | "oneOf" => any_of(root, rule, value, at, closed)?,
            "allOf" => {
                for schema in list(rule) {
                    part(root, schema, value, at, closed)?;
                }
            }
            "items" => {
                for (index, item) in list(value).iter().enumerate() {
                    part(root, rule, item, &format!("{at}[{index}]"), closed)?;
                }
            }
            "properties" => properties(root, rule, value, at, closed)?,
            "additionalProperties" => additional(root, schema, rule, value, at, closed)?,
            "type" | "const" | "enum" | "minimum" | "maximum" | "minLength" | "minItems" => {}
            other => return Err(format!("{at}: this check does not know {other:?}")),
        }
    }
    if closed && schema.contains_key("properties") && !schema.contains_key("additionalProperties") {
        additional(root, schema, &Value::Bool(false), value, at, closed)?;
    }
    Ok(())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// What is no number, or has no length, is not compared: its type is another rule's.
fn is_less(one: Option<f64>, other: Option<f64>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one < other)
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64()
}

fn length(value: &Value) -> Option<f64> {
    let length = match value {
        Value::String(text) => text.chars().count(),
        Value::Array(items) => items.len(),
        _ => return None,
    };
    u32::try_from(length).ok().map(f64::from)
}

fn is_of_type(rule: &Value, value: &Value) -> bool {
    let one = |name: &Value| match name.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("string") => value.is_string(),
        Some("number") => value.is_number(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    };
    match rule {
        Value::Array(names) => names.iter().any(one),
        name => one(name),
    }
}

/// Only the patterns that the schemas have: hexadecimal digits, digits, and what is left to the parser.
fn is_pattern(rule: &Value, value: &Value) -> Result<(), String> {
    let (Some(pattern), Some(text)) = (rule.as_str(), value.as_str()) else {
        return Ok(());
    };
    let fits = match pattern {
        "^[0-9a-f]+$" => {
            !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        }
        "^[0-9]+$" => !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()),
        "^[1-9A-HJ-NP-Za-km-z]{46,59}$" => {
            let base58 =
                |b: u8| b.is_ascii_alphanumeric() && !matches!(b, b'0' | b'O' | b'I' | b'l');
            (46..=59).contains(&text.len()) && text.bytes().all(base58)
        }
        "^([^~]|~[^/])" => !text.is_empty() && !text.starts_with("~/"),
        other => return Err(format!("this check does not know the pattern {other:?}")),
    };
    match fits {
        true => Ok(()),
        false => Err(format!("not like {pattern}")),
    }
}

fn required(rule: &Value, value: &Value) -> Result<(), String> {
    let Value::Object(object) = value else {
        return Ok(());
    };
    let missing = list(rule).iter().filter_map(Value::as_str);
    match missing.into_iter().find(|name| !object.contains_key(*name)) {
        Some(name) => Err(format!("{name:?} is missing")),
        None => Ok(()),
    }
}

fn any_of(root: &Value, rule: &Value, value: &Value, at: &str, closed: bool) -> Result<(), String> {
    let tried = list(rule)
        .iter()
        .map(|schema| part(root, schema, value, at, closed));
    let mut problems = Vec::new();
    for outcome in tried {
        match outcome {
            Ok(()) => return Ok(()),
            Err(problem) => problems.push(problem),
        }
    }
    Err(format!("{at}: none of these fits: {}", problems.join("; ")))
}

fn properties(
    root: &Value,
    rule: &Value,
    value: &Value,
    at: &str,
    closed: bool,
) -> Result<(), String> {
    let (Value::Object(rules), Value::Object(object)) = (rule, value) else {
        return Ok(());
    };
    for (name, schema) in rules {
        if let Some(value) = object.get(name) {
            part(root, schema, value, &format!("{at}.{name}"), closed)?;
        }
    }
    Ok(())
}

fn additional(
    root: &Value,
    schema: &Map<String, Value>,
    rule: &Value,
    value: &Value,
    at: &str,
    closed: bool,
) -> Result<(), String> {
    let Value::Object(object) = value else {
        return Ok(());
    };
    let known = schema.get("properties").and_then(Value::as_object);
    for (name, value) in object {
        if known.is_some_and(|known| known.contains_key(name)) {
            continue;
        }
        if rule == &Value::Bool(false) {
            return Err(format!("{at}: the schema does not know {name:?}"));
        }
        part(root, rule, value, &format!("{at}.{name}"), closed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_schema_says_is_checked_and_what_it_does_not_say_is_refused() {
        let schema = json!({
            "type": "object",
            "required": ["a"],
            "additionalProperties": false,
            "properties": {
                "a": {"type": "integer", "minimum": 1, "maximum": 3},
                "b": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/b"}]},
                "c": {"type": "array", "minItems": 1, "items": {"enum": ["x", "y"]}},
            },
            "$defs": {"b": {"type": "string", "minLength": 2, "pattern": "^[0-9a-f]+$"}},
        });
        for good in [
            json!({"a": 1}),
            json!({"a": 3, "b": null, "c": ["x"]}),
            json!({"a": 2, "b": "0f"}),
        ] {
            assert_eq!(check(&schema, &good), Ok(()), "{good}");
        }
        for bad in [
            json!([]),
            json!({}),
            json!({"a": 0}),
            json!({"a": 4}),
            json!({"a": 1.5}),
            json!({"a": 1, "b": "0"}),
            json!({"a": 1, "b": "xy"}),
            json!({"a": 1, "c": []}),
            json!({"a": 1, "c": ["z"]}),
            json!({"a": 1, "d": 1}),
        ] {
            assert!(check(&schema, &bad).is_err(), "{bad}");
        }
        assert!(check(&json!({"uniqueItems": true}), &json!([])).is_err());
    }
}
