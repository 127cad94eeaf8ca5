//! A client of AutoNAT v2: has peers dial an address of this node.
//!
//! libp2p's own client tests each address once in its life and chooses whom it asks at random. This
//! one tests what it is told to, when and by whom, so that addresses can be tested again.

mod handler;
pub(crate) mod server;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::limits;
use crate::reachability::external::Verdict;
use handler::Handler;

/// How a peer is asked for a test.
pub(crate) const DIAL_REQUEST: StreamProtocol =
    StreamProtocol::new("/libp2p/autonat/2/dial-request");
/// How it proves that it dialled.
const DIAL_BACK: StreamProtocol = StreamProtocol::new("/libp2p/autonat/2/dial-back");

/// A test ended.
#[derive(Debug)]
pub(crate) struct Event {
    /// Who tested.
    pub(crate) server: PeerId,
    /// What was tested.
    pub(crate) address: Multiaddr,
    /// How it went.
    pub(crate) verdict: Verdict,
    /// The connection that the server made for it.
    pub(crate) back: Option<ConnectionId>,
}

#[derive(Debug)]
struct Test {
    server: PeerId,
    address: Multiaddr,
    since: Instant,
    back: Option<ConnectionId>,
}

/// A direct connection that a peer opened.
#[derive(Clone, Copy, Debug)]
struct Inbound {
    peer: PeerId,
    since: Instant,
}

/// Whether a nonce that comes in over `over` shows that the server of the test dialled: it came on a
/// connection that the server opened for it. On one that was there before, even on that of the
/// question, it would show nothing.
fn proves(test: &Test, over: Option<Inbound>) -> bool {
    over.is_some_and(|over| over.peer == test.server && over.since >= test.since)
}

/// What the tasks tell.
enum Notice {
    /// A nonce came in over this connection; the answer says whether it is one of ours.
    DialBack(u64, ConnectionId, oneshot::Sender<bool>),
    Done(u64, Verdict),
}

/// See the module's text.
pub(crate) struct Behaviour {
    tests: HashMap<u64, Test>,
    /// As many as libp2p's limits let in.
    inbound: HashMap<ConnectionId, Inbound>,
    actions: VecDeque<ToSwarm<Event, handler::StreamReply>>,
    to_self: mpsc::Sender<Notice>,
    notices: mpsc::Receiver<Notice>,
    dial_backs: Arc<Semaphore>,
    waker: Option<Waker>,
}

impl Default for Behaviour {
    fn default() -> Self {
        let (to_self, notices) = mpsc::channel(limits::PROBES * 2);
        Self {
            tests: HashMap::new(),
            inbound: HashMap::new(),
            actions: VecDeque::new(),
            to_self,
            notices,
            dial_backs: Arc::new(Semaphore::new(limits::PROBES * 2)),
            waker: None,
        }
    }
}

impl Behaviour {
    /// Has `server` dial `address`. An [`Event`] follows within [`limits::PROBE_DEADLINE`].
    pub(crate) fn test(&mut self, server: PeerId, connection: ConnectionId, address: Multiaddr) {
        let (reply, stream) = oneshot::channel();
        let nonce = rand::random();
        let test = Test {
            server,
            address: address.clone(),
            since: Instant::now(),
            back: None,
        };
        if self.tests.len() >= limits::PROBES {
            let verdict = Verdict::Untested("too many tests at a time".to_owned());
            return self.end(test, verdict);
        }
        self.tests.insert(nonce, test);
        self.act(ToSwarm::NotifyHandler {
            peer_id: server,
            handler: NotifyHandler::One(connection),
            event: reply,
        });
        let done = self.to_self.clone();
        tokio::spawn(async move {
            let verdict = match timeout(limits::PROBE_DEADLINE, ask(stream, &address, nonce)).await
            {
                Ok(verdict) => verdict,
                Err(_late) => Verdict::Untested("the server took too long".to_owned()),
            };
            let _ = done.send(Notice::Done(nonce, verdict)).await;
        });
    }

    /// Tells all behaviours that this may be an address of this node.
    pub(crate) fn suggest(&mut self, address: Multiaddr) {
        self.act(ToSwarm::NewExternalAddrCandidate(address));
    }

    fn end(&mut self, test: Test, verdict: Verdict) {
        self.act(ToSwarm::GenerateEvent(Event {
            server: test.server,
            address: test.address,
            verdict,
            back: test.back,
        }));
    }

    fn act(&mut self, action: ToSwarm<Event, handler::StreamReply>) {
        self.actions.push_back(action);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::DialBack(nonce, connection, answer) => {
                let over = self.inbound.get(&connection).copied();
                let test = self.tests.get_mut(&nonce);
                let test = test.filter(|test| proves(test, over));
                let ours = test.is_some();
                if let Some(test) = test {
                    test.back = Some(connection);
                }
                let _ = answer.send(ours);
            }
            Notice::Done(nonce, verdict) => {
                let Some(test) = self.tests.remove(&nonce) else {
                    return;
                };
                // A server that claims to have dialled has to have shown the nonce.
                let verdict = match verdict {
                    Verdict::Reachable if test.back.is_none() => {
                        Verdict::Untested("the server did not dial".to_owned())
                    }
                    other => other,
                };
                self.end(test, verdict);
            }
        }
    }
}

async fn ask(stream: oneshot::Receiver<Stream>, address: &Multiaddr, nonce: u64) -> Verdict {
    let Ok(stream) = stream.await else {
        return Verdict::Untested("the server could not be asked".to_owned());
    };
    match wire::request(stream, address, nonce).await {
        Ok(wire::Dialled::Ok) => Verdict::Reachable,
        Ok(wire::Dialled::NoConnection) => Verdict::Unreachable("no connection to it".to_owned()),
        Ok(wire::Dialled::NoNonce) => {
            Verdict::Unreachable("somebody else answers there".to_owned())
        }
        Err(error) => Verdict::Untested(error.to_string()),
    }
}

/// Reads a nonce, and says that it was received if it is one of ours.
async fn take_dial_back(
    mut stream: Stream,
    connection: ConnectionId,
    notices: mpsc::Sender<Notice>,
    _place: OwnedSemaphorePermit,
) {
    let take = async {
        let nonce = wire::read_dial_back(&mut stream).await.ok()?;
        let (reply, ours) = oneshot::channel();
        let notice = Notice::DialBack(nonce, connection, reply);
        notices.send(notice).await.ok()?;
        if ours.await.ok()? {
            wire::accept_dial_back(&mut stream).await.ok()?;
        }
        Some(())
    };
    let _: Result<Option<()>, _> = timeout(limits::PROBE_DEADLINE, take).await;
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: PeerId,
        _address: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                let endpoint = established.endpoint;
                if endpoint.is_listener() && !endpoint.is_relayed() {
                    let inbound = Inbound {
                        peer: established.peer_id,
                        since: Instant::now(),
                    };
                    self.inbound.insert(established.connection_id, inbound);
                }
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.inbound.remove(&closed.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _peer: PeerId,
        connection: ConnectionId,
        stream: THandlerOutEvent<Self>,
    ) {
        // Nobody dials back who was not asked: others take no place.
        let over = self.inbound.get(&connection).copied();
        if !self.tests.values().any(|test| proves(test, over)) {
            return;
        }
        if let Ok(place) = self.dial_backs.clone().try_acquire_owned() {
            tokio::spawn(take_dial_back(
                stream,
                connection,
                self.to_self.clone(),
                place,
            ));
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        while let Poll::Ready(Some(notice)) = self.notices.poll_recv(cx) {
            self.on_notice(notice);
        }
        if let Some(action) = self.actions.pop_front() {
            return Poll::Ready(action);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// See [`crate::fuzz::autonat`].
pub(crate) fn fuzz(data: &[u8]) {
    wire::fuzz(data);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_a_connection_that_the_server_opened_after_the_question_shows_that_it_dialled() {
        let (server, since) = (PeerId::random(), Instant::now());
        let test = Test {
            server,
            address: Multiaddr::empty(),
            since,
            back: None,
        };
        let later = since + Duration::from_secs(1);
        let over = |peer, since| Some(Inbound { peer, since });
        assert!(proves(&test, over(server, later)));
        assert!(!proves(&test, over(PeerId::random(), later)));
        assert!(!proves(&test, None), "the connection of the question");
        let test = Test {
            since: later,
            ..test
        };
        assert!(!proves(&test, over(server, since)), "one of before");
    }
}
