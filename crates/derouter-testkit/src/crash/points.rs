//! The named points at which a node can be made to end.

/// Which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The node that buys.
    Consumer,
    /// The node that sells.
    Provider,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Consumer, Self::Provider];

    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Provider => "provider",
        }
    }
}

/// Points of a consumer's jobs: before and after each step that is stored, and before providers are
/// told.
pub const CONSUMER: [&str; 15] = [
    "consumer::before-created",
    "consumer::created",
    "consumer::before-accepted",
    "consumer::accepted",
    "consumer::before-signed",
    "consumer::signed",
    "consumer::before-told",
    "consumer::before-confirmed",
    "consumer::confirmed",
    "consumer::before-failed",
    "consumer::failed",
    "consumer::before-learnt",
    "consumer::learnt",
    "consumer::before-forgotten",
    "consumer::forgotten",
];

/// Points of a provider's jobs.
pub const PROVIDER: [&str; 12] = [
    "provider::before-taken",
    "provider::taken",
    "provider::before-joined",
    "provider::joined",
    "provider::before-completed",
    "provider::completed",
    "provider::before-confirmed",
    "provider::confirmed",
    "provider::before-noted",
    "provider::noted",
    "provider::before-failed",
    "provider::failed",
];

/// Points of a start on a database with open jobs.
pub const START: [&str; 3] = [
    "start::before-recovered",
    "start::provided-ended",
    "start::recovered",
];

/// Points of the store.
pub const STORE: [&str; 4] = [
    "store::begin",
    "store::commit",
    "store::sync",
    "store::before-answer",
];

/// Every point, with the node on which it is set.
pub fn all() -> Vec<(Side, &'static str)> {
    let own = CONSUMER.map(|point| (Side::Consumer, point));
    let theirs = PROVIDER.map(|point| (Side::Provider, point));
    let shared = START.iter().chain(&STORE);
    let shared = shared.flat_map(|point| Side::BOTH.map(|side| (side, *point)));
    own.into_iter().chain(theirs).chain(shared).collect()
}
