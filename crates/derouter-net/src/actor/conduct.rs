//! Peers that misbehave.

use libp2p::PeerId;

use super::{Actor, unix_now};
use crate::address::{Scope, ip_of, scope};
use crate::counters::count;
use crate::peer::PeerConnection;

pub(crate) use crate::peer_book::Offence;

impl Actor {
    /// Counts an offence against a connected peer. One that goes on is banned for a while: it is
    /// disconnected, refused, not dialled, and its gossip is dropped, whoever forwards it.
    pub(super) fn blame(&mut self, peer: PeerId, offence: Offence) {
        tracing::debug!(%peer, ?offence, "a peer misbehaved");
        let connections = self.peers.get(&peer).map(|state| &state.connections);
        let ip = connections.and_then(|connections| {
            let direct = |connection: &&PeerConnection| {
                !connection.relayed && scope(&connection.address) == Scope::World
            };
            let mut all = connections.iter().map(|(_, connection)| connection);
            ip_of(&all.find(direct)?.address)
        });
        let banned = self.book_mut().blame(peer, offence, ip, unix_now());
        let Some(until) = banned else {
            return;
        };
        tracing::info!(%peer, ?offence, until = until.0, "a peer that misbehaves is banned for a while");
        count(&self.counters.peers_banned);
        self.silence(peer);
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    /// Drops the gossip of those whom the operator blocks, and of those whose ban outlasted a
    /// restart.
    pub(super) fn silence_the_banned(&mut self) {
        let banned: Vec<PeerId> = self.book().banned(unix_now()).collect();
        let blocked = self.swarm.behaviour().peers.blocked_peers();
        for peer in banned.into_iter().chain(blocked) {
            self.silence(peer);
        }
    }

    /// Hears those again whose ban has ended.
    pub(super) fn hear_the_forgiven(&mut self) {
        let silenced = self.keeping.silenced.iter().copied();
        let forgiven: Vec<PeerId> = silenced.filter(|peer| !self.refuses(peer)).collect();
        for peer in forgiven {
            self.keeping.silenced.remove(&peer);
            let gossipsub = &mut self.swarm.behaviour_mut().gossipsub;
            gossipsub.remove_blacklisted_peer(&peer);
            let announcements = &mut self.swarm.behaviour_mut().announcements;
            announcements.remove_blacklisted_peer(&peer);
        }
    }

    fn silence(&mut self, peer: PeerId) {
        self.keeping.silenced.insert(peer);
        let behaviour = self.swarm.behaviour_mut();
        behaviour.gossipsub.blacklist_peer(&peer);
        behaviour.announcements.blacklist_peer(&peer);
    }
}
