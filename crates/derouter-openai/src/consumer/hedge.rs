//! When a second provider is asked although the first one has not failed yet. Pure.
//!
//! Only for streamed answers: what a first token takes says nothing of an answer in one piece. Each provider
//! is measured by itself, so a slow one is given its usual time.

use serde_json::Value;

/// The percentile where a request says `true` and the configuration nothing: one in 20 is slower.
const USUAL: f64 = 95.0;

/// Percentiles that make sense: below, every other request would be paid twice.
const LEAST: f64 = 50.0;
const MOST: f64 = 99.9;

/// The share of hedged requests, over all that may be: when everybody becomes slow at once, asking twice
/// as much would make it worse.
const SHARE: f64 = 0.1;

/// Hedges that may come at once after a quiet time.
const BURST: f64 = 5.0;

/// What a request says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hedge {
    /// No second provider before the first failed.
    Off,
    /// As the configuration says, or after the 95th percentile.
    On,
    /// After this percentile of the provider's own times.
    After(f64),
}

impl Hedge {
    /// Reads `true`, `false` or a percentile.
    pub(crate) fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(false) => Ok(Self::Off),
            Value::Bool(true) => Ok(Self::On),
            _ => value
                .as_f64()
                .filter(|number| is_percentile(*number))
                .map(Self::After)
                .ok_or_else(|| {
                    format!("must be true, false, or a percentile from {LEAST} to {MOST}")
                }),
        }
    }
}

/// Whether a number is one after which hedging makes sense.
#[must_use]
pub fn is_percentile(number: f64) -> bool {
    (LEAST..=MOST).contains(&number)
}

/// The percentile after which a request is hedged, if it is.
pub(crate) fn percentile(configured: Option<f64>, asked: Option<Hedge>) -> Option<f64> {
    match asked {
        Some(Hedge::Off) => None,
        Some(Hedge::After(percentile)) => Some(percentile),
        Some(Hedge::On) => Some(configured.unwrap_or(USUAL)),
        None => configured,
    }
}

/// How many requests may still be hedged.
#[derive(Debug)]
pub(crate) struct Budget(f64);

impl Default for Budget {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Budget {
    /// A request that may be hedged began.
    pub(crate) fn earn(&mut self) {
        self.0 = (self.0 + SHARE).min(BURST);
    }

    /// Takes one; false when there is none.
    pub(crate) fn take(&mut self) -> bool {
        let enough = self.0 >= 1.0;
        if enough {
            self.0 -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_goes_before_the_configuration() {
        assert_eq!(percentile(None, None), None, "off by default");
        assert_eq!(percentile(Some(90.0), None), Some(90.0));
        assert_eq!(percentile(Some(90.0), Some(Hedge::Off)), None);
        assert_eq!(percentile(Some(90.0), Some(Hedge::On)), Some(90.0));
        assert_eq!(percentile(None, Some(Hedge::On)), Some(USUAL));
        assert_eq!(percentile(Some(90.0), Some(Hedge::After(99.0))), Some(99.0));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(Hedge::read(&json!(true)), Ok(Hedge::On));
        assert_eq!(Hedge::read(&json!(99)), Ok(Hedge::After(99.0)));
        for wrong in [json!(49), json!(100), json!("95"), json!(null), json!({})] {
            assert!(Hedge::read(&wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_more_than_a_tenth_is_hedged_but_for_a_burst(wants in prop::collection::vec(any::<bool>(), 0..500)) {
            let mut budget = Budget::default();
            let mut hedged = 0_u32;
            let requests = u32::try_from(wants.len()).unwrap();
            for wants in wants {
                budget.earn();
                hedged += u32::from(wants && budget.take());
            }
            prop_assert!(f64::from(hedged) <= 1.0 + SHARE * f64::from(requests) + 1e-6);
        }
    }
}
