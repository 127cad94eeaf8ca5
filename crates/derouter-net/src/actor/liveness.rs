//! Finds out soon which connections are dead, and closes them: what was asked on them ends, and the
//! next exchange dials.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Actor;
use crate::limits;
use crate::peer::PeerConnection;
use crate::ping::{self, PING};
use crate::reachability::place;
use crate::reachability::punched::{self, Own};
use crate::reachability::suspects::Suspect;
use crate::streams::{OpenRequest, Substream};

/// A connection that answered.
#[derive(Debug)]
pub(super) struct Answered {
    peer: PeerId,
    connection: ConnectionId,
}

impl Actor {
    /// An answer on this connection is late. What broke it may have broken the others with the peer,
    /// and when it goes through a relay, it may be the relay that is gone.
    pub(super) fn on_late_answer(&mut self, peer: PeerId, connection: ConnectionId) {
        let now = Instant::now();
        let state = self.peers.get(&peer);
        let mut known = state.into_iter().flat_map(|state| &state.connections);
        let Some((_, found)) = known.find(|(id, _)| *id == connection) else {
            return;
        };
        let relay = found.relay;
        for peer in std::iter::once(peer).chain(relay) {
            self.look_at_peer(peer, limits::LIFE_SIGN, now);
        }
    }

    /// All connections with a peer have to show that they live.
    fn look_at_peer(&mut self, peer: PeerId, patience: Duration, now: Instant) {
        let state = self.peers.get(&peer);
        let known = state.into_iter().flat_map(|state| &state.connections);
        let known: Vec<ConnectionId> = known.map(|(id, _)| *id).collect();
        for connection in known {
            self.look_at_within(peer, connection, patience, now);
        }
    }

    /// A connection with a peer broke, and others are left. Those over UDP do not notice when this
    /// node's address changed or the peer has restarted, while TCP is told.
    pub(super) fn look_at_remaining(&mut self, peer: PeerId) {
        self.look_at_peer(peer, limits::QUICK_LIFE_SIGN, Instant::now());
    }

    /// All connections have to show that they live.
    pub(super) fn look_at_all(&mut self, now: Instant) {
        self.look_at_those(now, |_| true);
    }

    /// Those that missed a ping have to show that they live.
    pub(super) fn look_at_silent(&mut self, now: Instant) {
        let overdue = |connection: &PeerConnection| {
            now.saturating_duration_since(connection.heard) > limits::PONG_OVERDUE
        };
        self.look_at_those(now, overdue);
    }

    /// Those on which something is going on while nothing comes have to show that they live.
    pub(super) fn look_at_busy(&mut self, now: Instant) {
        if !self.reach.busy.is_due(now) {
            return;
        }
        let streams = &self.swarm.behaviour().streams;
        let mut busy = Vec::new();
        for (peer, state) in &self.peers {
            let ids = state.connections.iter().map(|(id, _)| *id);
            let used = ids.filter_map(|id| Some((id, streams.connection_use(*peer, id)?)));
            let used = used.filter(|(_, used)| used.open_streams > 0);
            busy.extend(used.map(|(id, used)| (*peer, id, used.traffic.bytes_in)));
        }
        let received = busy.iter().map(|(_, id, bytes)| (*id, *bytes));
        let silent = self.reach.busy.silent(received, now);
        for (peer, id, _) in busy {
            if silent.contains(&id) {
                self.look_at_within(peer, id, limits::BUSY_LIFE_SIGN, now);
            }
        }
    }

    /// While another connection gives no sign, those with this node's relays have to.
    pub(super) fn look_at_relays(&mut self, now: Instant) {
        if !self.reach.suspects.look_at_relays(now) {
            return;
        }
        for relay in self.reach.relays.reserved() {
            self.look_at_peer(relay, limits::LIFE_SIGN, now);
        }
    }

    /// A peer that is connected has connected again: it may have lost the older connections, and
    /// what is sent to it over them is lost as well. A relay would go on to do so.
    pub(super) fn look_at_older(&mut self, peer: PeerId, than: ConnectionId) {
        let now = Instant::now();
        let Some(state) = self.peers.get(&peer) else {
            return;
        };
        let mut known = state.connections.iter();
        let Some(new) = known.find(|(id, _)| *id == than) else {
            return;
        };
        let new = new.1.address.clone();
        let older = state.connections.iter().filter(|(id, known)| {
            *id != than && now.saturating_duration_since(known.heard) > limits::JUST_HEARD
        });
        let older: Vec<(ConnectionId, Duration)> = older
            .map(|(id, known)| (*id, patience_with_older(&known.address, &new)))
            .collect();
        for (connection, patience) in older {
            self.look_at_within(peer, connection, patience, now);
        }
    }

    fn look_at_those(&mut self, now: Instant, which: impl Fn(&PeerConnection) -> bool) {
        let mut those = Vec::new();
        for (peer, state) in &self.peers {
            let found = state.connections.iter().filter(|(_, known)| which(known));
            those.extend(found.map(|(id, _)| (*peer, *id)));
        }
        for (peer, connection) in those {
            self.look_at(peer, connection, now);
        }
    }

    fn look_at(&mut self, peer: PeerId, connection: ConnectionId, now: Instant) {
        self.look_at_within(peer, connection, limits::LIFE_SIGN, now);
    }

    fn look_at_within(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        patience: Duration,
        now: Instant,
    ) {
        let suspect = Suspect {
            connection,
            peer,
            received: self.received(peer, connection),
        };
        let new = self.reach.suspects.suspect(suspect, patience, now);
        let due = self.reach.suspects.due(now);
        self.reach.no_later_than(due, now);
        if !new {
            return;
        }
        let (reply, opened) = oneshot::channel();
        let request = OpenRequest {
            protocol: PING,
            avoid: None,
            reply,
        };
        let streams = &mut self.swarm.behaviour_mut().streams;
        streams.open_on(peer, connection, request);
        let answered = async move {
            let ping = async {
                // A refusal and a reset are answers too.
                if let Ok(stream) = opened.await.ok()? {
                    let stream: Substream = stream;
                    let _ = ping::round_trip(stream).await;
                }
                Some(Answered { peer, connection })
            };
            timeout(patience, ping).await.ok().flatten()
        };
        self.pings.spawn(answered);
    }

    fn received(&self, peer: PeerId, connection: ConnectionId) -> u64 {
        let streams = &self.swarm.behaviour().streams;
        let used = streams.connection_use(peer, connection);
        used.map_or(0, |used| used.traffic.bytes_in)
    }

    /// A connection that was looked at lives, or is gone already.
    pub(super) fn on_answered(&mut self, answered: &Answered) {
        self.reach.suspects.clear(&answered.connection);
        let state = self.peers.get_mut(&answered.peer);
        let mut known = state.into_iter().flat_map(|state| &mut state.connections);
        if let Some((_, known)) = known.find(|(id, _)| *id == answered.connection) {
            known.heard = Instant::now();
        }
    }

    /// Closes connections on which nothing came. What is too busy to answer a ping in time lives.
    pub(super) fn close_dead(&mut self, now: Instant) {
        let mut closed = false;
        for suspect in self.reach.suspects.late(now) {
            let Suspect {
                connection, peer, ..
            } = suspect;
            if self.received(peer, connection) != suspect.received {
                continue;
            }
            tracing::info!(%peer, %connection, "a connection is dead, closing");
            closed |= self.swarm.close_connection(connection);
        }
        if closed && self.reach.suspects.look_at_all(now) {
            self.look_at_all(now);
        }
    }

    /// Tells connections that were punched from those that could be dialled anyway, as far as that is
    /// known by now: of one peer, or of all.
    pub(super) fn judge_punched(&mut self, only: Option<PeerId>) {
        let addresses: Vec<_> = {
            let listeners = self.swarm.listeners();
            listeners
                .chain(self.swarm.external_addresses())
                .cloned()
                .collect()
        };
        let own = Own {
            reachability: self.reach.current(),
            addresses: &addresses,
        };
        let mut judged = Vec::new();
        for (peer, state) in &self.peers {
            if only.is_some_and(|only| only != *peer) {
                continue;
            }
            let punched = state.connections.iter().filter(|(_, known)| known.punched);
            judged.extend(punched.map(|(id, known)| {
                let needed = punched::was_needed(&known.address, &state.told, own);
                (*peer, *id, needed)
            }));
        }
        let streams = &mut self.swarm.behaviour_mut().streams;
        for (peer, connection, needed) in judged {
            streams.set_punched(peer, connection, needed);
        }
    }
}

/// How long an older connection has to show that it lives, once there is a new one.
fn patience_with_older(older: &Multiaddr, new: &Multiaddr) -> Duration {
    let moved = match (direct_ip(older), direct_ip(new)) {
        (Some(older), Some(new)) => older != new && older.is_ipv4() == new.is_ipv4(),
        _ => false,
    };
    if moved {
        limits::MOVED_LIFE_SIGN
    } else {
        limits::QUICK_LIFE_SIGN
    }
}

fn direct_ip(address: &Multiaddr) -> Option<IpAddr> {
    place::ip(address).filter(|_| !place::is_relayed(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_connection_from_another_address_of_the_same_kind_has_little_time() {
        let patience = |older: &str, new: &str| {
            patience_with_older(&older.parse().unwrap(), &new.parse().unwrap())
        };
        let old = "/ip4/203.0.113.1/udp/1/quic-v1";
        assert_eq!(
            patience(old, "/ip4/203.0.113.2/tcp/1"),
            limits::MOVED_LIFE_SIGN
        );
        for other in ["/ip4/203.0.113.1/tcp/2", "/ip6/2001:db8::1/tcp/1"] {
            assert_eq!(patience(old, other), limits::QUICK_LIFE_SIGN);
        }
    }
}
