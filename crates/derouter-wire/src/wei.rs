//! Money: a non-negative whole number of wei, up to 2^256-1. Never a float.

use std::fmt;
use std::str::FromStr;

use ruint::aliases::U256;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Decimal digits of one POL in wei.
const POL_DECIMALS: usize = 18;

/// An amount in wei (10^-18 POL). On the wire: decimal text.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wei(U256);

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseWeiError {
    /// The text has no digits.
    #[error("an amount is missing")]
    Empty,
    /// Something other than decimal digits (and, for POL, one decimal point).
    #[error("{0:?} is not a decimal number such as 12 or 0.5")]
    NotDecimal(String),
    /// More than 18 digits behind the decimal point of a POL amount.
    #[error("{0:?} has more than 18 decimals, which is finer than one wei")]
    TooFine(String),
    /// Over 2^256-1.
    #[error("{0:?} is larger than 2^256-1 wei")]
    TooLarge(String),
}

impl Wei {
    /// Nothing.
    pub const ZERO: Wei = Wei(U256::ZERO);
    /// The largest amount, 2^256-1 wei.
    pub const MAX: Wei = Wei(U256::MAX);

    /// An amount given in wei.
    pub fn from_wei(wei: u128) -> Self {
        Wei(U256::from(wei))
    }

    /// An amount given in POL as decimal text: `"10"`, `"0.25"`. No sign, no exponent.
    pub fn from_pol_text(text: &str) -> Result<Self, ParseWeiError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(ParseWeiError::Empty);
        }
        if text.ends_with('.') || whole.is_empty() {
            return Err(ParseWeiError::NotDecimal(text.into()));
        }
        if fraction.len() > POL_DECIMALS {
            return Err(ParseWeiError::TooFine(text.into()));
        }
        let digits = format!("{whole}{fraction:0<POL_DECIMALS$}");
        match digits.parse() {
            Err(ParseWeiError::NotDecimal(_)) => Err(ParseWeiError::NotDecimal(text.into())),
            Err(ParseWeiError::TooLarge(_)) => Err(ParseWeiError::TooLarge(text.into())),
            other => other,
        }
    }

    /// The amount in POL as decimal text without trailing zeros: `"0.0006"`.
    pub fn to_pol_text(self) -> String {
        let digits = format!("{:0>width$}", self.0.to_string(), width = POL_DECIMALS + 1);
        let (whole, fraction) = digits.split_at(digits.len() - POL_DECIMALS);
        let fraction = fraction.trim_end_matches('0');
        if fraction.is_empty() {
            whole.into()
        } else {
            format!("{whole}.{fraction}")
        }
    }

    /// Whether this is nothing.
    pub fn is_zero(self) -> bool {
        self.0 == U256::ZERO
    }

    /// The sum, unless it is over 2^256-1.
    pub fn checked_add(self, other: Wei) -> Option<Wei> {
        self.0.checked_add(other.0).map(Wei)
    }

    /// The sum, at most [`Wei::MAX`].
    pub fn saturating_add(self, other: Wei) -> Wei {
        Wei(self.0.saturating_add(other.0))
    }

    /// The difference, at least zero.
    pub fn saturating_sub(self, other: Wei) -> Wei {
        Wei(self.0.saturating_sub(other.0))
    }

    /// So many times the amount; `None` when it is over 2^256-1 wei.
    #[must_use]
    pub fn checked_mul(self, times: u64) -> Option<Wei> {
        self.0.checked_mul(U256::from(times)).map(Wei)
    }

    /// The amount in wei as a float, which is off by a rounding: for comparing and showing, never for
    /// what is paid.
    pub fn approximately(self) -> f64 {
        f64::from(self.0)
    }

    /// `self * units / 1_000_000`, rounded down: a price for a million units applied to `units`.
    /// `None` when the product is over 2^256-1.
    pub fn checked_per_million(self, units: u64) -> Option<Wei> {
        let product = self.0.checked_mul(U256::from(units))?;
        Some(Wei(product / U256::from(1_000_000_u64)))
    }
}

impl fmt::Display for Wei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Wei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}wei", self.0)
    }
}

impl FromStr for Wei {
    type Err = ParseWeiError;

    /// Decimal digits only: no sign, no spaces, no underscores, no `0x`.
    fn from_str(text: &str) -> Result<Self, ParseWeiError> {
        if text.is_empty() {
            return Err(ParseWeiError::Empty);
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseWeiError::NotDecimal(clip(text)));
        }
        U256::from_str_radix(text, 10)
            .map(Wei)
            .map_err(|_| ParseWeiError::TooLarge(clip(text)))
    }
}

/// What an error message repeats of a hostile text.
fn clip(text: &str) -> String {
    text.chars().take(100).collect()
}

impl Serialize for Wei {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Wei {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pol_text_reads_and_prints_exactly() {
        for (pol, wei) in [
            ("10", "10000000000000000000"),
            ("0.0006", "600000000000000"),
            ("0", "0"),
            ("1.5", "1500000000000000000"),
            ("0.000000000000000001", "1"),
        ] {
            let amount = Wei::from_pol_text(pol).unwrap();
            assert_eq!(amount.to_string(), wei);
            assert_eq!(amount.to_pol_text(), pol);
        }
    }

    #[test]
    fn texts_that_are_not_amounts_are_refused() {
        for text in [
            "", ".", "1.", ".5", "-1", "+1", "1e3", " 1", "1_000", "0x10", "1.2.3",
        ] {
            assert!(Wei::from_pol_text(text).is_err(), "{text:?}");
            assert!(text.parse::<Wei>().is_err(), "{text:?}");
        }
        assert!(matches!(
            Wei::from_pol_text("0.0000000000000000001"),
            Err(ParseWeiError::TooFine(_))
        ));
        let over = "115792089237316195423570985008687907853269984665640564039457584007913129639936";
        assert!(matches!(
            over.parse::<Wei>(),
            Err(ParseWeiError::TooLarge(_))
        ));
        let most = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
        assert_eq!(most.parse::<Wei>().unwrap(), Wei::MAX);
    }

    #[test]
    fn a_price_per_million_rounds_down_and_never_wraps() {
        let price = Wei::from_wei(1_999_999);
        assert_eq!(price.checked_per_million(1), Some(Wei::from_wei(1)));
        assert_eq!(Wei::MAX.checked_per_million(2), None);
    }
}
