//! Changes one value in the text of a JSON5 file, and nothing else: comments, order and layout stay.
//!
//! What comes out is read again and compared with what was meant before anybody writes it, so that a file
//! the editor does not understand is left as it is.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstArray, CstInputValue, CstNode, CstObject, CstRootNode};
use serde_json::{Map, Value};

use super::path::{KeyPath, Step};

/// Why a file was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum EditError {
    /// It is not JSON5.
    #[error("can't change a file that can't be read: {0}")]
    Unreadable(String),
    /// A step of the path leads through something that has no such inside.
    #[error("there is no place for `{path}`: `{at}` {why}")]
    NoPlace {
        /// The path.
        path: String,
        /// The last part that is there.
        at: String,
        /// What that is.
        why: &'static str,
    },
    /// The editor would have changed more, or lost something.
    #[error("this file can't be changed without losing something of it: change `{0}` in an editor")]
    Unsafe(String),
}

/// The text with a value set; objects on the way are made.
pub(crate) fn set(text: &str, path: &KeyPath, value: &Value) -> Result<String, EditError> {
    let mut meant = read(text)?;
    set_in(&mut meant, &path.0, value).map_err(|why| no_place(path, why))?;
    let root = parse(text)?;
    let object = root.object_value_or_create();
    let object = object.ok_or_else(|| no_place(path, NOT_OBJECT))?;
    set_in_text(Place::Object(object), &path.0, value).map_err(|why| no_place(path, why))?;
    checked(root.to_string(), &meant, path)
}

/// The text without a value.
pub(crate) fn remove(text: &str, path: &KeyPath) -> Result<String, EditError> {
    let mut meant = read(text)?;
    if !remove_in(&mut meant, &path.0) {
        return Err(no_place(path, "does not hold it"));
    }
    let root = parse(text)?;
    if let Some(object) = root.object_value() {
        remove_in_text(Place::Object(object), &path.0);
    }
    checked(root.to_string(), &meant, path)
}

const NOT_OBJECT: &str = "is not an object";
const NOT_LIST: &str = "is not a list that is so long";

fn no_place(path: &KeyPath, why: &'static str) -> EditError {
    let (_, before) = path.0.split_last().unzip();
    let at = KeyPath(before.unwrap_or_default().to_vec()).to_string();
    let at = if at.is_empty() {
        "the file".to_owned()
    } else {
        at
    };
    EditError::NoPlace {
        path: path.to_string(),
        at,
        why,
    }
}

fn read(text: &str) -> Result<Value, EditError> {
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    json5::from_str(text).map_err(|error| EditError::Unreadable(error.to_string()))
}

fn parse(text: &str) -> Result<CstRootNode, EditError> {
    CstRootNode::parse(text, &ParseOptions::default())
        .map_err(|error| EditError::Unreadable(error.to_string()))
}

fn checked(text: String, meant: &Value, path: &KeyPath) -> Result<String, EditError> {
    match read(&text) {
        Ok(after) if same(&after, meant) => Ok(text),
        Ok(_) | Err(_) => Err(EditError::Unsafe(path.to_string())),
    }
}

/// Whether two values are the same; `1` and `1.0` are, as JSON5 does not tell them apart.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || one.as_f64() == other.as_f64()
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let all = |(key, value): (&String, &Value)| {
                other.get(key).is_some_and(|other| same(value, other))
            };
            one.len() == other.len() && one.iter().all(all)
        }
        (one, other) => one == other,
    }
}

fn set_in(at: &mut Value, steps: &[Step], value: &Value) -> Result<(), &'static str> {
    let Some((step, rest)) = steps.split_first() else {
        *at = value.clone();
        return Ok(());
    };
    let inner = match (step, at) {
        (Step::Key(key), Value::Object(object)) => object
            .entry(key.clone())
            .or_insert_with(|| Value::Object(Map::new())),
        (Step::Key(_), _) => return Err(NOT_OBJECT),
        (Step::Index(index), Value::Array(items)) => items.get_mut(*index).ok_or(NOT_LIST)?,
        (Step::Index(_), _) => return Err(NOT_LIST),
    };
    set_in(inner, rest, value)
}

fn remove_in(at: &mut Value, steps: &[Step]) -> bool {
    let Some((step, rest)) = steps.split_first() else {
        return false;
    };
    match (step, at) {
        (Step::Key(key), Value::Object(object)) if rest.is_empty() => {
            object.shift_remove(key).is_some()
        }
        (Step::Index(index), Value::Array(items)) if rest.is_empty() => {
            let there = *index < items.len();
            if there {
                items.remove(*index);
            }
            there
        }
        (Step::Key(key), Value::Object(object)) => object
            .get_mut(key)
            .is_some_and(|inner| remove_in(inner, rest)),
        (Step::Index(index), Value::Array(items)) => items
            .get_mut(*index)
            .is_some_and(|inner| remove_in(inner, rest)),
        _ => false,
    }
}

/// Where a step begins.
enum Place {
    Object(CstObject),
    Array(CstArray),
}

impl Place {
    fn of(node: &CstNode) -> Option<Self> {
        let object = node.as_object().map(Self::Object);
        object.or_else(|| node.as_array().map(Self::Array))
    }
}

fn set_in_text(at: Place, steps: &[Step], value: &Value) -> Result<(), &'static str> {
    let Some((step, rest)) = steps.split_first() else {
        return Err(NOT_OBJECT);
    };
    match (step, at) {
        (Step::Key(key), Place::Object(object)) => {
            let Some(property) = object.get(key) else {
                object.append(key, input(&wrapped(rest, value)?));
                return Ok(());
            };
            if rest.is_empty() {
                property.set_value(input(value));
                return Ok(());
            }
            let inner = property.value().as_ref().and_then(Place::of);
            set_in_text(inner.ok_or(NOT_OBJECT)?, rest, value)
        }
        (Step::Index(index), Place::Array(array)) => {
            let element = array.elements().into_iter().nth(*index).ok_or(NOT_LIST)?;
            if !rest.is_empty() {
                return set_in_text(Place::of(&element).ok_or(NOT_OBJECT)?, rest, value);
            }
            array.insert(*index, input(value));
            element.remove();
            Ok(())
        }
        (Step::Key(_), Place::Array(_)) => Err(NOT_OBJECT),
        (Step::Index(_), Place::Object(_)) => Err(NOT_LIST),
    }
}

/// The value inside of the objects that the path still names.
fn wrapped(rest: &[Step], value: &Value) -> Result<Value, &'static str> {
    let mut made = value.clone();
    for step in rest.iter().rev() {
        let Step::Key(key) = step else {
            return Err(NOT_LIST);
        };
        let mut object = Map::new();
        object.insert(key.clone(), made);
        made = Value::Object(object);
    }
    Ok(made)
}

fn remove_in_text(at: Place, steps: &[Step]) {
    let Some((step, rest)) = steps.split_first() else {
        return;
    };
    let found = match (step, at) {
        (Step::Key(key), Place::Object(object)) => {
            let Some(property) = object.get(key) else {
                return;
            };
            if rest.is_empty() {
                return property.remove();
            }
            property.value()
        }
        (Step::Index(index), Place::Array(array)) => {
            let Some(element) = array.elements().into_iter().nth(*index) else {
                return;
            };
            if rest.is_empty() {
                return element.remove();
            }
            Some(element)
        }
        _ => None,
    };
    if let Some(inner) = found.as_ref().and_then(Place::of) {
        remove_in_text(inner, rest);
    }
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(items) => CstInputValue::Array(items.iter().map(input).collect()),
        Value::Object(object) => {
            let fields = object
                .iter()
                .map(|(key, value)| (key.clone(), input(value)));
            CstInputValue::Object(fields.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FILE: &str = "// A node.\n{\n  // Where modules connect.\n  server: { port: 4269 }, // fixed\n  \
                        bootstrap: ['/ip4/1.2.3.4/tcp/1'],\n  openai: {\n    provider: {\n      offers: {\n        \
                        \"llama3.2\": { model_id: 'llama3.2', /* cheap */ },\n      },\n    },\n  },\n}\n";

    fn path(text: &str) -> KeyPath {
        KeyPath::parse(text).unwrap()
    }

    fn changed(at: &str, value: &Value) -> String {
        set(FILE, &path(at), value).unwrap()
    }

    #[test]
    fn one_value_changes_and_everything_else_stays_to_the_letter() {
        assert_eq!(changed("server.port", &json!(1)), FILE.replace("4269", "1"));
        let renamed = changed("openai.provider.offers.\"llama3.2\".model_id", &json!("b"));
        assert_eq!(
            renamed,
            FILE.replace("model_id: 'llama3.2'", "model_id: \"b\"")
        );
        let other = changed("bootstrap[0]", &json!("/ip4/5.6.7.8/tcp/2"));
        assert_eq!(
            other,
            FILE.replace("'/ip4/1.2.3.4/tcp/1'", "\"/ip4/5.6.7.8/tcp/2\"")
        );
    }

    #[test]
    fn what_is_not_there_is_made_with_all_above_it() {
        let text = changed("openai.consumer.limits.daily", &json!({"$pol": "2"}));
        let value: Value = json5::from_str(&text).unwrap();
        assert_eq!(value["openai"]["consumer"]["limits"]["daily"]["$pol"], "2");
        for comment in [
            "// A node.",
            "// Where modules connect.",
            "// fixed",
            "/* cheap */",
        ] {
            assert!(text.contains(comment), "{text}");
        }
        let fresh = set("", &path("server.port"), &json!(1)).unwrap();
        assert_eq!(read(&fresh).unwrap(), json!({"server": {"port": 1}}));
    }

    #[test]
    fn a_value_goes_with_its_key_and_comments_elsewhere_stay() {
        let text = remove(FILE, &path("server.port")).unwrap();
        assert!(
            text.contains("// fixed") && !text.contains("4269"),
            "{text}"
        );
        let text = remove(FILE, &path("bootstrap[0]")).unwrap();
        assert_eq!(read(&text).unwrap()["bootstrap"], json!([]));
        assert!(remove(FILE, &path("server.host")).is_err());
    }

    #[test]
    fn a_path_that_leads_nowhere_changes_nothing() {
        for wrong in ["server[0]", "bootstrap.a", "bootstrap[7]", "server.port.x"] {
            let error = set(FILE, &path(wrong), &json!(1)).unwrap_err();
            assert!(
                matches!(error, EditError::NoPlace { .. }),
                "{wrong}: {error}"
            );
        }
        assert!(matches!(
            set("{", &path("a"), &json!(1)),
            Err(EditError::Unreadable(_))
        ));
        assert!(set("[1]", &path("a"), &json!(1)).is_err());
    }

    #[test]
    fn a_file_with_one_key_twice_is_not_changed() {
        // Which of the two counts, the editor and the reader see differently.
        let twice = "{ a: 1, a: 2 }";
        assert!(set(twice, &path("a"), &json!(3)).is_err());
    }

    #[test]
    fn whatever_the_text_a_change_does_what_is_meant_or_nothing() {
        use rand::rngs::StdRng;
        use rand::{Rng, SeedableRng};
        const PIECES: [&str; 26] = [
            "{", "}", "[", "]", ":", ",", "a", "b", "'a'", "\"b\"", "1", "-1", "0x1f", ".5", "+1",
            "true", "null", "// c\n", "/* c */", "\n", " ", "\\", "'", "\u{2028}", "\u{feff}", "é",
        ];
        let mut random = StdRng::seed_from_u64(4269);
        let (mut changed, mut refused) = (0_u32, 0_u32);
        for _ in 0..30_000 {
            let length = random.random_range(0..24);
            let mut text = String::from(if random.random_bool(0.7) { "{" } else { "" });
            for _ in 0..length {
                text.push_str(PIECES[random.random_range(0..PIECES.len())]);
            }
            text.push_str(if random.random_bool(0.7) { "}" } else { "" });
            for at in ["a", "a.b", "b[0]"] {
                match set(&text, &path(at), &json!({"x": [1]})) {
                    Ok(after) => {
                        changed += 1;
                        let read = read(&after).unwrap();
                        let steps = path(at).0;
                        let found = steps.iter().try_fold(&read, |value, step| match step {
                            Step::Key(key) => value.get(key),
                            Step::Index(index) => value.get(index),
                        });
                        assert_eq!(found, Some(&json!({"x": [1]})), "{text:?}: {after:?}");
                    }
                    Err(_) => refused += 1,
                }
                let _ = remove(&text, &path(at));
            }
        }
        assert!(changed > 100 && refused > 100, "{changed} {refused}");
    }
}
