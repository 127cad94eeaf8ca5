//! Opens substreams on the best connection of a peer, and knows what its connections carry.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use derouter_wire::rpc::network::PathKind;
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

use super::choice::{self, Candidate};
use super::handler::{Handler, Shared, Told};
use super::substream::OpenStreams;
use super::{InboundQueue, OpenError, OpenRequest};
use crate::counters::NetCounters;
use crate::dial_queue::DialQueue;
use crate::limits;
use crate::peer_places::PeerPlaces;
use crate::transport::{ConnectionMeter, Meters, Traffic, dial_error_text};

/// A peer goes on opening substreams for which it has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flooded(pub(crate) PeerId);

#[derive(Debug)]
struct Connection {
    choice: Candidate,
    carried: Carried,
}

/// What is counted of a connection.
#[derive(Debug, Clone, Default)]
struct Carried {
    meter: Arc<ConnectionMeter>,
    open: OpenStreams,
}

/// How a connection is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionUse {
    /// How it reaches the peer.
    pub(crate) kind: PathKind,
    /// Bytes of all its substreams.
    pub(crate) traffic: Traffic,
    /// Requests and job streams on it, in both directions.
    pub(crate) open_streams: usize,
}

/// Opens and accepts substreams.
pub(crate) struct Behaviour {
    shared: Shared,
    meters: Meters,
    connections: HashMap<PeerId, Vec<Connection>>,
    /// Connections that have a handler and are not yet told of as established.
    starting: HashMap<ConnectionId, Carried>,
    /// Substreams wanted with peers that are being dialled.
    waiting: HashMap<PeerId, Vec<OpenRequest>>,
    dials: DialQueue,
    actions: VecDeque<ToSwarm<Flooded, OpenRequest>>,
    waker: Option<Waker>,
}

impl Behaviour {
    pub(crate) fn new(inbound: InboundQueue, counters: Arc<NetCounters>, meters: Meters) -> Self {
        Self {
            shared: Shared {
                inbound,
                total: Arc::new(Semaphore::new(limits::INBOUND_TOTAL)),
                of_peer: Arc::new(PeerPlaces::new(limits::INBOUND_PER_PEER)),
                counters,
            },
            meters,
            connections: HashMap::new(),
            starting: HashMap::new(),
            waiting: HashMap::new(),
            dials: DialQueue::default(),
            actions: VecDeque::new(),
            waker: None,
        }
    }

    /// Opens a substream with `peer`; the outcome goes to the request's reply.
    pub(crate) fn open(&mut self, peer: PeerId, request: OpenRequest) {
        if let Some(connection) = self.best(peer, request.avoid) {
            self.notify(peer, connection, request);
        } else {
            self.wait(peer, request);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Opens a substream on this connection, good or bad. When it is gone, the reply is dropped.
    pub(crate) fn open_on(&mut self, peer: PeerId, connection: ConnectionId, request: OpenRequest) {
        if self.find(peer, connection).is_none() {
            return;
        }
        self.notify(peer, connection, request);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// New substreams take another connection for a while, if there is one.
    fn suspect(&mut self, peer: PeerId, connection: ConnectionId) {
        let until = Instant::now().checked_add(limits::SUSPECT);
        if let Some(known) = self.find(peer, connection) {
            known.choice.suspect_until = until;
        }
    }

    /// The connection that a new substream takes.
    pub(crate) fn best(&self, peer: PeerId, avoid: Option<ConnectionId>) -> Option<ConnectionId> {
        let known = self.connections.get(&peer)?;
        let candidates = known.iter().map(|connection| connection.choice);
        choice::best(candidates, avoid, Instant::now())
    }

    /// Bytes of all connections since the start.
    pub(crate) fn traffic(&self) -> Traffic {
        self.meters.node().traffic()
    }

    /// How a live connection is used.
    pub(crate) fn connection_use(
        &self,
        peer: PeerId,
        connection: ConnectionId,
    ) -> Option<ConnectionUse> {
        let connections = self.connections.get(&peer)?;
        let known = connections
            .iter()
            .find(|known| known.choice.id == connection)?;
        Some(ConnectionUse {
            kind: known.choice.kind,
            traffic: known.carried.meter.traffic(),
            open_streams: known.carried.open.count(),
        })
    }

    /// Whether a direct connection exists only because of hole punching. One in the same network is
    /// no worse for it.
    pub(crate) fn set_punched(&mut self, peer: PeerId, connection: ConnectionId, punched: bool) {
        let Some(known) = self.find(peer, connection) else {
            return;
        };
        known.choice.kind = match (known.choice.kind, punched) {
            (PathKind::Direct, true) => PathKind::HolePunched,
            (PathKind::HolePunched, false) => PathKind::Direct,
            (kind, _) => kind,
        };
    }

    fn find(&mut self, peer: PeerId, connection: ConnectionId) -> Option<&mut Connection> {
        let connections = self.connections.get_mut(&peer)?;
        connections
            .iter_mut()
            .find(|known| known.choice.id == connection)
    }

    /// The handler of a new connection, with what is counted of it.
    fn handler(&mut self, id: ConnectionId, peer: PeerId, remote: &Multiaddr) -> Handler {
        let carried = Carried {
            meter: self.meters.claim(peer, remote),
            open: OpenStreams::default(),
        };
        let handler = Handler::new(id, peer, self.shared.clone(), carried.open.clone());
        self.starting.insert(id, carried);
        handler
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
            self.dial_peer(peer);
        }
    }

    /// A substream with the peer is waited for since long.
    pub(crate) fn dial_again(&mut self, peer: PeerId) {
        let waiting = self.waiting.contains_key(&peer);
        if waiting && self.dials.may_dial_again(&peer, Instant::now()) {
            self.dial_peer(peer);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }

    /// Also beside a dial that others make: that may go to one address alone, to punch a hole.
    fn dial_peer(&mut self, peer: PeerId) {
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::Disconnected)
            .build();
        self.dials.dials(peer, opts.connection_id(), Instant::now());
        self.actions.push_back(ToSwarm::Dial { opts });
    }

    fn on_established(&mut self, established: ConnectionEstablished<'_>) {
        let id = established.connection_id;
        let remote = established.endpoint.get_remote_address();
        let connection = Connection {
            choice: Candidate {
                id,
                kind: choice::kind(remote, established.endpoint.is_relayed()),
                suspect_until: None,
            },
            carried: self.starting.remove(&id).unwrap_or_default(),
        };
        let peer = established.peer_id;
        self.connections.entry(peer).or_default().push(connection);
        for request in self.waiting.remove(&peer).unwrap_or_default() {
            self.notify(peer, id, request);
        }
        self.dials.ended(&peer);
        self.dial();
    }

    fn on_closed(&mut self, closed: ConnectionClosed<'_>) {
        let Some(connections) = self.connections.get_mut(&closed.peer_id) else {
            return;
        };
        connections.retain(|connection| connection.choice.id != closed.connection_id);
        if connections.is_empty() {
            self.connections.remove(&closed.peer_id);
        }
    }

    fn on_dial_failure(&mut self, failure: DialFailure<'_>) {
        self.starting.remove(&failure.connection_id);
        let Some(peer) = failure.peer_id else {
            return;
        };
        if self.dials.failed(&peer, failure.connection_id) {
            self.fail_waiting(peer, failure.error);
            self.dial();
        }
    }

    fn fail_waiting(&mut self, peer: PeerId, error: &DialError) {
        let reason = dial_error_text(error);
        for request in self.waiting.remove(&peer).unwrap_or_default() {
            let _ = request
                .reply
                .send(Err(OpenError::Unreachable(reason.clone())));
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Flooded;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection, peer, remote))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection, peer, address))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => self.on_established(established),
            FromSwarm::ConnectionClosed(closed) => self.on_closed(closed),
            FromSwarm::DialFailure(failure) => self.on_dial_failure(failure),
            FromSwarm::ListenFailure(failure) => {
                self.starting.remove(&failure.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        told: THandlerOutEvent<Self>,
    ) {
        match told {
            Told::Failed => self.suspect(peer, connection),
            Told::Flooded => self
                .actions
                .push_back(ToSwarm::GenerateEvent(Flooded(peer))),
        }
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

    fn connection(id: usize, kind: PathKind) -> Connection {
        Connection {
            choice: Candidate {
                id: ConnectionId::new_unchecked(id),
                kind,
                suspect_until: None,
            },
            carried: Carried::default(),
        }
    }

    fn behaviour() -> Behaviour {
        let (inbound, _queue) = mpsc::channel(1);
        Behaviour::new(inbound, Arc::default(), Meters::default())
    }

    /// The connection that is asked for a substream.
    fn asked(behaviour: &mut Behaviour, peer: PeerId, avoid: Option<ConnectionId>) -> ConnectionId {
        let (reply, _outcome) = oneshot::channel();
        let protocol = REQUESTS;
        behaviour.open(
            peer,
            OpenRequest {
                protocol,
                avoid,
                reply,
            },
        );
        let Some(ToSwarm::NotifyHandler { handler, .. }) = behaviour.actions.pop_front() else {
            panic!("nothing is asked");
        };
        let NotifyHandler::One(connection) = handler else {
            panic!("no single connection is asked");
        };
        connection
    }

    #[test]
    fn a_substream_is_asked_of_another_connection_than_the_one_to_avoid() {
        let mut behaviour = behaviour();
        let peer = PeerId::random();
        let [one, two] = [1, 2].map(ConnectionId::new_unchecked);
        let known = vec![
            connection(1, PathKind::Direct),
            connection(2, PathKind::Direct),
        ];
        behaviour.connections.insert(peer, known);
        assert_eq!(asked(&mut behaviour, peer, None), two);
        assert_eq!(asked(&mut behaviour, peer, Some(two)), one);
    }

    #[test]
    fn new_substreams_move_to_a_better_connection_and_leave_one_that_failed() {
        let mut behaviour = behaviour();
        let peer = PeerId::random();
        let [relayed, punched] = [1, 2].map(ConnectionId::new_unchecked);
        let known = vec![connection(1, PathKind::Relayed)];
        behaviour.connections.insert(peer, known);
        assert_eq!(asked(&mut behaviour, peer, None), relayed);
        let known = behaviour.connections.get_mut(&peer).unwrap();
        known.insert(0, connection(2, PathKind::Direct));
        for (is_punched, kind) in [(false, PathKind::Direct), (true, PathKind::HolePunched)] {
            behaviour.set_punched(peer, punched, is_punched);
            let told = behaviour.connection_use(peer, punched).unwrap().kind;
            assert_eq!(told, kind);
        }
        assert_eq!(asked(&mut behaviour, peer, None), punched);
        behaviour.on_connection_handler_event(peer, punched, Told::Failed);
        assert_eq!(asked(&mut behaviour, peer, None), relayed);
    }

    #[test]
    fn a_peer_whose_substreams_are_dropped_by_the_thousand_is_told_of() {
        let mut behaviour = behaviour();
        let peer = PeerId::random();
        let id = ConnectionId::new_unchecked(1);
        behaviour.on_connection_handler_event(peer, id, Told::Flooded);
        let mut cx = Context::from_waker(Waker::noop());
        let told = behaviour.poll(&mut cx);
        let Poll::Ready(ToSwarm::GenerateEvent(told)) = told else {
            panic!("{told:?}");
        };
        assert_eq!(told, Flooded(peer));
        assert!(behaviour.poll(&mut cx).is_pending());
    }

    #[test]
    fn the_connections_of_one_peer_share_its_places_for_unserved_substreams() {
        let mut behaviour = behaviour();
        let peer = PeerId::random();
        let address = Multiaddr::empty();
        let mut handler = |id| {
            let id = ConnectionId::new_unchecked(id);
            behaviour.handler(id, peer, &address)
        };
        let (one, other) = (handler(1), handler(2));
        assert!(Arc::ptr_eq(one.unserved(), other.unserved()));
        assert_eq!(one.unserved().available_permits(), limits::INBOUND_PER_PEER);
    }
}
