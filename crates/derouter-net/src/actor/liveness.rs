//! Finds out soon which connections are dead, and closes them: what was asked on them ends, and the
//! next exchange dials.

use std::time::Instant;

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Actor;
use crate::limits;
use crate::peer::PeerConnection;
use crate::ping::{self, PING};
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
    /// An answer on this connection is late. When it goes through a relay, it may be the relay that
    /// is gone.
    pub(super) fn on_late_answer(&mut self, peer: PeerId, connection: ConnectionId) {
        let now = Instant::now();
        let state = self.peers.get(&peer);
        let mut known = state.into_iter().flat_map(|state| &state.connections);
        let Some((_, found)) = known.find(|(id, _)| *id == connection) else {
            return;
        };
        let relay = found.relay;
        self.look_at(peer, connection, now);
        let Some((relay, state)) = relay.and_then(|relay| self.peers.get_key_value(&relay)) else {
            return;
        };
        let relay = *relay;
        let connections: Vec<ConnectionId> = state.connections.iter().map(|(id, _)| *id).collect();
        for connection in connections {
            self.look_at(relay, connection, now);
        }
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
        let suspect = Suspect {
            connection,
            peer,
            received: self.received(peer, connection),
        };
        if !self.reach.suspects.suspect(suspect, now) {
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
            timeout(limits::LIFE_SIGN, ping).await.ok().flatten()
        };
        self.pings.spawn(answered);
        self.reach.no_later_than(self.reach.suspects.due(), now);
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
