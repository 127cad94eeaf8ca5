//! Which inbound connection goes when there is one too many. Pure.
//!
//! Somebody with many addresses could take every place for those who connect. So a newcomer from a
//! network that has fewer places than another may take one of that other's; else it goes itself.
//! Those who came first stay: to be there first in every network is what such a one can't do.

use std::collections::HashMap;

use libp2p::swarm::ConnectionId;

use crate::address::Subnet;

/// An inbound connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest {
    pub(crate) connection: ConnectionId,
    /// Its network; none for this machine, private networks and relayed connections.
    pub(crate) subnet: Option<Subnet>,
    /// The misbehaviour score of its peer, 0 down to -100.
    pub(crate) score: f64,
    /// Whether requests or job streams are open on it.
    pub(crate) busy: bool,
}

/// The connection to close so that there is one fewer. `guests` in the order in which they came; the
/// last one is new.
pub(crate) fn surplus(guests: &[Guest]) -> Option<ConnectionId> {
    let (newcomer, settled) = guests.split_last()?;
    let mut places: HashMap<Subnet, usize> = HashMap::new();
    for guest in guests {
        if let Some(subnet) = guest.subnet {
            *places.entry(subnet).or_default() += 1;
        }
    }
    let places_of = |guest: &Guest| {
        let count = guest.subnet.and_then(|subnet| places.get(&subnet));
        count.copied().unwrap_or(0)
    };
    let own = places_of(newcomer);
    let may_go = |guest: &&Guest| !guest.busy && places_of(guest) > own;
    let youngest_first = settled.iter().rev().filter(may_go);
    // The first of those that are equally bad.
    let worst = youngest_first.min_by(|a, b| a.score.total_cmp(&b.score));
    Some(worst.unwrap_or(newcomer).connection)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn guest(id: usize, subnet: Option<u8>) -> Guest {
        Guest {
            connection: ConnectionId::new_unchecked(id),
            subnet: subnet.map(|last| Subnet::V4([203, 0, last])),
            score: 0.0,
            busy: false,
        }
    }

    fn goes(guests: &[Guest]) -> Option<ConnectionId> {
        surplus(guests)
    }

    fn id(id: usize) -> Option<ConnectionId> {
        Some(ConnectionId::new_unchecked(id))
    }

    #[test]
    fn a_newcomer_from_a_small_network_takes_the_place_of_the_youngest_of_a_large_one() {
        let guests = [
            guest(1, Some(1)),
            guest(2, Some(1)),
            guest(3, Some(2)),
            guest(4, None),
            guest(5, Some(3)),
        ];
        assert_eq!(goes(&guests), id(2));
    }

    #[test]
    fn a_newcomer_from_the_largest_network_goes_itself() {
        let guests = [guest(1, Some(1)), guest(2, Some(2)), guest(3, Some(1))];
        assert_eq!(goes(&guests), id(3));
        assert_eq!(goes(&[]), None);
    }

    #[test]
    fn who_misbehaves_goes_first_and_who_is_busy_stays() {
        let mut guests = [
            guest(1, Some(1)),
            guest(2, Some(1)),
            guest(3, Some(1)),
            guest(4, Some(2)),
        ];
        guests[0].score = -20.0;
        assert_eq!(goes(&guests), id(1));
        guests[0].busy = true;
        guests[2].busy = true;
        assert_eq!(goes(&guests), id(2));
        guests[1].busy = true;
        assert_eq!(goes(&guests), id(4), "nobody else may go");
    }

    proptest! {
        #[test]
        fn nobody_of_the_smallest_networks_is_ever_pushed_out_by_a_larger_one(
            subnets in prop::collection::vec(0_u8..6, 2..60)
        ) {
            let guests: Vec<Guest> = subnets
                .iter()
                .enumerate()
                .map(|(id, subnet)| guest(id, Some(*subnet)))
                .collect();
            let gone = surplus(&guests).unwrap();
            let gone = guests.iter().find(|guest| guest.connection == gone).unwrap();
            let newcomer = guests.last().unwrap();
            let places = |guest: &Guest| {
                guests.iter().filter(|other| other.subnet == guest.subnet).count()
            };
            prop_assert!(
                gone.connection == newcomer.connection || places(gone) > places(newcomer)
            );
        }
    }
}
