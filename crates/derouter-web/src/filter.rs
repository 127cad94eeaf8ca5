//! What URLs ask of lists: read leniently, as people write them by hand.

use serde::Deserialize;

/// Characters of a text to look for.
const MOST: usize = 100;

/// What pages with lists read of their URL. Unknown names are ignored; all of it is optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    /// A text to look for.
    pub(crate) q: String,
    /// What to sort by.
    pub(crate) sort: String,
    /// A feature, a role, a level: what the page filters by.
    pub(crate) only: String,
    /// What is to be compared, such as `PEER/OFFER`, comma between.
    pub(crate) compare: String,
    /// Where a page of a list begins.
    pub(crate) before: String,
    /// Tokens of a prompt and an answer.
    #[serde(rename = "in")]
    pub(crate) input: String,
    pub(crate) out: String,
    /// A model.
    pub(crate) model: String,
    /// What a change said.
    pub(crate) said: String,
}

impl Asked {
    /// The text to look for, in lower case and not longer than anybody types.
    pub(crate) fn wanted(&self) -> String {
        self.q.trim().to_lowercase().chars().take(MOST).collect()
    }

    /// A whole number, or a usual one.
    pub(crate) fn number(text: &str, usual: u64, most: u64) -> u64 {
        text.trim()
            .parse()
            .map_or(usual, |number: u64| number.min(most))
    }
}
