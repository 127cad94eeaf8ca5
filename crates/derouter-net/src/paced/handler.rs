//! The part of [`super::Paced`] that lives on one connection.

use std::mem;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use libp2p::swarm::handler::ConnectionEvent;
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol};
use tokio::time::{Instant, Sleep, sleep_until};

use super::pace::Pace;
use crate::limits;

/// What [`Handler`] tells: several events of the handler in it, which cost the swarm as much as one.
type Event<H> = ConnectionHandlerEvent<
    <H as ConnectionHandler>::OutboundProtocol,
    <H as ConnectionHandler>::OutboundOpenInfo,
    Vec<<H as ConnectionHandler>::ToBehaviour>,
>;

/// A handler that is not asked for more while its network has told enough, or while what comes
/// gathers. It sends nothing in that time either.
pub(crate) struct Handler<H: ConnectionHandler> {
    inner: H,
    pace: Arc<Pace>,
    pause: Option<Pin<Box<Sleep>>>,
    /// It was given something to send since the last pause.
    given: bool,
    /// What it wants after that which it told.
    next: Option<Event<H>>,
}

impl<H: ConnectionHandler> Handler<H> {
    pub(super) fn new(inner: H, pace: Arc<Pace>) -> Self {
        Self {
            inner,
            pace,
            pause: None,
            given: false,
            next: None,
        }
    }

    fn pay(&mut self) {
        let now = Instant::now();
        let until = self.pace.pay(now.into_std()).into();
        if until > now {
            self.pause = Some(Box::pin(sleep_until(until)));
        }
    }

    /// What it has to tell now. Sets the pause behind it, or what it wants next.
    fn gather(&mut self, cx: &mut Context<'_>) -> Vec<H::ToBehaviour> {
        let mut told = Vec::new();
        while told.len() < limits::GOSSIP_TOGETHER && self.pause.is_none() {
            match self.inner.poll(cx) {
                Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event)) => {
                    told.push(event);
                    self.pay();
                }
                Poll::Ready(wanted) => {
                    self.next = Some(wanted.map_custom(|event| vec![event]));
                    break;
                }
                Poll::Pending => {
                    if mem::take(&mut self.given) || !told.is_empty() {
                        self.pause = Some(Box::pin(sleep_until(next_turn(Instant::now()))));
                    }
                    break;
                }
            }
        }
        told
    }
}

/// The next of the times at which all handlers of this process go on. They are common, so that what
/// comes from several peers wakes those behind the handlers once.
fn next_turn(now: Instant) -> Instant {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    let every = limits::GOSSIP_GATHER.as_nanos().max(1);
    let into = now.saturating_duration_since(*FIRST).as_nanos() % every;
    let rest = u64::try_from(every - into).unwrap_or(u64::MAX);
    now + Duration::from_nanos(rest)
}

impl<H: ConnectionHandler> ConnectionHandler for Handler<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = Vec<H::ToBehaviour>;
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
        if let Some(next) = self.next.take() {
            return Poll::Ready(next);
        }
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let told = self.gather(cx);
            if !told.is_empty() {
                return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(told));
            }
            if let Some(next) = self.next.take() {
                return Poll::Ready(next);
            }
            if self.pause.is_none() {
                return Poll::Pending;
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner
            .poll_close(cx)
            .map(|told| told.map(|event| vec![event]))
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.given = true;
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use futures::task::noop_waker;
    use libp2p::core::upgrade::DeniedUpgrade;

    use super::*;
    use crate::address::Subnet;
    use crate::heartbeat::bucket::Rate;
    use crate::paced::pace::Paces;

    /// Tells what it was given, a number each, and asks for a substream at 0.
    #[derive(Default)]
    struct Teller(VecDeque<u32>);

    impl ConnectionHandler for Teller {
        type FromBehaviour = u32;
        type ToBehaviour = u32;
        type InboundProtocol = DeniedUpgrade;
        type OutboundProtocol = DeniedUpgrade;
        type InboundOpenInfo = ();
        type OutboundOpenInfo = ();

        fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade> {
            SubstreamProtocol::new(DeniedUpgrade, ())
        }

        fn poll(
            &mut self,
            _: &mut Context<'_>,
        ) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), u32>> {
            match self.0.pop_front() {
                None => Poll::Pending,
                Some(0) => Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                    protocol: self.listen_protocol(),
                }),
                Some(number) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(number)),
            }
        }

        fn on_behaviour_event(&mut self, number: u32) {
            self.0.push_back(number);
        }

        fn on_connection_event(&mut self, _: ConnectionEvent<'_, DeniedUpgrade, DeniedUpgrade>) {}
    }

    fn handler(every: Duration, burst: u32) -> Handler<Teller> {
        let network = Subnet::V6([0x2600, 1, 0]);
        let pace = Paces::new(Rate { every, burst }).of(Some(network));
        Handler::new(Teller::default(), pace)
    }

    fn unhurried() -> Handler<Teller> {
        handler(Duration::from_micros(1), 1000)
    }

    /// What it tells at once; nothing for a substream.
    fn told(handler: &mut Handler<Teller>) -> Option<Vec<u32>> {
        let waker = noop_waker();
        match handler.poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => None,
            Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(told)) => Some(told),
            Poll::Ready(_) => Some(Vec::new()),
        }
    }

    /// Waits until it tells something.
    async fn tells(handler: &mut Handler<Teller>) -> Vec<u32> {
        poll_fn(|cx| match handler.poll(cx) {
            Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(told)) => Poll::Ready(told),
            Poll::Ready(_) => Poll::Ready(Vec::new()),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_goes_at_once_and_what_comes_soon_after_goes_together() {
        let mut handler = unhurried();
        handler.inner.0.extend([1]);
        assert_eq!(told(&mut handler), Some(vec![1]));
        handler.inner.0.extend([2, 3]);
        assert_eq!(told(&mut handler), None);
        handler.inner.0.extend([4]);
        let start = tokio::time::Instant::now();
        assert_eq!(tells(&mut handler).await, [2, 3, 4]);
        assert!(start.elapsed() <= limits::GOSSIP_GATHER + Duration::from_millis(2));
        assert_eq!(told(&mut handler), None);
        tokio::time::sleep(limits::GOSSIP_GATHER * 2).await;
        assert_eq!(told(&mut handler), None, "and nothing is left");
        handler.inner.0.extend([5]);
        assert_eq!(told(&mut handler), Some(vec![5]), "it was quiet meanwhile");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_gathers_as_well() {
        let mut handler = unhurried();
        // It is sent, of which nothing is told.
        handler.given = true;
        assert_eq!(told(&mut handler), None);
        assert!(handler.pause.is_some());
        handler.on_behaviour_event(1);
        assert_eq!(told(&mut handler), None);
        assert_eq!(tells(&mut handler).await, [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_wanted_between_comes_in_its_place() {
        let mut handler = unhurried();
        handler.inner.0.extend([1, 2, 0, 3]);
        assert_eq!(told(&mut handler), Some(vec![1, 2]));
        assert_eq!(told(&mut handler), Some(Vec::new()), "the substream");
        assert_eq!(told(&mut handler), Some(vec![3]));
        assert_eq!(told(&mut handler), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_told_together_than_may_be() {
        let mut handler = unhurried();
        let most = u32::try_from(limits::GOSSIP_TOGETHER).unwrap();
        handler.inner.0.extend(1..=most + 1);
        assert_eq!(told(&mut handler).unwrap().len(), limits::GOSSIP_TOGETHER);
        assert_eq!(told(&mut handler), Some(vec![most + 1]));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_told_enough_tells_one_in_its_time() {
        let mut handler = handler(Duration::from_secs(60), 2);
        handler.inner.0.extend(1..10);
        let first = told(&mut handler).unwrap();
        assert!(first.len() <= 3, "{first:?}");
        tokio::time::sleep(limits::GOSSIP_GATHER * 3).await;
        assert_eq!(told(&mut handler), None);
    }
}
