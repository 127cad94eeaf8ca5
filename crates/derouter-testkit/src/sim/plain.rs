//! A node as version 0.1.0 has it, as far as heartbeats go: a plain libp2p swarm over TCP with gossipsub
//! as it comes, every peer with known addresses an explicit one, and none of our limits. It keeps the last
//! heartbeat of each provider in memory, where 0.1.0 has a database as well.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use derouter_net::{Keypair, Multiaddr, PeerId};
use derouter_wire::UnixSeconds;
use derouter_wire::gossip::{Announcement, HEARTBEAT_TOPIC, Heartbeat, heartbeat_message_id};
use futures::StreamExt;
use libp2p::core::Transport;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::upgrade::Version;
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, MessageId, ValidationMode};
use libp2p::swarm::{self, NetworkBehaviour, SwarmEvent};
use libp2p::{Swarm, identify, noise, ping, tcp, yamux};
use tokio::task::JoinHandle;

use super::counted::{Bytes, Counted};
use super::subject::Status;

/// A provider is active for so long after its last heartbeat.
const ACTIVE: Duration = Duration::from_secs(60);
/// How often those that are not are forgotten.
const SWEEP: Duration = Duration::from_secs(10);

#[derive(NetworkBehaviour)]
struct Behaviour {
    gossipsub: gossipsub::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// The last heartbeat of a provider.
struct Held {
    offered: Announcement,
    timestamp: UnixSeconds,
    heard: Instant,
}

#[derive(Default)]
struct State {
    providers: HashMap<PeerId, Held>,
    peers: u32,
}

/// A running node. Dropping it ends it.
pub struct PlainNode {
    /// Where it listens, with its peer id.
    pub address: Multiaddr,
    state: Arc<Mutex<State>>,
    bytes: Arc<Bytes>,
    driver: JoinHandle<()>,
}

impl Drop for PlainNode {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl State {
    fn hear(&mut self, source: PeerId, heartbeat: Heartbeat) {
        let timestamp = heartbeat.timestamp;
        let heard = Instant::now();
        let Some(offered) = heartbeat.provider else {
            return;
        };
        let mut entry = match self.providers.entry(source) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => {
                entry.insert(Held {
                    offered,
                    timestamp,
                    heard,
                });
                return;
            }
        };
        let held = entry.get_mut();
        if timestamp <= held.timestamp || offered.updated_at < held.offered.updated_at {
            return;
        }
        held.timestamp = timestamp;
        held.heard = heard;
        if offered.updated_at > held.offered.updated_at {
            held.offered = offered;
        }
    }

    fn sweep(&mut self) {
        self.providers
            .retain(|_, held| held.heard.elapsed() < ACTIVE);
    }
}

fn behaviour(keypair: &Keypair) -> Behaviour {
    let topic = IdentTopic::new(HEARTBEAT_TOPIC);
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .message_id_fn(|message| MessageId::from(heartbeat_message_id(&message.data)))
        .build()
        .expect("libp2p's own values are sound");
    let signed = MessageAuthenticity::Signed(keypair.clone());
    let mut gossipsub = gossipsub::Behaviour::new(signed, config).expect("keys sign");
    gossipsub.subscribe(&topic).expect("a topic");
    let identify = identify::Config::new("/derouter/identify/0.1.0".to_owned(), keypair.public());
    Behaviour {
        gossipsub,
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::default(),
    }
}

fn build_swarm(bytes: Arc<Bytes>) -> Swarm<Behaviour> {
    let keypair = Keypair::generate_ed25519();
    let transport = tcp::tokio::Transport::new(tcp::Config::default())
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&keypair).expect("noise takes the key"))
        .multiplex(yamux::Config::default())
        .map(move |(peer, muxer), _| {
            let muxer = Counted::new(muxer, bytes.clone());
            (peer, StreamMuxerBox::new(muxer))
        })
        .boxed();
    // Nothing but heartbeats goes over these connections, which does not keep them open.
    let config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(Duration::from_secs(24 * 3600));
    let peer = keypair.public().to_peer_id();
    Swarm::new(transport, behaviour(&keypair), peer, config)
}

async fn listen(swarm: &mut Swarm<Behaviour>) -> Multiaddr {
    let address = "/ip4/127.0.0.1/tcp/0".parse().expect("an address");
    swarm.listen_on(address).expect("a free port");
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            let peer = *swarm.local_peer_id();
            return address.with_p2p(peer).expect("no id yet");
        }
    }
}

impl PlainNode {
    /// Listens on a free port of this machine, and dials these once.
    pub async fn start(bootstrap: &[Multiaddr]) -> Self {
        let bytes = Arc::new(Bytes::default());
        let mut swarm = build_swarm(bytes.clone());
        let address = listen(&mut swarm).await;
        for other in bootstrap {
            swarm.dial(other.clone()).expect("an address to dial");
        }
        let state = Arc::new(Mutex::new(State::default()));
        Self {
            address,
            driver: tokio::spawn(drive(swarm, state.clone())),
            state,
            bytes,
        }
    }

    /// What it would say of itself.
    pub fn status(&self) -> Status {
        let state = self.state.lock().expect("nothing panics with it");
        let held = state.providers.values();
        let (bytes_in, bytes_out) = self.bytes.so_far();
        Status {
            address: Some(self.address.to_string()),
            peers: state.peers,
            announcements: 0,
            providers: held.filter(|held| held.heard.elapsed() < ACTIVE).count(),
            bytes_in,
            bytes_out,
        }
    }
}

async fn drive(mut swarm: Swarm<Behaviour>, state: Arc<Mutex<State>>) {
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            event = swarm.select_next_some() => on_event(&mut swarm, event, &state),
            _ = sweep.tick() => state.lock().expect("nothing panics with it").sweep(),
        }
    }
}

fn on_event(swarm: &mut Swarm<Behaviour>, event: SwarmEvent<BehaviourEvent>, state: &Mutex<State>) {
    match event {
        SwarmEvent::Behaviour(BehaviourEvent::Gossipsub(gossipsub::Event::Message {
            message,
            ..
        })) => {
            if let Some(source) = message.source
                && let Ok(heartbeat) = Heartbeat::decode(&message.data)
            {
                let mut state = state.lock().expect("nothing panics with it");
                state.hear(source, heartbeat);
            }
        }
        SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
            peer_id,
            info,
            ..
        })) if !info.listen_addrs.is_empty() => {
            let gossipsub = &mut swarm.behaviour_mut().gossipsub;
            gossipsub.add_explicit_peer(&peer_id);
        }
        SwarmEvent::ConnectionEstablished { .. } | SwarmEvent::ConnectionClosed { .. } => {
            let peers = swarm.connected_peers().count();
            let mut state = state.lock().expect("nothing panics with it");
            state.peers = u32::try_from(peers).expect("few");
        }
        _ => {}
    }
}
