//! The path of a key in a configuration: `openai.provider[0].offers."llama3.2".model_id`.

use std::fmt;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A key of an object.
    Key(String),
    /// A place in a list.
    Index(usize),
}

/// Steps of a path at most; no configuration is so deep.
const MOST_STEPS: usize = 16;

/// A path, with one step at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyPath(pub(crate) Vec<Step>);

impl KeyPath {
    /// Reads one.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "{text:?} is no path of a key: {why}. It looks like server.port, or openai.provider[0].offers.\"a.b\""
            )
        };
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if steps.len() >= MOST_STEPS {
                return Err(wrong("it is too deep"));
            }
            let (step, behind) = match rest.strip_prefix('[') {
                Some(inner) => {
                    index(inner).ok_or_else(|| wrong("`[` begins a number or a text in quotes"))?
                }
                None => key(rest)
                    .ok_or_else(|| wrong("a key is missing or its quotes are not closed"))?,
            };
            steps.push(step);
            rest = match behind.strip_prefix('.') {
                Some("") => return Err(wrong("it ends in a dot")),
                Some(behind) => behind,
                None if behind.is_empty() || behind.starts_with('[') => behind,
                None => return Err(wrong("there is a dot between keys")),
            };
        }
        match steps.first() {
            Some(Step::Key(_)) => Ok(Self(steps)),
            Some(Step::Index(_)) | None => Err(wrong("it begins with a key")),
        }
    }
}

/// `0]` or `"a.b"]`, and what is behind.
fn index(text: &str) -> Option<(Step, &str)> {
    if let Some((key, behind)) = quoted(text) {
        return Some((Step::Key(key), behind.strip_prefix(']')?));
    }
    let (number, behind) = text.split_once(']')?;
    let number = number.parse().ok()?;
    Some((Step::Index(number), behind))
}

/// `name` or `"a.b"`, and what is behind.
fn key(text: &str) -> Option<(Step, &str)> {
    if text.starts_with(['"', '\'']) {
        let (key, behind) = quoted(text)?;
        return Some((Step::Key(key), behind));
    }
    let end = text.find(['.', '[']).unwrap_or(text.len());
    let (key, behind) = text.split_at_checked(end)?;
    (!key.is_empty()).then(|| (Step::Key(key.to_owned()), behind))
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let inner = text.strip_prefix(quote)?;
    let (key, behind) = inner.split_once(quote)?;
    Some((key.to_owned(), behind))
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    let dot = if place > 0 { "." } else { "" };
                    write!(f, "{dot}{}", shown(key))?;
                }
            }
        }
        Ok(())
    }
}

/// A key as a path has it.
pub(crate) fn shown(key: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '$' | ':' | '/');
    match !key.is_empty() && key.chars().all(plain) {
        true => key.to_owned(),
        false if key.contains('"') => format!("'{key}'"),
        false => format!("\"{key}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_and_written_alike() {
        for text in ["server", "server.port", "a[0].b", "a.\"b.c\".d", "a.'b\"c'"] {
            let path = KeyPath::parse(text).unwrap();
            assert_eq!(path.to_string(), text);
        }
        let same = KeyPath::parse("a[\"b.c\"]").unwrap();
        assert_eq!(same, KeyPath::parse("a.\"b.c\"").unwrap());
        let deep = "a.".repeat(100) + "b";
        for wrong in [
            "", ".", "a.", "a..b", "[0]", "a[x]", "a[0", "a.\"b", "a[0]b", &deep,
        ] {
            assert!(KeyPath::parse(wrong).is_err(), "{wrong}");
        }
    }
}
