//! A node as version 0.1.0 is one to its peers, of plain libp2p: gossipsub with explicit peers, libp2p's
//! CBOR request-response, job streams, and nothing of wire 0.2.

use std::collections::{BTreeMap, HashMap};

use derouter_node::{Multiaddr, RunningNode};
use derouter_sdk::PeerId;
use derouter_wire::gossip::{AnnouncedOffer, Announcement, Heartbeat, heartbeat_message_id};
use derouter_wire::jobs::{JOBS_PROTOCOL, JobCall};
use derouter_wire::reqres::{REQRES_PROTOCOL, Request, Response};
use derouter_wire::stream::{HeadRequest, HeadResponse, JobConnectionResult, STREAM_PROTOCOL};
use derouter_wire::{JobId, OfferId, ProtocolId, UnixSeconds};
use futures::StreamExt;
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, MessageId, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::request_response::{self, OutboundRequestId, ProtocolSupport, ResponseChannel, cbor};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{StreamProtocol, Swarm, SwarmBuilder, identify, noise, tcp, yamux};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use crate::support::{PROTOCOL, within};

/// More than a test asks for at once.
const ROOM: usize = 64;

#[derive(NetworkBehaviour)]
struct Behaviour {
    gossipsub: gossipsub::Behaviour,
    identify: identify::Behaviour,
    reqres: cbor::Behaviour<Request, Response>,
    streams: libp2p_stream::Behaviour,
}

enum Command {
    Dial(Multiaddr),
    Publish(Vec<u8>),
    Ask(PeerId, Box<Request>, oneshot::Sender<Response>),
    Answer(ResponseChannel<Response>, Response),
}

#[derive(Default)]
struct Peers {
    /// Those that listen to heartbeats.
    subscribed: Vec<PeerId>,
    /// Those that were connected once and left.
    gone: Vec<PeerId>,
}

/// A request that waits for [`OldNode::answer`].
pub struct Asked {
    pub peer: PeerId,
    pub request: Request,
    pub channel: ResponseChannel<Response>,
}

pub type Pipe = Compat<libp2p::Stream>;

/// Works until it is dropped.
pub struct OldNode {
    pub keypair: Keypair,
    pub address: Multiaddr,
    commands: mpsc::Sender<Command>,
    asked: mpsc::Receiver<Asked>,
    peers: watch::Receiver<Peers>,
    control: libp2p_stream::Control,
    streams: libp2p_stream::IncomingStreams,
    task: JoinHandle<()>,
}

/// The calls of wire 0.2 that a node makes to one that gives answers of its own.
pub struct Calls(libp2p_stream::IncomingStreams);

impl Calls {
    /// The next one, to answer or to drop.
    pub async fn next(&mut self) -> (JobCall, Pipe) {
        let (_, stream) = within("a call", self.0.next()).await.unwrap();
        let mut pipe = stream.compat();
        let call = within("the call", read_frame(&mut pipe)).await;
        (JobCall::decode(&call).unwrap(), pipe)
    }
}

impl Drop for OldNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn behaviour(keypair: &Keypair) -> Behaviour {
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .message_id_fn(|message| MessageId::from(heartbeat_message_id(&message.data)))
        .build()
        .unwrap();
    let signed = MessageAuthenticity::Signed(keypair.clone());
    let mut gossipsub = gossipsub::Behaviour::new(signed, config).unwrap();
    gossipsub.subscribe(&IdentTopic::new("heartbeat")).unwrap();
    let identify = identify::Config::new("/derouter/identify/0.1.0".into(), keypair.public());
    let protocol = StreamProtocol::new(REQRES_PROTOCOL);
    Behaviour {
        gossipsub,
        identify: identify::Behaviour::new(identify),
        reqres: cbor::Behaviour::new(
            [(protocol, ProtocolSupport::Full)],
            request_response::Config::default(),
        ),
        streams: libp2p_stream::Behaviour::new(),
    }
}

impl OldNode {
    pub async fn start() -> Self {
        let keypair = Keypair::generate_ed25519();
        let mut swarm = SwarmBuilder::with_existing_identity(keypair.clone())
            .with_tokio()
            .with_tcp(
                tcp::Config::default(),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(std::time::Duration::from_secs(60))
            })
            .build();
        swarm
            .listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap())
            .unwrap();
        let listening = async {
            loop {
                if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                    return address;
                }
            }
        };
        let address = within("a place to listen", listening).await;
        let address = address.with_p2p(*swarm.local_peer_id()).unwrap();
        let mut control = swarm.behaviour().streams.new_control();
        let streams = control
            .accept(StreamProtocol::new(STREAM_PROTOCOL))
            .unwrap();
        let (commands, commanded) = mpsc::channel(ROOM);
        let (asking, asked) = mpsc::channel(ROOM);
        let (telling, peers) = watch::channel(Peers::default());
        let works = Works {
            swarm,
            asking,
            telling,
            answers: HashMap::new(),
        };
        Self {
            keypair,
            address,
            commands,
            asked,
            peers,
            control,
            streams,
            task: tokio::spawn(works.run(commanded)),
        }
    }

    pub fn id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    /// From now on it speaks wire 0.2, as whoever connects later hears.
    pub fn calls(&mut self) -> Calls {
        let protocol = StreamProtocol::new(JOBS_PROTOCOL);
        Calls(self.control.accept(protocol).unwrap())
    }

    fn tell(&self, command: Command) {
        assert!(
            self.commands.try_send(command).is_ok(),
            "the old node works"
        );
    }

    pub fn dial(&self, address: Multiaddr) {
        self.tell(Command::Dial(address));
    }

    /// Waits until a peer is connected, and listens to heartbeats.
    pub async fn meet(&mut self, peer: PeerId) {
        let listens = self
            .peers
            .wait_for(|peers| peers.subscribed.contains(&peer));
        drop(within("a subscription", listens).await.unwrap());
    }

    /// Dials a node that was restarted, once its old connection is gone.
    pub async fn meet_again(&mut self, node: &RunningNode) {
        let peer = node.peer_id();
        let gone = self.peers.wait_for(|peers| peers.gone.contains(&peer));
        drop(within("the end of a connection", gone).await.unwrap());
        self.dial(node.listen_addresses().await.remove(0));
        self.meet(peer).await;
    }

    /// Announces one offer, once this peer listens.
    pub async fn offer(&mut self, to: PeerId, name: &str, payload: &str) {
        self.meet(to).await;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = UnixSeconds(now.unwrap().as_secs());
        let offer = AnnouncedOffer {
            protocol_payload: payload.into(),
        };
        let offers = BTreeMap::from([(OfferId::new(name).unwrap(), offer)]);
        let announcement = Announcement {
            name: Some("old".into()),
            offers: BTreeMap::from([(ProtocolId::new(PROTOCOL).unwrap(), offers)]),
            updated_at: now,
            ..Announcement::default()
        };
        let heartbeat = Heartbeat {
            provider: Some(announcement),
            timestamp: now,
        };
        self.tell(Command::Publish(heartbeat.encode()));
    }

    /// The next request of a peer.
    pub async fn asked(&mut self) -> Asked {
        within("a request", self.asked.recv()).await.unwrap()
    }

    pub fn answer(&self, channel: ResponseChannel<Response>, response: Response) {
        self.tell(Command::Answer(channel, response));
    }

    pub async fn ask(&self, peer: PeerId, request: Request) -> Response {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Ask(peer, Box::new(request), reply));
        within("an answer", answer).await.unwrap()
    }

    /// Asks to be connected to a job.
    pub async fn connect(
        &mut self,
        peer: PeerId,
        provider_job_id: JobId,
    ) -> (JobConnectionResult, Pipe) {
        let protocol = StreamProtocol::new(STREAM_PROTOCOL);
        let opened = within("a stream", self.control.open_stream(peer, protocol)).await;
        let mut pipe = opened.unwrap().compat();
        let head = HeadRequest::JobConnection { provider_job_id };
        pipe.write_all(&head.encode()).await.unwrap();
        pipe.flush().await.unwrap();
        let head = within("a head", read_frame(&mut pipe)).await;
        let HeadResponse::JobConnection(result) = HeadResponse::decode(&head).unwrap();
        (result, pipe)
    }

    /// The next connection to a job, which is answered so.
    pub async fn connected(&mut self, answer: JobConnectionResult) -> (PeerId, JobId, Pipe) {
        let (peer, stream) = within("a job stream", self.streams.next()).await.unwrap();
        let mut pipe = stream.compat();
        let head = within("a head", read_frame(&mut pipe)).await;
        let HeadRequest::JobConnection { provider_job_id } = HeadRequest::decode(&head).unwrap();
        let head = HeadResponse::JobConnection(answer).encode();
        pipe.write_all(&head).await.unwrap();
        pipe.flush().await.unwrap();
        (peer, provider_job_id, pipe)
    }
}

async fn read_frame(pipe: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let length = pipe.read_u32().await.unwrap();
    let mut body = vec![0; usize::try_from(length).unwrap()];
    pipe.read_exact(&mut body).await.unwrap();
    body
}

struct Works {
    swarm: Swarm<Behaviour>,
    asking: mpsc::Sender<Asked>,
    telling: watch::Sender<Peers>,
    answers: HashMap<OutboundRequestId, oneshot::Sender<Response>>,
}

impl Works {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            // One thing at a time: neither is lost when the other comes.
            tokio::select! {
                event = self.swarm.select_next_some() => match event {
                    SwarmEvent::Behaviour(event) => self.look(event),
                    SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => self.left(peer_id),
                    _ => {}
                },
                command = commands.recv() => {
                    let Some(command) = command else { return };
                    self.obey(command);
                }
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let behaviour = self.swarm.behaviour_mut();
        match command {
            Command::Dial(address) => self.swarm.dial(address).unwrap(),
            Command::Publish(data) => {
                let topic = IdentTopic::new("heartbeat");
                behaviour.gossipsub.publish(topic, data).unwrap();
            }
            Command::Ask(peer, request, reply) => {
                let id = behaviour.reqres.send_request(&peer, *request);
                self.answers.insert(id, reply);
            }
            // Whoever asked may have gone.
            Command::Answer(channel, response) => {
                let _ = behaviour.reqres.send_response(channel, response);
            }
        }
    }

    fn left(&self, peer: PeerId) {
        self.telling.send_modify(|peers| {
            peers.subscribed.retain(|known| *known != peer);
            peers.gone.push(peer);
        });
    }

    fn look(&mut self, event: BehaviourEvent) {
        use request_response::{Event, Message};
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, .. }) => {
                let gossipsub = &mut self.swarm.behaviour_mut().gossipsub;
                gossipsub.add_explicit_peer(&peer_id);
            }
            BehaviourEvent::Gossipsub(gossipsub::Event::Subscribed { peer_id, .. }) => {
                self.telling
                    .send_modify(|peers| peers.subscribed.push(peer_id));
            }
            BehaviourEvent::Reqres(Event::Message { peer, message, .. }) => match message {
                Message::Request {
                    request, channel, ..
                } => {
                    let asked = Asked {
                        peer,
                        request,
                        channel,
                    };
                    assert!(
                        self.asking.try_send(asked).is_ok(),
                        "a test looks at what is asked"
                    );
                }
                Message::Response {
                    request_id,
                    response,
                } => {
                    if let Some(reply) = self.answers.remove(&request_id) {
                        let _ = reply.send(response);
                    }
                }
            },
            // Its waiter sees that nobody answers.
            BehaviourEvent::Reqres(Event::OutboundFailure { request_id, .. }) => {
                self.answers.remove(&request_id);
            }
            _ => {}
        }
    }
}
