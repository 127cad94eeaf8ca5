//! Places for those who connect.

use libp2p::swarm::ConnectionId;

use super::{Actor, unix_now};
use crate::address::subnet;
use crate::counters::count;
use crate::guests::{Guest, surplus};

impl Actor {
    /// There is a new inbound connection: when that is one too many, one goes. libp2p's own limit,
    /// which only refuses the newcomer, is a little above.
    pub(super) fn make_place(&mut self, newcomer: ConnectionId) {
        let connections = self.peers.values().flat_map(|state| &state.connections);
        let inbound = connections.filter(|(_, connection)| !connection.outbound);
        if inbound.count() <= self.keeping.inbound_places {
            return;
        }
        if let Some(goes) = surplus(&self.guests(newcomer)) {
            tracing::debug!(
                newcomer = goes == newcomer,
                "closing an inbound connection to make a place"
            );
            count(&self.counters.inbound_closed);
            self.swarm.close_connection(goes);
        }
    }

    /// Inbound connections in the order in which they came, the newcomer last.
    fn guests(&self, newcomer: ConnectionId) -> Vec<Guest> {
        let now = unix_now();
        let streams = &self.swarm.behaviour().streams;
        let mut guests = Vec::new();
        for (peer, state) in &self.peers {
            for (id, connection) in state.connections.iter().filter(|(_, one)| !one.outbound) {
                let used = streams.connection_use(*peer, *id);
                guests.push(Guest {
                    connection: *id,
                    subnet: subnet(&connection.address),
                    score: self.book().score(peer, now),
                    busy: used.is_some_and(|used| used.open_streams > 0),
                });
            }
        }
        guests.sort_by_key(|guest| (guest.connection == newcomer, guest.connection));
        guests
    }
}
