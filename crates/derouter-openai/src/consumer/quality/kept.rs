//! What was learned of providers as it is kept over a restart: times become ages, and go on while nobody
//! looks. Only the time on the market does not: what a provider did while this node was down is not known.

use std::time::Duration;

use derouter_sdk::PeerId;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::recent::Recent;
use super::{Average, MAX_ENTRIES, MOST_WEIGHT, OLD, Quality, Seen};

/// The form of the file.
const VERSION: u32 = 1;

/// A word whose hash tells whether the models' hashes are those of this build.
const PROBE: &str = "a model";

/// What is older says nothing any more: ten half-lives.
const LONGEST: Duration = Duration::from_secs(5 * 60 * 60);

/// The largest logarithm of seconds, or of tokens a second, that anything comes to.
const MOST_LOGARITHM: f64 = 30.0;

/// All that is kept. Ages are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    version: u32,
    probe: u64,
    seen: Vec<KeptSeen>,
    pub(super) cooldowns: Vec<KeptCooldown>,
    pub(super) presences: Vec<KeptPresence>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptSeen {
    provider: PeerName,
    model: u64,
    age: f64,
    first_token: KeptAverage,
    speed: KeptAverage,
    good: f64,
    bad: f64,
    /// Milliseconds to the first token, oldest first.
    times: Vec<u32>,
    /// Thousandths of a token a second.
    speeds: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptAverage {
    logarithm: f64,
    weight: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptCooldown {
    pub(super) provider: PeerName,
    pub(super) failures: u32,
    pub(super) declines: u32,
    pub(super) age: f64,
    /// How long it is asked after all others.
    pub(super) left: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptPresence {
    pub(super) provider: PeerName,
    /// Since it was first seen, without the time in which this node was down.
    pub(super) known: f64,
    pub(super) there: f64,
    /// For how long it is gone; 0 for one that is there.
    pub(super) gone: f64,
}

/// A peer id as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct PeerName(pub(super) PeerId);

impl TryFrom<String> for PeerName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let peer = text.parse();
        peer.map(Self).map_err(|_| "no peer id".to_owned())
    }
}

impl From<PeerName> for String {
    fn from(name: PeerName) -> Self {
        name.0.to_string()
    }
}

impl Average {
    fn keep(&self) -> KeptAverage {
        KeptAverage {
            logarithm: self.logarithm,
            weight: self.weight,
        }
    }

    fn recall(kept: &KeptAverage) -> Self {
        Self {
            logarithm: kept.logarithm.clamp(-MOST_LOGARITHM, MOST_LOGARITHM),
            weight: kept.weight.clamp(0.0, MOST_WEIGHT),
        }
    }
}

impl Kept {
    /// Whether there is nothing to keep.
    pub(crate) fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.cooldowns.is_empty() && self.presences.is_empty()
    }
}

impl Quality {
    /// What is to be kept.
    pub(crate) fn keep(&self, now: Instant) -> Kept {
        let fresh = self
            .seen
            .iter()
            .filter(|(_, seen)| now.saturating_duration_since(seen.at) < LONGEST);
        Kept {
            version: VERSION,
            probe: super::hash(PROBE),
            seen: fresh
                .map(|((provider, model), seen)| KeptSeen {
                    provider: PeerName(*provider),
                    model: *model,
                    age: now.saturating_duration_since(seen.at).as_secs_f64(),
                    first_token: seen.first_token.keep(),
                    speed: seen.speed.keep(),
                    good: seen.good,
                    bad: seen.bad,
                    times: seen.recent.latest(),
                    speeds: seen.speeds.latest(),
                })
                .collect(),
            cooldowns: self.cooldowns.keep(now),
            presences: self.presences.keep(now),
        }
    }

    /// What was kept, after a time in which nobody looked. What can't be is left out.
    pub(crate) fn recall(kept: &Kept, down: Duration, now: Instant) -> Self {
        let mut quality = Self::default();
        if kept.version != VERSION {
            return quality;
        }
        quality.cooldowns.recall(&kept.cooldowns, down, now);
        quality.presences.recall(&kept.presences, down, now);
        if kept.probe != super::hash(PROBE) {
            return quality;
        }
        for kept in kept.seen.iter().take(MAX_ENTRIES) {
            let seen = Seen::recall(kept, down, now);
            if let Some(seen) = seen {
                quality.seen.insert((kept.provider.0, kept.model), seen);
            }
        }
        quality
    }
}

impl Seen {
    fn recall(kept: &KeptSeen, down: Duration, now: Instant) -> Option<Self> {
        let age = seconds(kept.age).saturating_add(down).min(LONGEST);
        if age >= LONGEST {
            return None;
        }
        let mut seen = Self {
            first_token: Average::recall(&kept.first_token),
            recent: Recent::of(&kept.times),
            speed: Average::recall(&kept.speed),
            speeds: Recent::of(&kept.speeds),
            good: kept.good.clamp(0.0, MOST_WEIGHT),
            bad: kept.bad.clamp(0.0, MOST_WEIGHT),
            at: now.checked_sub(age)?,
        };
        if seen.decay(now) < OLD {
            seen.recent = Recent::default();
            seen.speeds = Recent::default();
        }
        Some(seen)
    }
}

/// A time of a file, whatever it says.
pub(super) fn seconds(seconds: f64) -> Duration {
    const MOST: f64 = 1e9;
    Duration::try_from_secs_f64(seconds.clamp(0.0, MOST)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use derouter_sdk::OfferId;

    use super::super::{Blame, Sample};
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn again(quality: &Quality, down: Duration, now: Instant) -> Quality {
        let text = serde_json::to_vec(&quality.keep(now)).unwrap();
        let kept: Kept = serde_json::from_slice(&text).unwrap();
        Quality::recall(&kept, down, now)
    }

    #[test]
    fn what_was_measured_is_there_after_a_restart_and_has_aged() {
        let mut quality = Quality::default();
        let (provider, now) = (PeerId::random(), Instant::now());
        for _ in 0..12 {
            quality.first_token(&provider, "m", Duration::from_millis(500), now);
            let sample = Sample {
                tokens: 100,
                waited: Duration::from_secs(2),
            };
            quality.succeeded(&provider, "m", sample, now);
        }
        let same = again(&quality, Duration::ZERO, now);
        let (before, after) = (
            quality.observed(&provider, "m", now),
            same.observed(&provider, "m", now),
        );
        assert_eq!(before, after);
        assert_eq!(
            same.spreads(&provider, "m"),
            quality.spreads(&provider, "m")
        );
        assert_eq!(
            same.slow_first_token(&provider, "m", 95.0),
            quality.slow_first_token(&provider, "m", 95.0)
        );
        // It is as old as if the node had run all the time.
        let later = again(&quality, 30 * MINUTE, now).observed(&provider, "m", now);
        let unbroken = quality.observed(&provider, "m", now + 30 * MINUTE);
        assert!((later.tried - unbroken.tried).abs() < 1e-6, "{later:?}");
        let (later, unbroken) = (later.speed.unwrap(), unbroken.speed.unwrap());
        assert!((later.weight - unbroken.weight).abs() < 1e-6);
        let long = again(&quality, 120 * MINUTE, now);
        assert_eq!(long.spreads(&provider, "m"), (None, None));
        assert!(again(&quality, 600 * MINUTE, now).seen.is_empty());
    }

    #[test]
    fn a_cooldown_is_not_forgotten_and_goes_on() {
        let mut quality = Quality::default();
        let (provider, now) = (PeerId::random(), Instant::now());
        for _ in 0..2 {
            quality.blame(&provider, "m", Blame::Failed, now);
        }
        let left = |quality: &Quality| quality.cools_for(&provider, now).map(|it| it.as_secs());
        assert_eq!(left(&again(&quality, Duration::ZERO, now)), left(&quality));
        let mut later = again(&quality, Duration::from_secs(20), now);
        assert_eq!(later.cools_for(&provider, now).unwrap().as_secs(), 10);
        let over = now + Duration::from_secs(11);
        assert_eq!(later.cools_for(&provider, over), None);
        // The streak goes on.
        later.blame(&provider, "m", Blame::Failed, over);
        assert!(later.cools_for(&provider, over).unwrap() > 2 * MINUTE - MINUTE / 2);
    }

    #[test]
    fn the_time_in_which_this_node_was_down_is_nobodys_absence() {
        let mut quality = Quality::default();
        let start = Instant::now();
        let hours = |hours: u32| start + hours * 60 * MINUTE;
        let (there, gone) = (PeerId::random(), PeerId::random());
        let offer = OfferId::new("o").unwrap();
        quality.offered(there, &offer, start);
        quality.offered(gone, &offer, start);
        quality.withdrawn(&gone, &offer, hours(1));
        let now = hours(3);
        let same = again(&quality, 600 * MINUTE, now);
        for provider in [there, gone] {
            let uptime = |quality: &Quality| quality.observed(&provider, "m", now).uptime;
            assert!((uptime(&same) - uptime(&quality)).abs() < 1e-9);
        }
    }

    #[test]
    fn whatever_a_file_says_is_bounded() {
        let peer = PeerId::random();
        let text = format!(
            r#"{{"version": 1, "probe": {}, "seen": [{{"provider": "{peer}", "model": {}, "age": -1e300,
            "first_token": {{"logarithm": 1e300, "weight": 1e300}}, "speed": {{"logarithm": -1e300, "weight": -1}},
            "good": 1e300, "bad": -5, "times": [{}], "speeds": []}}],
            "cooldowns": [{{"provider": "{peer}", "failures": 4294967295, "declines": 4294967295, "age": 0, "left": 1e300}}],
            "presences": [{{"provider": "{peer}", "known": 1e300, "there": 1e301, "gone": -1}}]}}"#,
            super::super::hash(PROBE),
            super::super::hash("m"),
            vec!["4294967295"; 100].join(",")
        );
        let kept: Kept = serde_json::from_str(&text).unwrap();
        let now = Instant::now();
        let mut quality = Quality::recall(&kept, Duration::ZERO, now);
        let seen = quality.observed(&peer, "m", now);
        assert!(seen.tried <= 2.0 * MOST_WEIGHT && seen.success <= 1.0 && seen.uptime <= 1.0);
        assert!(seen.first_token.unwrap().value.is_finite());
        assert!(quality.cools_for(&peer, now).unwrap() <= 8 * MINUTE);
        quality.blame(&peer, "m", Blame::Failed, now);
        quality.blame(&peer, "m", Blame::Declined, now);
        let other = Kept { version: 2, ..kept };
        assert!(Quality::recall(&other, Duration::ZERO, now).seen.is_empty());
    }
}
