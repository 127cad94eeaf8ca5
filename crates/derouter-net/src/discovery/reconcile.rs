//! Set reconciliation (negentropy): two peers find out which announcements each of them lacks, for
//! bytes in proportion to what differs.

use std::time::Instant;

use derouter_wire::discovery::{DiscoveryRequest, Fetched, Reconciled};
use derouter_wire::limits::{FETCH_IDS, RECONCILE_BYTES};
use libp2p::PeerId;
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::exchange::{Commands, ExchangeError, ask, read_frame};
use super::{Ask, Input, Inputs, Taken};
use crate::limits;

/// What is announced in some shards at one time.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(super) shards: u16,
    /// Without that whose list may still come: what others are told of.
    pub(super) for_others: bool,
    pub(super) made: Instant,
    storage: NegentropyStorageVector,
}

/// A message can't be reconciled with.
#[derive(Debug, thiserror::Error)]
#[error("no message of a reconciliation: {0}")]
pub(super) struct BadMessage(String);

impl From<negentropy::Error> for BadMessage {
    fn from(error: negentropy::Error) -> Self {
        Self(error.to_string())
    }
}

/// What one round brought.
#[derive(Debug, Default)]
struct Round {
    /// Ids that only we have.
    have: Vec<[u8; 32]>,
    /// Ids that only the other has.
    need: Vec<[u8; 32]>,
    /// What to send next; `None` at the end.
    next: Option<Vec<u8>>,
}

impl Snapshot {
    pub(super) fn new(
        (shards, for_others): (u16, bool),
        items: impl Iterator<Item = (u64, [u8; 32])>,
        made: Instant,
    ) -> Option<Self> {
        let mut storage = NegentropyStorageVector::new();
        for (sequence, id) in items {
            storage.insert(sequence, Id::from_byte_array(id)).ok()?;
        }
        storage.seal().ok()?;
        Some(Self {
            shards,
            for_others,
            made,
            storage,
        })
    }

    /// The answer to a message of the one who began.
    pub(super) fn answer(&self, message: &[u8]) -> Result<Vec<u8>, BadMessage> {
        Ok(self.negentropy()?.reconcile(message)?)
    }

    fn initiate(&self) -> Result<Vec<u8>, BadMessage> {
        Ok(self.negentropy()?.initiate()?)
    }

    fn step(&self, answer: &[u8]) -> Result<Round, BadMessage> {
        let mut negentropy = self.negentropy()?;
        negentropy.set_initiator();
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let next = negentropy.reconcile_with_ids(answer, &mut have, &mut need)?;
        let bytes = |ids: Vec<Id>| ids.into_iter().map(Id::to_bytes).collect();
        Ok(Round {
            have: bytes(have),
            need: bytes(need),
            next,
        })
    }

    fn negentropy(&self) -> Result<Negentropy<'_, NegentropyStorageVector>, BadMessage> {
        let frame = u64::try_from(RECONCILE_BYTES).unwrap_or(u64::MAX);
        Ok(Negentropy::borrowed(&self.storage, frame)?)
    }
}

/// Runs a computation over a snapshot where it holds up nobody: a large one takes milliseconds.
pub(super) async fn compute<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BadMessage> + Send + 'static,
) -> Result<T, ExchangeError> {
    let ended = tokio::task::spawn_blocking(work).await;
    let ended = ended.map_err(|error| ExchangeError::Invalid(error.to_string()))?;
    ended.map_err(|error| ExchangeError::Invalid(error.to_string()))
}

/// How a reconciliation ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) peer: PeerId,
    /// Also of one that did not get to its end: what came stays.
    pub(super) differences: Differences,
    pub(super) outcome: Result<(), ExchangeError>,
}

/// How many announcements differed, as far as was seen.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Differences {
    /// That the peer gave us.
    pub(super) fetched: usize,
    /// Of these, those that were new to us.
    pub(super) new: usize,
    /// Of these, those that the mesh should have brought long before.
    pub(super) late: usize,
    /// That we have and the peer had not.
    pub(super) offered: usize,
}

/// Reconciles with a peer: finds the differences, fetches what we lack, gives what it lacks.
pub(super) async fn reconcile(
    commands: Commands,
    inputs: Inputs,
    snapshot: Arc<Snapshot>,
    peer: PeerId,
) -> Ended {
    let mut differences = Differences::default();
    let run = run(&commands, &inputs, &snapshot, peer, &mut differences);
    let ended = timeout(limits::RECONCILE_DEADLINE, run).await;
    let outcome = ended.unwrap_or(Err(ExchangeError::Timeout));
    Ended {
        peer,
        differences,
        outcome,
    }
}

async fn run(
    commands: &Commands,
    inputs: &Inputs,
    snapshot: &Arc<Snapshot>,
    peer: PeerId,
    differences: &mut Differences,
) -> Result<(), ExchangeError> {
    let begin = Arc::clone(snapshot);
    let mut next = Some(compute(move || begin.initiate()).await?);
    let mut needed = 0_usize;
    for _ in 0..limits::RECONCILE_ROUNDS {
        let Some(message) = next.take() else {
            break;
        };
        let answer = one_round(commands, peer, snapshot.shards, message).await?;
        let known = Arc::clone(snapshot);
        let round = compute(move || known.step(&answer)).await?;
        needed = needed.saturating_add(round.need.len());
        if needed > limits::RECONCILE_IDS {
            return Err(ExchangeError::Invalid("too many announcements".into()));
        }
        for ids in round.need.chunks(FETCH_IDS) {
            let (fetched, taken) = fetch(commands, inputs, peer, ids).await?;
            differences.fetched = differences.fetched.saturating_add(fetched);
            differences.new = differences.new.saturating_add(taken.new);
            differences.late = differences.late.saturating_add(taken.late);
        }
        // After the fetch: of a provider that both know, only the newer one is left.
        for ids in round.have.chunks(FETCH_IDS) {
            offer(commands, inputs, peer, ids).await?;
            differences.offered = differences.offered.saturating_add(ids.len());
        }
        next = round.next;
    }
    Ok(())
}

async fn one_round(
    commands: &Commands,
    peer: PeerId,
    shards: u16,
    message: Vec<u8>,
) -> Result<Vec<u8>, ExchangeError> {
    let request = DiscoveryRequest::Reconcile { shards, message };
    let exchange = async {
        let mut stream = ask(commands, peer, &request).await?;
        let frame = read_frame(&mut stream, Reconciled::FRAME_BYTES).await?;
        let frame = frame.ok_or_else(|| ExchangeError::Unreachable("it is busy".into()))?;
        Ok(Reconciled::decode(&frame)?.message.0)
    };
    let ended = timeout(limits::DISCOVERY_DEADLINE, exchange).await;
    ended.unwrap_or(Err(ExchangeError::Timeout))
}

async fn fetch(
    commands: &Commands,
    inputs: &Inputs,
    peer: PeerId,
    ids: &[[u8; 32]],
) -> Result<(usize, Taken), ExchangeError> {
    let request = DiscoveryRequest::Fetch(ids.to_vec());
    let exchange = async {
        let mut stream = ask(commands, peer, &request).await?;
        let frame = read_frame(&mut stream, Fetched::FRAME_BYTES).await?;
        let frame = frame.ok_or_else(|| ExchangeError::Unreachable("it is busy".into()))?;
        Ok(Fetched::decode(&frame)?.announcements)
    };
    let ended = timeout(limits::DISCOVERY_DEADLINE, exchange).await;
    let announcements = ended.unwrap_or(Err(ExchangeError::Timeout))?;
    let count = announcements.len();
    let taken = put(inputs, peer, |done| Ask::Take(announcements, done)).await?;
    Ok((count, taken))
}

async fn offer(
    commands: &Commands,
    inputs: &Inputs,
    peer: PeerId,
    ids: &[[u8; 32]],
) -> Result<(), ExchangeError> {
    let ids = ids.to_vec();
    let carried = put(inputs, peer, |reply| Ask::Carried(ids, reply)).await?;
    if carried.is_empty() {
        return Ok(());
    }
    let request = DiscoveryRequest::Offer(carried);
    let exchange = async {
        let mut stream = ask(commands, peer, &request).await?;
        read_frame(&mut stream, Fetched::FRAME_BYTES).await
    };
    let ended = timeout(limits::DISCOVERY_DEADLINE, exchange).await;
    ended.unwrap_or(Err(ExchangeError::Timeout)).map(|_| ())
}

/// Asks the task that owns the directory.
pub(super) async fn put<T>(
    inputs: &Inputs,
    peer: PeerId,
    ask: impl FnOnce(oneshot::Sender<T>) -> Ask,
) -> Result<T, ExchangeError> {
    let busy = || ExchangeError::Unreachable("this node is busy or stops".into());
    let (reply, answer) = oneshot::channel();
    let sent = inputs.send(Input::Ask(peer, ask(reply))).await;
    sent.map_err(|_| busy())?;
    answer.await.map_err(|_| busy())
}

/// See [`crate::fuzz::reconcile`].
pub(super) fn fuzz(data: &[u8]) {
    static KNOWN: std::sync::OnceLock<Option<Snapshot>> = std::sync::OnceLock::new();
    const ITEMS: u8 = 200;
    let make = || {
        let items = (0..ITEMS).map(|number| (u64::from(number), [number; 32]));
        Snapshot::new((u16::MAX, true), items, Instant::now())
    };
    let Some(known) = KNOWN.get_or_init(make) else {
        return;
    };
    if let Ok(answer) = known.answer(data) {
        assert!(answer.len() <= RECONCILE_BYTES);
    }
    if let Ok(round) = known.step(data) {
        assert!(round.next.is_none_or(|next| next.len() <= RECONCILE_BYTES));
        // Each of ours once, and only those whose bytes were there to be named.
        assert!(round.have.len() <= usize::from(ITEMS));
        assert!(round.need.len() <= data.len() / 32);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use negentropy::NegentropyStorageBase;

    use super::*;

    fn snapshot(numbers: impl Iterator<Item = u64>) -> Snapshot {
        let items = numbers.map(|number| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            (number / 3, id)
        });
        Snapshot::new((u16::MAX, true), items, Instant::now()).unwrap()
    }

    fn number(id: &[u8; 32]) -> u64 {
        u64::from_be_bytes(*id.first_chunk().unwrap())
    }

    /// What each lacks, in how many rounds.
    fn differences(one: &Snapshot, other: &Snapshot) -> (BTreeSet<u64>, BTreeSet<u64>, u32) {
        let (mut have, mut need) = (BTreeSet::new(), BTreeSet::new());
        let mut next = Some(one.initiate().unwrap());
        let mut rounds = 0;
        while let Some(message) = next.take() {
            assert!(message.len() <= RECONCILE_BYTES);
            let answer = other.answer(&message).unwrap();
            assert!(answer.len() <= RECONCILE_BYTES);
            let round = one.step(&answer).unwrap();
            have.extend(round.have.iter().map(number));
            need.extend(round.need.iter().map(number));
            next = round.next;
            rounds += 1;
        }
        (have, need, rounds)
    }

    #[test]
    fn two_sets_find_what_each_lacks_within_the_rounds_that_are_allowed() {
        for size in [0, 1, 30, 1000, 30_000] {
            let one = snapshot((0..size).filter(|number| number % 97 != 0));
            let other = snapshot((0..size + 5).filter(|number| number % 89 != 1));
            let (have, need, rounds) = differences(&one, &other);
            let expected_have: BTreeSet<u64> = (0..size)
                .filter(|number| number % 97 != 0 && number % 89 == 1)
                .collect();
            let expected_need: BTreeSet<u64> = (0..size + 5)
                .filter(|number| number % 89 != 1)
                .filter(|number| *number >= size || number % 97 == 0)
                .collect();
            assert_eq!((have, need), (expected_have, expected_need), "{size}");
            assert!(rounds <= limits::RECONCILE_ROUNDS, "{rounds}");
        }
    }

    #[test]
    fn an_empty_node_learns_a_hundred_thousand_within_the_rounds_that_are_allowed() {
        let (empty, full) = (snapshot(0..0), snapshot(0..100_000));
        let (have, need, rounds) = differences(&empty, &full);
        assert_eq!((have.len(), need.len()), (0, full.storage.size().unwrap()));
        assert!(rounds <= limits::RECONCILE_ROUNDS, "{rounds}");
    }

    #[test]
    fn garbage_is_an_error_and_no_more() {
        let known = snapshot(0..1000);
        for seed in 0..2000_u32 {
            let length = usize::try_from(seed % 97).unwrap();
            let mut garbage: Vec<u8> = (0..length)
                .map(|i| seed.wrapping_mul(2_654_435_761).to_be_bytes()[i % 4])
                .collect();
            if let Some(first) = garbage.first_mut() {
                *first = 0x61;
            }
            let _ = known.answer(&garbage);
            let _ = known.step(&garbage);
        }
        assert!(known.answer(&[]).is_err());
    }
}
