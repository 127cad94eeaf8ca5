//! Asks the default gateway to forward this node's ports, by PCP or NAT-PMP. A task of its own: it
//! waits for the router, and talks to nobody else. UPnP is libp2p's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{
    GatewayAddress, InternetProtocol, PortMapping, PortMappingOptions, PortMappingType,
    TimeoutConfig, natpmp,
};
use libp2p::Multiaddr;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::place::{self, Transport};

/// What is asked for; routers may give less. Renewed at half of what they give.
const LIFETIME_SECONDS: u32 = 3600;
/// The soonest renewal, whatever a router says.
const SHORTEST: Duration = Duration::from_secs(30);
/// The first try after a failure. A router that offers nothing seldom starts to.
const FIRST_DELAY: Duration = Duration::from_secs(60);
/// And the slowest.
const LAST_DELAY: Duration = Duration::from_secs(30 * 60);
/// For each request: 250 ms, doubled 4 times, is 8 s in all.
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 4,
    max_retry_timeout: None,
};
/// How long a stop waits for the router to forget the mappings.
const GOODBYE: Duration = Duration::from_millis(500);
/// Where PCP and NAT-PMP servers listen.
const SERVER_PORT: u16 = 5351;

/// The ports to forward, and a number that grows when all is to be asked for again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) tcp: Option<NonZeroU16>,
    pub(crate) udp: Option<NonZeroU16>,
    pub(crate) round: u64,
}

impl Wanted {
    /// The ports of these listen addresses, as far as a router may forward to them.
    pub(crate) fn of<'a>(listen: impl Iterator<Item = &'a Multiaddr>, round: u64) -> Self {
        let mut wanted = Self {
            round,
            ..Self::default()
        };
        for address in listen {
            let (Some(transport), Some(socket)) =
                (place::transport(address), place::socket(address))
            else {
                continue;
            };
            if !socket.is_ipv4() || socket.ip().is_loopback() {
                continue;
            }
            let port = NonZeroU16::new(socket.port());
            match transport {
                Transport::Tcp => wanted.tcp = wanted.tcp.or(port),
                Transport::Quic => wanted.udp = wanted.udp.or(port),
            }
        }
        wanted
    }

    fn ports(self) -> impl Iterator<Item = (Transport, NonZeroU16)> {
        let tcp = self.tcp.map(|port| (Transport::Tcp, port));
        let udp = self.udp.map(|port| (Transport::Quic, port));
        tcp.into_iter().chain(udp)
    }
}

/// How it went.
#[derive(Debug)]
pub(crate) enum Event {
    /// The router forwards these addresses. They replace those of the last such event.
    Mapped {
        /// `pcp` or `nat-pmp`.
        protocol: &'static str,
        /// Outside addresses; they may be of a private network.
        addresses: Vec<Multiaddr>,
    },
    /// It does not, for this reason.
    Failed(String),
}

/// Keeps the ports mapped until `stop`, then takes them back.
pub(crate) async fn keep_mapped(
    mut wanted: watch::Receiver<Wanted>,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let mut delay = FIRST_DELAY;
    let mut held: Vec<PortMapping> = Vec::new();
    loop {
        let now_wanted = *wanted.borrow_and_update();
        let wait = if now_wanted.ports().next().is_none() {
            LAST_DELAY
        } else {
            let outcome = tokio::select! {
                () = stop.cancelled() => break,
                outcome = map_all(now_wanted) => outcome,
            };
            match outcome {
                Ok((mapped, event)) => {
                    delay = FIRST_DELAY;
                    held = mapped;
                    let _ = events.send(event).await;
                    renewal(&held)
                }
                Err(reason) => {
                    let _ = events.send(Event::Failed(reason)).await;
                    let wait = delay.mul_f64(0.75 + rand::random::<f64>() / 2.0);
                    delay = (delay * 2).min(LAST_DELAY);
                    wait
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(wait) => {}
            changed = wanted.changed() => match changed {
                // The router may be another one: it is asked at once.
                Ok(()) => delay = FIRST_DELAY,
                Err(_gone) => break,
            }
        }
    }
    let forget = async {
        for mapping in held {
            let _ = mapping.try_drop().await;
        }
    };
    let _ = timeout(GOODBYE, forget).await;
}

fn renewal(held: &[PortMapping]) -> Duration {
    let shortest = held.iter().map(PortMapping::lifetime).min();
    let half = Duration::from_secs(u64::from(shortest.unwrap_or(LIFETIME_SECONDS)) / 2);
    half.max(SHORTEST)
}

async fn map_all(wanted: Wanted) -> Result<(Vec<PortMapping>, Event), String> {
    let gateway = default_gateway().await?;
    let client = address_towards(gateway)
        .await
        .map_err(|error| error.to_string())?;
    let mut mapped = Vec::new();
    let mut addresses = Vec::new();
    let mut protocol = "nat-pmp";
    for (transport, port) in wanted.ports() {
        let mapping = map(gateway, client, transport, port).await?;
        let outside = match mapping.mapping_type() {
            PortMappingType::Pcp { external_ip, .. } => {
                protocol = "pcp";
                external_ip.to_canonical()
            }
            PortMappingType::NatPmp => {
                let outside = natpmp::external_address(gateway.into(), Some(PATIENCE)).await;
                IpAddr::V4(outside.map_err(|error| error.to_string())?)
            }
        };
        let socket = SocketAddr::new(outside, mapping.external_port().get());
        addresses.push(place::multiaddr(socket, transport));
        mapped.push(mapping);
    }
    Ok((
        mapped,
        Event::Mapped {
            protocol,
            addresses,
        },
    ))
}

/// PCP, or NAT-PMP where that is all that the router speaks.
async fn map(
    gateway: Ipv4Addr,
    client: IpAddr,
    transport: Transport,
    port: NonZeroU16,
) -> Result<PortMapping, String> {
    let protocol = match transport {
        Transport::Tcp => InternetProtocol::Tcp,
        Transport::Quic => InternetProtocol::Udp,
    };
    let options = PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: Some(LIFETIME_SECONDS),
        timeout_config: Some(PATIENCE),
    };
    let gateway = GatewayAddress::IpV4(gateway);
    match PortMapping::new(gateway, client, protocol, port, options).await {
        Ok(mapping) => Ok(mapping),
        // Some routers keep silent to what they do not know.
        Err(_pcp) => natpmp::port_mapping(gateway, protocol, port, options)
            .await
            .map_err(|error| error.to_string()),
    }
}

async fn default_gateway() -> Result<Ipv4Addr, String> {
    let found = tokio::task::spawn_blocking(netdev::get_default_gateway).await;
    let gateway = found.map_err(|error| error.to_string())??;
    let gateway = gateway.ipv4.into_iter().next();
    gateway.ok_or_else(|| "there is no default gateway".to_owned())
}

/// The address of this machine in the gateway's network. Sends nothing.
async fn address_towards(gateway: Ipv4Addr) -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect((gateway, SERVER_PORT)).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_that_a_router_can_forward_to_are_asked_for() {
        let listen: Vec<Multiaddr> = [
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/2001::1/tcp/2",
            "/ip4/192.168.1.2/tcp/3",
            "/ip4/192.168.1.2/udp/4/quic-v1",
            "/ip4/192.168.1.3/udp/5/quic-v1",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
        let wanted = Wanted::of(listen.iter(), 0);
        assert_eq!(
            (wanted.tcp, wanted.udp),
            (NonZeroU16::new(3), NonZeroU16::new(4))
        );
        assert_eq!(Wanted::of(listen.iter().take(2), 0).ports().count(), 0);
    }

    #[tokio::test]
    async fn it_stops_when_told_although_nothing_is_to_be_mapped() {
        let (_sender, wanted) = watch::channel(Wanted::default());
        let (events, _received) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep_mapped(wanted, events, stop.clone()));
        stop.cancel();
        timeout(Duration::from_secs(10), task)
            .await
            .unwrap()
            .unwrap();
    }
}
