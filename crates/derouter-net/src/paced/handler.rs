//! The part of [`super::Paced`] that lives on one connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use libp2p::swarm::handler::ConnectionEvent;
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol};
use tokio::time::Sleep;

use super::pace::Pace;

/// A handler that is not asked for more while its network has told enough. It sends nothing in that
/// time either, which at a pace of hundreds in a second is not long.
pub(crate) struct Handler<H> {
    inner: H,
    pace: Arc<Pace>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<H> Handler<H> {
    pub(super) fn new(inner: H, pace: Arc<Pace>) -> Self {
        Self {
            inner,
            pace,
            pause: None,
        }
    }

    fn pay(&mut self) {
        let now = Instant::now();
        let until = self.pace.pay(now);
        if until > now {
            self.pause = Some(Box::pin(tokio::time::sleep_until(until.into())));
        }
    }
}

impl<H: ConnectionHandler> ConnectionHandler for Handler<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let event = ready!(self.inner.poll(cx));
        if matches!(event, ConnectionHandlerEvent::NotifyBehaviour(_)) {
            self.pay();
        }
        Poll::Ready(event)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.inner.on_behaviour_event(event);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        self.inner.on_connection_event(event);
    }
}
