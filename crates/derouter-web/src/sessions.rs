//! Who is let in: launch tokens that open a session once, sessions, and the secrets behind both.
//! Secrets are kept as SHA-256, so that neither a comparison nor a dump of the memory's maps tells
//! them. Pure: times are given.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::board::Versions;

/// How long a launch token opens a session: long enough for a browser to start.
pub(crate) const LAUNCH_TIME: Duration = Duration::from_secs(120);

/// Launch tokens at a time; the oldest goes.
const MAX_LAUNCHES: usize = 16;

/// Sessions at a time; the one that was used longest ago goes.
const MAX_SESSIONS: usize = 64;

/// How long a session lives without being used, and at the most.
const IDLE_TIME: Duration = Duration::from_secs(12 * 3600);
const LIFE_TIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// Wrong tokens from one source in [`TRY_TIME`]; further ones are not looked at.
const MAX_TRIES: u32 = 10;
const TRY_TIME: Duration = Duration::from_secs(60);

/// Sources of wrong tokens that are remembered; the one that began longest ago goes. Whoever has that
/// many addresses may try more, which a token of sixteen characters bears.
const MAX_SOURCES: usize = 1024;

/// Bytes of a secret; 32 can't be guessed.
const SECRET_BYTES: usize = 32;

type Digest32 = [u8; 32];

/// The system has no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub(crate) struct NoRandom;

/// A secret as text that goes into URLs, headers and cookies.
pub(crate) fn secret() -> Result<String, NoRandom> {
    let mut bytes = [0; SECRET_BYTES];
    OsRng.try_fill_bytes(&mut bytes).map_err(|_| NoRandom)?;
    Ok(hex::encode(bytes))
}

fn digest(text: &str) -> Digest32 {
    Sha256::digest(text.as_bytes()).into()
}

/// Whether two texts are the same, in a time that tells nothing of them.
pub(crate) fn same(one: &str, other: &str) -> bool {
    digest(one) == digest(other)
}

/// A session as requests see it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// Which one, for limits; no secret.
    pub(crate) number: u64,
    /// What forms of its pages carry.
    pub(crate) csrf: String,
    /// What had changed how often when the request came: what changes later is told to its page.
    pub(crate) versions: Versions,
}

#[derive(Debug)]
struct Kept {
    session: Session,
    begun: Instant,
    used: Instant,
}

impl Kept {
    fn holds(&self, now: Instant) -> bool {
        now.duration_since(self.used) < IDLE_TIME && now.duration_since(self.begun) < LIFE_TIME
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    launches: VecDeque<(Digest32, Instant)>,
    sessions: HashMap<Digest32, Kept>,
    wrong: HashMap<IpAddr, Tried>,
    next: u64,
}

/// Wrong tokens of one source.
#[derive(Clone, Copy, Debug)]
struct Tried {
    since: Instant,
    times: u32,
}

impl Tried {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= TRY_TIME
    }
}

/// Who counts as one source: an address, and of IPv6 the network of a household or machine.
fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
    }
}

impl Sessions {
    /// A token that opens one session.
    pub(crate) fn launch(&mut self, now: Instant) -> Result<String, NoRandom> {
        let token = secret()?;
        if self.launches.len() >= MAX_LAUNCHES {
            self.launches.pop_front();
        }
        self.launches.push_back((digest(&token), now));
        Ok(token)
    }

    /// Takes a launch token, once.
    pub(crate) fn redeem(&mut self, token: &str, now: Instant) -> bool {
        let given = digest(token);
        let held = self.launches.len();
        let mut good = false;
        self.launches.retain(|(known, made)| {
            let fresh = now.duration_since(*made) < LAUNCH_TIME;
            let found = *known == given;
            good |= fresh && found;
            fresh && !found
        });
        debug_assert!(self.launches.len() <= held);
        good
    }

    /// Whether tokens from there are still looked at.
    pub(crate) fn may_try(&self, from: IpAddr, now: Instant) -> bool {
        let tried = self.wrong.get(&source(from));
        tried.is_none_or(|tried| tried.times < MAX_TRIES || tried.is_over(now))
    }

    /// A token from there was wrong.
    pub(crate) fn tried(&mut self, from: IpAddr, now: Instant) {
        let from = source(from);
        if !self.wrong.contains_key(&from) && self.wrong.len() >= MAX_SOURCES {
            self.wrong.retain(|_, tried| !tried.is_over(now));
            let oldest = self.wrong.iter().min_by_key(|(_, tried)| tried.since);
            if let Some(oldest) = oldest.map(|(from, _)| *from)
                && self.wrong.len() >= MAX_SOURCES
            {
                self.wrong.remove(&oldest);
            }
        }
        let begun = Tried {
            since: now,
            times: 0,
        };
        let tried = self.wrong.entry(from).or_insert(begun);
        if tried.is_over(now) {
            *tried = begun;
        }
        tried.times = tried.times.saturating_add(1);
    }

    /// Opens a session. Returns what its cookie holds.
    pub(crate) fn open(&mut self, now: Instant) -> Result<String, NoRandom> {
        let (id, csrf) = (secret()?, secret()?);
        self.sessions.retain(|_, kept| kept.holds(now));
        if self.sessions.len() >= MAX_SESSIONS {
            let oldest = self.sessions.iter().min_by_key(|(_, kept)| kept.used);
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                self.sessions.remove(&oldest);
            }
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let session = Session {
            number,
            csrf,
            versions: Versions::default(),
        };
        let kept = Kept {
            session,
            begun: now,
            used: now,
        };
        self.sessions.insert(digest(&id), kept);
        Ok(id)
    }

    /// The session of a cookie, which is used by that.
    pub(crate) fn find(&mut self, id: &str, now: Instant) -> Option<Session> {
        let kept = self.sessions.get_mut(&digest(id))?;
        if !kept.holds(now) {
            return None;
        }
        kept.used = now;
        Some(kept.session.clone())
    }

    /// Whether a session is still open; not a use of it.
    pub(crate) fn is_open(&self, number: u64, now: Instant) -> bool {
        let mut kept = self.sessions.values();
        kept.any(|kept| kept.session.number == number && kept.holds(now))
    }

    /// Ends a session.
    pub(crate) fn close(&mut self, number: u64) {
        self.sessions
            .retain(|_, kept| kept.session.number != number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_launch_token_opens_once_and_not_late() {
        let mut sessions = Sessions::default();
        let now = Instant::now();
        let token = sessions.launch(now).unwrap();
        assert!(!sessions.redeem("other", now));
        assert!(sessions.redeem(&token, now));
        assert!(!sessions.redeem(&token, now), "once");
        let late = sessions.launch(now).unwrap();
        assert!(!sessions.redeem(&late, now + LAUNCH_TIME));
        let first = sessions.launch(now).unwrap();
        for _ in 0..MAX_LAUNCHES {
            sessions.launch(now).unwrap();
        }
        assert!(!sessions.redeem(&first, now), "the oldest goes");
    }

    #[tokio::test]
    async fn sessions_end_idle_old_closed_and_when_there_are_too_many() {
        let mut sessions = Sessions::default();
        let now = Instant::now();
        let id = sessions.open(now).unwrap();
        let session = sessions.find(&id, now).unwrap();
        assert!(sessions.find(&id, now + IDLE_TIME).is_none());
        let mut later = now;
        while later < now + LIFE_TIME - IDLE_TIME / 2 {
            later += IDLE_TIME / 2;
            assert!(sessions.find(&id, later).is_some());
        }
        assert!(sessions.find(&id, now + LIFE_TIME).is_none());
        sessions.close(session.number);
        assert!(sessions.find(&id, now).is_none());
        let first = sessions.open(now).unwrap();
        for second in 1..=MAX_SESSIONS {
            let at = now + Duration::from_secs(u64::try_from(second).unwrap());
            sessions.open(at).unwrap();
        }
        assert!(sessions.find(&first, now).is_none());
        assert_eq!(sessions.sessions.len(), MAX_SESSIONS);
    }

    #[tokio::test]
    async fn tokens_can_not_be_tried_without_end_and_only_who_tries_is_kept_out() {
        let mut sessions = Sessions::default();
        let now = Instant::now();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let guesser = address("2001:db8:1:2::1");
        for _ in 0..MAX_TRIES {
            assert!(sessions.may_try(guesser, now));
            sessions.tried(guesser, now);
        }
        assert!(!sessions.may_try(guesser, now));
        let neighbour = address("2001:db8:1:2:ffff::9");
        assert!(
            !sessions.may_try(neighbour, now),
            "one network is one source"
        );
        for other in ["2001:db8:1:3::1", "192.0.2.1", "::ffff:192.0.2.1"] {
            assert!(sessions.may_try(address(other), now), "{other}");
        }
        assert!(sessions.may_try(guesser, now + TRY_TIME));
        for _ in 0..MAX_TRIES {
            sessions.tried(address("::ffff:192.0.2.1"), now);
        }
        assert!(
            !sessions.may_try(address("192.0.2.1"), now),
            "it is the same address"
        );
    }

    #[tokio::test]
    async fn sources_of_wrong_tokens_are_bounded() {
        let mut sessions = Sessions::default();
        let now = Instant::now();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let many = u32::try_from(MAX_SOURCES).unwrap();
        for number in 0..many + 50 {
            let at = now + Duration::from_millis(u64::from(number));
            for _ in 0..MAX_TRIES {
                sessions.tried(address(number), at);
            }
        }
        assert_eq!(sessions.wrong.len(), MAX_SOURCES);
        let soon = now + Duration::from_secs(2);
        assert!(sessions.may_try(address(0), soon), "the oldest was let go");
        assert!(!sessions.may_try(address(many), soon));
    }
}
