//! Peers that attack a node, each in its own way, for as long as they are let.
//!
//! A bench puts the nodes and the attackers on machines of their own ([`ground`]), lets the attackers
//! run as a process that stands for other machines ([`attackers`]), and times a [`chat`].

mod attack;
pub mod attackers;
pub mod chat;
pub mod ground;
mod messages;

/// A way to attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// 10,000 announcements a second whose signatures are wrong.
    Forged,
    /// 10,000 old announcements a second, well signed.
    Replayed,
    /// 10,000 heartbeats (0.1) a second whose signatures are wrong.
    ForgedHeartbeats,
    /// Heartbeats (0.1) as large as they may be, well signed, 200 a second; and frames with 100,000
    /// offers.
    LargeHeartbeats,
    /// A provider that says it has 100,000 offers, and many that give other lists than announced.
    TooManyOffers,
    /// New peers of one subnet, one after the other, that all announce.
    Sybils,
    /// Substreams of every kind on which nothing is said.
    Silent,
    /// Questions whose answers are not read, on a connection that is not read.
    Deaf,
    /// Questions for lists, each as soon as the last one is answered.
    Greedy,
    /// Neighbours in the mesh that read none of the gossip, of which there is much.
    DeafNeighbours,
}

impl Attack {
    /// All of them.
    pub const ALL: [Attack; 10] = [
        Attack::Forged,
        Attack::Replayed,
        Attack::ForgedHeartbeats,
        Attack::LargeHeartbeats,
        Attack::TooManyOffers,
        Attack::Sybils,
        Attack::Silent,
        Attack::Deaf,
        Attack::Greedy,
        // The last: what it announces is known for eleven minutes.
        Attack::DeafNeighbours,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Attack::Forged => "forged",
            Attack::Replayed => "replayed",
            Attack::ForgedHeartbeats => "forged-heartbeats",
            Attack::LargeHeartbeats => "large-heartbeats",
            Attack::TooManyOffers => "too-many-offers",
            Attack::Sybils => "sybils",
            Attack::Silent => "silent",
            Attack::Deaf => "never-reads",
            Attack::Greedy => "greedy",
            Attack::DeafNeighbours => "deaf-neighbours",
        }
    }

    /// The attack of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attack| attack.name() == name)
    }

    /// What is counted as done.
    pub fn unit(self) -> &'static str {
        match self {
            Attack::Sybils => "connections",
            Attack::Silent => "substreams",
            Attack::Deaf | Attack::Greedy => "questions",
            _ => "messages",
        }
    }
}
