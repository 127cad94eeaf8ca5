//! A libp2p peer that is not ours: gossipsub, identify and CBOR request-response as version 0.1.0
//! sets them up, and bare substreams for misbehaving.

use derouter_net::{Keypair, Multiaddr, PeerId};
use derouter_wire::gossip::heartbeat_message_id;
use derouter_wire::reqres::{REQRES_PROTOCOL, Request, Response};
use futures::StreamExt;
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, MessageId, ValidationMode};
use libp2p::request_response::{self, ProtocolSupport, cbor};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{StreamProtocol, Swarm, SwarmBuilder, identify, noise, tcp, yamux};

use crate::support::soon;

#[derive(NetworkBehaviour)]
pub(crate) struct RawBehaviour {
    pub(crate) gossipsub: gossipsub::Behaviour,
    identify: identify::Behaviour,
    pub(crate) reqres: cbor::Behaviour<Request, Response>,
}

pub(crate) struct RawPeer {
    pub(crate) swarm: Swarm<RawBehaviour>,
    topic: IdentTopic,
    explicit: bool,
}

pub(crate) enum Seen {
    /// A gossip message: its source and data.
    Message(Option<PeerId>, Vec<u8>),
    Subscribed,
    Request(Request, request_response::ResponseChannel<Response>),
    Response(Response),
    RequestFailed(String),
}

impl RawPeer {
    /// As version 0.1.0: makes whoever identifies itself an explicit gossipsub peer.
    pub(crate) fn version_0_1() -> Self {
        let keypair = Keypair::generate_ed25519();
        let signed = MessageAuthenticity::Signed(keypair.clone());
        let mut peer = Self::new(keypair, signed, ValidationMode::Strict, 64 * 1024);
        peer.explicit = true;
        peer
    }

    /// Publishes whatever it is told to, of any size.
    pub(crate) fn hostile() -> Self {
        let keypair = Keypair::generate_ed25519();
        let signed = MessageAuthenticity::Signed(keypair.clone());
        Self::new(keypair, signed, ValidationMode::Strict, 1024 * 1024)
    }

    /// Publishes in the name of another peer, whose key it does not have.
    pub(crate) fn forger(author: PeerId) -> Self {
        let unsigned = MessageAuthenticity::Author(author);
        let keypair = Keypair::generate_ed25519();
        Self::new(keypair, unsigned, ValidationMode::None, 1024 * 1024)
    }

    fn new(
        keypair: Keypair,
        authenticity: MessageAuthenticity,
        validation: ValidationMode,
        max_transmit: usize,
    ) -> Self {
        let topic = IdentTopic::new("heartbeat");
        let config = gossipsub::ConfigBuilder::default()
            .validation_mode(validation)
            .max_transmit_size(max_transmit)
            .message_id_fn(|message| MessageId::from(heartbeat_message_id(&message.data)))
            .build()
            .unwrap();
        let mut gossipsub = gossipsub::Behaviour::new(authenticity, config).unwrap();
        gossipsub.subscribe(&topic).unwrap();
        let identify =
            identify::Config::new("/derouter/identify/0.1.0".to_owned(), keypair.public());
        let protocol = StreamProtocol::new(REQRES_PROTOCOL);
        let behaviour = RawBehaviour {
            gossipsub,
            identify: identify::Behaviour::new(identify),
            reqres: cbor::Behaviour::new(
                [(protocol, ProtocolSupport::Full)],
                request_response::Config::default(),
            ),
        };
        let swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(
                tcp::Config::default(),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(|_| behaviour)
            .unwrap()
            .build();
        Self {
            swarm,
            topic,
            explicit: false,
        }
    }

    pub(crate) fn id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    pub(crate) async fn listen(&mut self) -> Multiaddr {
        self.swarm
            .listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap())
            .unwrap();
        loop {
            let event = soon(self.swarm.select_next_some()).await;
            if let SwarmEvent::NewListenAddr { address, .. } = event {
                return address;
            }
        }
    }

    /// Connects, and waits until the other has subscribed to heartbeats.
    pub(crate) async fn join(&mut self, address: Multiaddr) {
        self.swarm.dial(address).unwrap();
        while !matches!(self.next().await, Seen::Subscribed) {}
    }

    pub(crate) fn publish(&mut self, data: Vec<u8>) {
        let gossipsub = &mut self.swarm.behaviour_mut().gossipsub;
        gossipsub.publish(self.topic.clone(), data).unwrap();
    }

    /// The next thing that a test may look at.
    pub(crate) async fn next(&mut self) -> Seen {
        loop {
            let event = soon(self.swarm.select_next_some()).await;
            if let Some(seen) = self.look(event) {
                return seen;
            }
        }
    }

    /// Works until dropped, for use beside what a test waits for.
    pub(crate) async fn run(&mut self) {
        loop {
            let event = self.swarm.select_next_some().await;
            self.look(event);
        }
    }

    fn look(&mut self, event: SwarmEvent<RawBehaviourEvent>) -> Option<Seen> {
        let SwarmEvent::Behaviour(event) = event else {
            return None;
        };
        match event {
            RawBehaviourEvent::Gossipsub(gossipsub::Event::Message { message, .. }) => {
                Some(Seen::Message(message.source, message.data))
            }
            RawBehaviourEvent::Gossipsub(gossipsub::Event::Subscribed { .. }) => {
                Some(Seen::Subscribed)
            }
            RawBehaviourEvent::Identify(identify::Event::Received { peer_id, .. }) => {
                if self.explicit {
                    let gossipsub = &mut self.swarm.behaviour_mut().gossipsub;
                    gossipsub.add_explicit_peer(&peer_id);
                }
                None
            }
            RawBehaviourEvent::Reqres(request_response::Event::Message { message, .. }) => {
                Some(match message {
                    request_response::Message::Request {
                        request, channel, ..
                    } => Seen::Request(request, channel),
                    request_response::Message::Response { response, .. } => {
                        Seen::Response(response)
                    }
                })
            }
            RawBehaviourEvent::Reqres(request_response::Event::OutboundFailure {
                error, ..
            }) => Some(Seen::RequestFailed(error.to_string())),
            _ => None,
        }
    }
}
