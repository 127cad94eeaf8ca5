//! The command line of `derouter token`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use derouter_sdk::{UnixSeconds, Wei};

use super::db::moment;
use crate::text;

/// What to do with the keys of the OpenAI endpoint.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a key and show it, once; with the first, the endpoint serves nobody without one
    #[command(after_help = "Examples:\n  \
        derouter token create laptop\n  \
        derouter token create ci --models \"llama*,qwen3\" --daily 0.5 --total 10 --expires 30d\n  \
        export OPENAI_API_KEY=$(derouter token create shell -c config.json)\n\n\
        Exit codes: 0 made, 2 usage, 3 configuration, or the name is taken.")]
    Create(CreateArgs),
    /// Change what a key may be used for; what was spent with it stays
    #[command(after_help = "Examples:\n  \
        derouter token set ci --daily 2\n  \
        derouter token set ci --total none --models all --expires never\n\n\
        Exit codes: 0 changed, 2 usage, 3 configuration, or there is no such key.")]
    Set(SetArgs),
    /// List the keys, what they may spend and what they spent
    #[command(
        after_help = "Examples:\n  derouter token list\n  derouter token list --json\n\n\
        Exit codes: 0 told, 2 usage, 3 configuration, or a file that can't be read."
    )]
    List(ListArgs),
    /// Take a key back: within a second the endpoint refuses it
    #[command(after_help = "Example:\n  derouter token revoke laptop\n\n\
        Exit codes: 0 revoked, 2 usage, 3 configuration, or there is no such key.")]
    Revoke(RevokeArgs),
}

/// Whose keys.
#[derive(Clone, Debug, Args)]
pub(crate) struct PlaceArgs {
    /// The node's configuration (JSON5), for its `data_dir`
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The node's data directory
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// What a key may be used for.
#[derive(Clone, Debug, Args)]
pub(crate) struct RulesArgs {
    /// Models it may be used for, with commas between; `*` stands for anything, `all` for all
    #[arg(long, value_name = "MODELS", value_delimiter = ',')]
    pub(crate) models: Option<Vec<String>>,
    /// The most that it may spend a day (UTC), in POL, or `none`
    #[arg(long, value_name = "POL", value_parser = cap)]
    pub(crate) daily: Option<Cap>,
    /// The most that it may spend in all, in POL, or `none`
    #[arg(long, value_name = "POL", value_parser = cap)]
    pub(crate) total: Option<Cap>,
    /// The most that one request may cost, in POL, or `none`
    #[arg(long, value_name = "POL", value_parser = cap)]
    pub(crate) per_request: Option<Cap>,
    /// When it ends: after 12h, 30d or 8w, on a day (UTC) such as 2026-12-31, or `never`
    #[arg(long, value_name = "WHEN", value_parser = expiry)]
    pub(crate) expires: Option<Expiry>,
}

/// The key to make.
#[derive(Clone, Debug, Args)]
pub(crate) struct CreateArgs {
    /// What to call it
    pub(crate) name: String,
    /// What it may be used for.
    #[command(flatten)]
    pub(crate) rules: RulesArgs,
    /// Whose key.
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// What to change.
#[derive(Clone, Debug, Args)]
pub(crate) struct SetArgs {
    /// Which key
    pub(crate) name: String,
    /// What it may be used for.
    #[command(flatten)]
    pub(crate) rules: RulesArgs,
    /// Whose key.
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// What to list.
#[derive(Clone, Debug, Args)]
pub(crate) struct ListArgs {
    /// Whose keys.
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// The key to take back.
#[derive(Clone, Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Which key
    pub(crate) name: String,
    /// Whose key.
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// A limit, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cap(pub(crate) Option<Wei>);

/// A time, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expiry(pub(crate) Option<UnixSeconds>);

fn cap(text: &str) -> Result<Cap, String> {
    if text == "none" {
        return Ok(Cap(None));
    }
    let amount = Wei::from_pol_text(text).map_err(|error| error.to_string())?;
    Ok(Cap(Some(amount)))
}

fn expiry(text: &str) -> Result<Expiry, String> {
    if text == "never" {
        return Ok(Expiry(None));
    }
    let wrong = || format!("{text:?} is neither like 12h, 30d or 8w nor a day such as 2026-12-31");
    if let Some(seconds) = span(text) {
        let at = text::now().0.checked_add(seconds).ok_or_else(wrong)?;
        return Ok(Expiry(Some(UnixSeconds(at))));
    }
    // A number alone would be Unix seconds, which nobody means here.
    let day = Some(text).filter(|text| text.contains('-'));
    let at = day.and_then(|day| moment(day).ok()).ok_or_else(wrong)?;
    Ok(Expiry(Some(at)))
}

/// The seconds of `12h`, `30d` or `8w`.
fn span(text: &str) -> Option<u64> {
    const HOUR: u64 = 3600;
    let units = [('h', HOUR), ('d', 24 * HOUR), ('w', 7 * 24 * HOUR)];
    let (number, unit) = units
        .iter()
        .find_map(|(letter, unit)| Some((text.strip_suffix(*letter)?, unit)))?;
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|number| digits && *number > 0)?;
    number.checked_mul(*unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        assert_eq!(span("12h"), Some(43_200));
        assert_eq!(span("30d"), Some(2_592_000));
        assert_eq!(span("1w"), Some(604_800));
        for wrong in [
            "",
            "d",
            "0d",
            "-1d",
            "+1d",
            "1.5d",
            "30",
            "30m",
            "99999999999999999999d",
        ] {
            assert_eq!(span(wrong), None, "{wrong}");
        }
        assert!(expiry("30").is_err() && expiry("9999999999999999w").is_err());
        assert_eq!(
            expiry("2000-01-01"),
            Ok(Expiry(Some(UnixSeconds(946_684_800))))
        );
        assert_eq!(expiry("never"), Ok(Expiry(None)));
    }

    #[test]
    fn a_cap_is_an_amount_of_pol_or_none() {
        assert_eq!(cap("none"), Ok(Cap(None)));
        assert_eq!(cap("0.5"), Ok(Cap(Wei::from_pol_text("0.5").ok())));
        assert!(cap("-1").is_err() && cap("").is_err());
    }
}
