//! Fails a dial at once where no route leads. TCP does so by itself; QUIC sends its packets into the
//! void until the dial is over, and whoever waits for another address waits with it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::core::{Transport, transport};

use crate::reachability::place;

/// A transport over UDP that asks the system for a route first.
#[derive(Debug)]
pub(super) struct Routed<T>(pub(super) T);

/// Whether the system knows a way there. Sends nothing, and does not wait.
fn check_route(to: SocketAddr) -> io::Result<()> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let asked = UdpSocket::bind(any).and_then(|socket| socket.connect(to));
    // Others are no reason not to try: it may be that this machine has too many sockets just now.
    asked.or_else(|error| {
        if means_no_route(error.kind()) {
            Err(error)
        } else {
            Ok(())
        }
    })
}

fn means_no_route(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{
        AddrNotAvailable, HostUnreachable, NetworkDown, NetworkUnreachable, Unsupported,
    };
    matches!(
        kind,
        AddrNotAvailable | HostUnreachable | NetworkDown | NetworkUnreachable | Unsupported
    )
}

impl<T> Transport for Routed<T>
where
    T: Transport + Unpin,
    T::Error: From<io::Error>,
{
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        self.0.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        let of_ours = place::transport(&address) == Some(place::Transport::Quic);
        if let Some(to) = place::socket(&address).filter(|_| of_ours) {
            check_route(to).map_err(|error| TransportError::Other(error.into()))?;
        }
        self.0.dial(address, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<transport::TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let polled: Poll<TransportEvent<_, _>> = Pin::new(&mut self.0).poll(cx);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_route_to_itself() {
        check_route("127.0.0.1:1".parse().unwrap()).unwrap();
    }

    #[test]
    fn only_what_says_that_there_is_no_way_keeps_from_trying() {
        assert!(means_no_route(io::ErrorKind::NetworkUnreachable));
        assert!(!means_no_route(io::ErrorKind::PermissionDenied));
    }
}
