//! Which connection a substream is opened on.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, NotifyHandler,
    THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::Semaphore;

use super::handler::{Handler, Shared};
use super::{InboundQueue, OpenError, OpenRequest};
use crate::counters::NetCounters;
use crate::dial_queue::DialQueue;
use crate::limits;
use crate::peer_places::PeerPlaces;
use crate::transport::dial_error_text;

#[derive(Debug, Clone, Copy)]
struct Connection {
    id: ConnectionId,
    relayed: bool,
}

/// Opens and accepts substreams.
pub(crate) struct Behaviour {
    shared: Shared,
    connections: HashMap<PeerId, Vec<Connection>>,
    /// Substreams wanted with peers that are being dialled.
    waiting: HashMap<PeerId, Vec<OpenRequest>>,
    dials: DialQueue,
    actions: VecDeque<ToSwarm<Infallible, OpenRequest>>,
    waker: Option<Waker>,
}

impl Behaviour {
    pub(crate) fn new(inbound: InboundQueue, counters: Arc<NetCounters>) -> Self {
        Self {
            shared: Shared {
                inbound,
                total: Arc::new(Semaphore::new(limits::INBOUND_TOTAL)),
                of_peer: Arc::new(PeerPlaces::new(limits::INBOUND_PER_PEER)),
                counters,
            },
            connections: HashMap::new(),
            waiting: HashMap::new(),
            dials: DialQueue::default(),
            actions: VecDeque::new(),
            waker: None,
        }
    }

    /// Opens a substream with `peer`; the outcome goes to the request's reply.
    pub(crate) fn open(&mut self, peer: PeerId, request: OpenRequest) {
        let connections = self.connections.get(&peer);
        let best = connections.and_then(|known| best_connection(known, request.avoid));
        if let Some(connection) = best {
            self.notify(peer, connection, request);
        } else {
            self.wait(peer, request);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn notify(&mut self, peer_id: PeerId, connection: ConnectionId, event: OpenRequest) {
        self.actions.push_back(ToSwarm::NotifyHandler {
            peer_id,
            handler: NotifyHandler::One(connection),
            event,
        });
    }

    fn wait(&mut self, peer: PeerId, request: OpenRequest) {
        // Those whose caller gave up make room.
        self.waiting.retain(|_, requests| {
            requests.retain(|request| !request.reply.is_closed());
            !requests.is_empty()
        });
        let waiting: usize = self.waiting.values().map(Vec::len).sum();
        if waiting >= limits::WAITING_FOR_CONNECTION {
            let _ = request.reply.send(Err(OpenError::TooMany));
            return;
        }
        self.waiting.entry(peer).or_default().push(request);
        self.dials.want(peer);
        self.dial();
    }

    /// Dials the peers whose turn it is.
    fn dial(&mut self) {
        while let Some(peer) = self.dials.take(|peer| self.waiting.contains_key(peer)) {
            let opts = DialOpts::peer_id(peer)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .build();
            self.actions.push_back(ToSwarm::Dial { opts });
        }
    }

    fn on_established(&mut self, established: ConnectionEstablished<'_>) {
        let connection = Connection {
            id: established.connection_id,
            relayed: established.endpoint.is_relayed(),
        };
        let peer = established.peer_id;
        self.connections.entry(peer).or_default().push(connection);
        for request in self.waiting.remove(&peer).unwrap_or_default() {
            self.notify(peer, connection.id, request);
        }
        self.dials.ended(&peer);
        self.dial();
    }

    fn on_closed(&mut self, closed: ConnectionClosed<'_>) {
        let Some(connections) = self.connections.get_mut(&closed.peer_id) else {
            return;
        };
        connections.retain(|connection| connection.id != closed.connection_id);
        if connections.is_empty() {
            self.connections.remove(&closed.peer_id);
        }
    }

    fn on_dial_failure(&mut self, failure: DialFailure<'_>) {
        if let Some(peer) = failure.peer_id {
            self.fail_waiting(peer, failure.error);
            self.dials.ended(&peer);
            self.dial();
        }
    }

    fn fail_waiting(&mut self, peer: PeerId, error: &DialError) {
        // Another dial to this peer goes on, or a connection is there: its outcome counts.
        if matches!(error, DialError::DialPeerConditionFalse(_)) {
            return;
        }
        let Some(requests) = self.waiting.remove(&peer) else {
            return;
        };
        let reason = dial_error_text(error);
        for request in requests {
            let _ = request
                .reply
                .send(Err(OpenError::Unreachable(reason.clone())));
        }
    }
}

/// Direct before relayed, newer before older: when a peer changes its network, its old connection
/// stays for a while and is dead. One that just failed comes last. `connections` are in the order
/// in which they came.
fn best_connection(
    connections: &[Connection],
    avoid: Option<ConnectionId>,
) -> Option<ConnectionId> {
    let newest_first = connections.iter().rev();
    newest_first
        .min_by_key(|connection| (avoid == Some(connection.id), connection.relayed))
        .map(|connection| connection.id)
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(connection, peer, self.shared.clone()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _address: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(connection, peer, self.shared.clone()))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => self.on_established(established),
            FromSwarm::ConnectionClosed(closed) => self.on_closed(closed),
            FromSwarm::DialFailure(failure) => self.on_dial_failure(failure),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _peer: PeerId,
        _connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(action) = self.actions.pop_front() {
            return Poll::Ready(action);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::super::REQUESTS;
    use super::*;

    fn connection(id: usize, relayed: bool) -> Connection {
        Connection {
            id: ConnectionId::new_unchecked(id),
            relayed,
        }
    }

    fn chosen(connections: &[Connection], avoid: Option<usize>) -> Option<ConnectionId> {
        best_connection(connections, avoid.map(ConnectionId::new_unchecked))
    }

    fn id(id: usize) -> Option<ConnectionId> {
        Some(ConnectionId::new_unchecked(id))
    }

    #[test]
    fn the_newest_direct_connection_is_taken_and_one_that_just_failed_last() {
        let known = [
            connection(1, false),
            connection(2, false),
            connection(3, true),
        ];
        assert_eq!(chosen(&known, None), id(2));
        assert_eq!(chosen(&known, Some(1)), id(2));
        assert_eq!(chosen(&known, Some(2)), id(1));
        assert_eq!(chosen(&known[1..], Some(2)), id(3), "rather relayed");
        assert_eq!(chosen(&known[1..2], Some(2)), id(2), "the only one");
        assert_eq!(chosen(&[], None), None);
    }

    #[test]
    fn a_substream_is_asked_of_another_connection_than_the_one_to_avoid() {
        let (inbound, _queue) = mpsc::channel(1);
        let mut behaviour = Behaviour::new(inbound, Arc::default());
        let peer = PeerId::random();
        let known = vec![connection(1, false), connection(2, false)];
        behaviour.connections.insert(peer, known);
        for (avoid, expected) in [(None, 2), (id(2), 1)] {
            let (reply, _outcome) = oneshot::channel();
            let request = OpenRequest {
                protocol: REQUESTS,
                avoid,
                reply,
            };
            behaviour.open(peer, request);
            let Some(ToSwarm::NotifyHandler { handler, .. }) = behaviour.actions.pop_front() else {
                panic!("nothing is asked");
            };
            let NotifyHandler::One(connection) = handler else {
                panic!("no single connection is asked");
            };
            assert_eq!(Some(connection), id(expected));
        }
    }

    #[test]
    fn the_connections_of_one_peer_share_its_places_for_unserved_substreams() {
        let (inbound, _queue) = mpsc::channel(1);
        let behaviour = Behaviour::new(inbound, Arc::default());
        let peer = PeerId::random();
        let handler = |id| {
            let id = ConnectionId::new_unchecked(id);
            Handler::new(id, peer, behaviour.shared.clone())
        };
        let (one, other) = (handler(1), handler(2));
        assert!(Arc::ptr_eq(one.unserved(), other.unserved()));
        assert_eq!(one.unserved().available_permits(), limits::INBOUND_PER_PEER);
    }
}
