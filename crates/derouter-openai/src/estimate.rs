//! How many tokens a text can be at most, without its tokenizer.
//!
//! The rules: three tokens for five letters of a word in lower case (its first letter may be a capital),
//! three for four letters of any other word, one for each digit, for each other ASCII sign and for each
//! byte beyond ASCII, and one for two signs of white space, but none for a single blank. The tokenizers
//! of GPT-4, GPT-4o, Llama 2, Llama 3 and Mistral made no more of any of seventeen texts, random letters
//! and base64 among them, and 0.35 to 0.7 of that of English, Markdown, JSON and program text.

use serde_json::Value;

use crate::consumer::SILENT_FIELDS;

/// What a bill may be over the count by these rules: an eighth.
const TOLERANCE_DIVISOR: u64 = 8;

/// The most tokens that a text can be; at least 1 when there is any.
pub(crate) fn most_tokens(text: &str) -> u64 {
    let mut tokens = 0_u64;
    let mut rest = text.as_bytes();
    while let Some(first) = rest.first() {
        let class = Class::of(*first);
        let run = rest.iter().take_while(|byte| Class::of(**byte) == class);
        let length = run.count();
        let bytes = u64::try_from(length).unwrap_or(u64::MAX);
        tokens = tokens.saturating_add(match class {
            Class::Letter if is_plain_word(rest.get(..length).unwrap_or_default()) => {
                bytes.saturating_mul(3).div_ceil(5)
            }
            Class::Letter => bytes.saturating_mul(3).div_ceil(4),
            Class::Space if rest.get(..length) == Some(b" ") => 0,
            Class::Space => bytes.div_ceil(2),
            Class::Other => bytes,
        });
        rest = rest.get(length..).unwrap_or_default();
    }
    tokens.max(u64::from(!text.is_empty()))
}

fn is_plain_word(letters: &[u8]) -> bool {
    let mut behind_first = letters.iter().skip(1);
    behind_first.all(u8::is_ascii_lowercase)
}

/// A count with what a bill may be over it.
pub(crate) fn with_tolerance(tokens: u64) -> u64 {
    tokens.saturating_add(tokens / TOLERANCE_DIVISOR)
}

/// What a text in one piece is billed with where no count is reported.
pub(crate) fn billed(bytes: u64) -> u64 {
    bytes.div_ceil(4)
}

/// The same of a text that came in parts: servers stream token by token, but may do so by letters or by lines.
pub(crate) fn billed_in_parts(parts: u64, bytes: u64) -> u64 {
    parts.clamp(bytes.div_ceil(8), bytes.div_ceil(2))
}

/// The most tokens that a part of an answer can be: all its texts, under whatever names.
pub(crate) fn most_tokens_of_answer(part: &Value) -> u64 {
    match part {
        Value::String(text) => most_tokens(text),
        Value::Array(items) => sum(items.iter().map(most_tokens_of_answer)),
        Value::Object(object) => sum(object
            .iter()
            .filter(|(name, _)| !SILENT_FIELDS.contains(&name.as_str()))
            .map(|(_, inner)| most_tokens_of_answer(inner))),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Space,
    Other,
}

impl Class {
    fn of(byte: u8) -> Self {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => Self::Letter,
            b' ' | b'\n' | b'\t' | b'\r' => Self::Space,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts with the most tokens that one of five tokenizers makes of them (gpt-tokenizer with
    /// `cl100k_base` and `o200k_base`, llama-tokenizer-js, llama3-tokenizer-js, mistral-tokenizer-js).
    const COUNTED: [(&str, u64); 5] = [
        ("The quick brown fox jumps over the lazy dog.", 12),
        ("fn main() {\n    println!(\"Hello, world!\");\n}\n", 16),
        ("1234567890", 10),
        ("Donaudampfschifffahrtsgesellschaft", 13),
        ("こんにちは世界", 7),
    ];

    #[test]
    fn no_text_has_more_tokens_than_the_estimate() {
        for (text, tokens) in COUNTED {
            assert!(most_tokens(text) >= tokens, "{text}");
        }
        assert_eq!(most_tokens(""), 0);
        assert_eq!(most_tokens(" "), 1);
    }

    #[test]
    fn the_estimate_of_english_is_far_below_its_bytes() {
        let text = "It was the best of times, it was the worst of times, it was the age of wisdom";
        let most = most_tokens(text);
        assert!(most < text.len() as u64 * 6 / 10, "{most}");
    }
}
