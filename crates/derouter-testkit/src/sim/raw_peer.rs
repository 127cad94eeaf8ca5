//! A libp2p peer with hardly any of a node's behaviour: it tells which protocols it accepts, answers
//! pings, and else says what it is told to, on substreams that it opens by name.

use std::collections::HashMap;
use std::time::Duration;

use derouter_net::{Keypair, Multiaddr, PeerId};
use derouter_wire::cbor::Bytes;
use derouter_wire::discovery::{Carried, DISCOVERY_PROTOCOL, DiscoveryRequest};
use derouter_wire::limits::FETCH_IDS;
use futures::{AsyncRead, AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Stream, StreamProtocol, Swarm, SwarmBuilder, identify, noise, ping, tcp, yamux};
use libp2p_stream::Control;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::inbound::{self, Incoming};

/// How long connecting and opening may take.
const PATIENCE: Duration = Duration::from_secs(20);

type Accepted = HashMap<&'static str, Incoming>;

#[derive(NetworkBehaviour)]
struct Behaviour {
    /// Opens substreams.
    outbound: libp2p_stream::Behaviour,
    inbound: inbound::Behaviour,
    identify: identify::Behaviour,
    /// A node closes connections whose pings fail.
    ping: ping::Behaviour,
}

/// What is left of the time of announcements that are given, in seconds.
const OFFERED_REMAINING: u32 = 660;

/// A connected raw peer. Dropping it ends its connection.
pub struct RawPeer {
    /// Itself.
    pub id: PeerId,
    /// Whom it is connected to.
    pub remote: PeerId,
    control: Control,
    accepted: Accepted,
    driver: JoinHandle<()>,
    deaf: watch::Sender<bool>,
}

impl Drop for RawPeer {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn swarm(keypair: Keypair, accepted: &[&'static str]) -> (Swarm<Behaviour>, Accepted) {
    let (inbound, accepted) = inbound::Behaviour::new(accepted);
    let identify = identify::Config::new("/derouter/identify/0.1.0".to_owned(), keypair.public());
    let identify = identify::Behaviour::new(identify);
    let behaviour = Behaviour {
        outbound: libp2p_stream::Behaviour::new(),
        inbound,
        identify,
        ping: ping::Behaviour::default(),
    };
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(
            tcp::Config::new().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .expect("noise takes the key")
        .with_behaviour(|_| behaviour)
        .expect("the behaviour needs nothing")
        .with_swarm_config(|config| {
            config.with_idle_connection_timeout(Duration::from_secs(24 * 3600))
        })
        .build();
    (swarm, accepted)
}

impl RawPeer {
    /// Connects with a new identity, as a peer that speaks these protocols.
    pub async fn connect(address: &Multiaddr, accepted: &[&'static str]) -> Result<Self, String> {
        let keypair = Keypair::generate_ed25519();
        let id = keypair.public().to_peer_id();
        let (mut swarm, accepted) = swarm(keypair, accepted);
        let control = swarm.behaviour().outbound.new_control();
        swarm
            .dial(address.clone())
            .map_err(|error| error.to_string())?;
        let connected = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { peer_id, .. } => return Ok(peer_id),
                    SwarmEvent::OutgoingConnectionError { error, .. } => {
                        return Err(error.to_string());
                    }
                    _ => {}
                }
            }
        };
        let remote = tokio::time::timeout(PATIENCE, connected).await;
        let remote = remote.map_err(|_| "no connection in time".to_owned())??;
        let (deaf, mut is_deaf) = watch::channel(false);
        let driver = tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = swarm.select_next_some() => {}
                    changed = is_deaf.changed() => {
                        let mut there = changed.is_ok();
                        while there && *is_deaf.borrow_and_update() {
                            there = is_deaf.changed().await.is_ok();
                        }
                        if !there {
                            return;
                        }
                    }
                }
            }
        });
        Ok(Self {
            id,
            remote,
            control,
            accepted,
            driver,
            deaf,
        })
    }

    /// Opens a substream.
    pub async fn open(&self, protocol: &'static str) -> Result<Stream, String> {
        let protocol = StreamProtocol::new(protocol);
        let mut control = self.control.clone();
        let opened = control.open_stream(self.remote, protocol);
        let opened = tokio::time::timeout(PATIENCE, opened).await;
        let opened = opened.map_err(|_| "no substream in time".to_owned())?;
        opened.map_err(|error| error.to_string())
    }

    /// The substreams that the other opens, of a protocol that it connected with.
    pub fn accept(&mut self, protocol: &str) -> Incoming {
        let streams = self.accepted.remove(protocol);
        streams.expect("it is accepted, and taken once")
    }

    /// Gives it announcements at once, as one node gives another those that it lacks. The other has
    /// judged them all when this is done.
    pub async fn offer(&self, announcements: &[Vec<u8>]) {
        for some in announcements.chunks(FETCH_IDS) {
            let carried = some.iter().map(|announcement| Carried {
                announcement: Bytes(announcement.clone()),
                remaining: OFFERED_REMAINING,
            });
            let request = DiscoveryRequest::Offer(carried.collect()).to_frame();
            let stream = self.open(DISCOVERY_PROTOCOL).await;
            let mut stream = stream.expect("it speaks the protocol");
            write(&mut stream, &request).await.expect("it reads");
            read_frame(&mut stream).await.expect("it answers");
        }
    }

    /// Reads nothing more of its connection, or reads again.
    pub fn set_deaf(&self, deaf: bool) {
        self.deaf.send_replace(deaf);
    }

    /// Reads whatever comes on a protocol, and throws it away.
    pub fn drain(&mut self, protocol: &str) -> JoinHandle<()> {
        let mut streams = self.accept(protocol);
        tokio::spawn(async move {
            while let Some(mut stream) = streams.recv().await {
                tokio::spawn(async move {
                    let mut bytes = vec![0; 64 * 1024];
                    while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
                });
            }
        })
    }
}

/// Reads a frame behind its length of 4 bytes.
pub async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).expect("64 bit");
    let mut bytes = vec![0; length.min(8 * 1024 * 1024)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Writes, and gives up when the other does not read.
pub async fn write(stream: &mut Stream, bytes: &[u8]) -> Result<(), String> {
    let writing = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    let written = tokio::time::timeout(PATIENCE, writing).await;
    let written = written.map_err(|_| "the other does not read".to_owned())?;
    written.map_err(|error| error.to_string())
}
