//! Peers of version 0.1.0: plain gossipsub with explicit peers, libp2p's CBOR request-response.

use std::time::Duration;

use derouter_net::Multiaddr;
use derouter_wire::cbor::Bytes;
use derouter_wire::gossip::Heartbeat;
use derouter_wire::jobs::{CreateJob, JOBS_PROTOCOL, JobCall};
use derouter_wire::reqres::{CreateJobResult, GetJobResult, Request, Response};
use derouter_wire::stream::STREAM_PROTOCOL;
use derouter_wire::{Currency, JobId, OfferId, ProtocolId, UnixSeconds};
use libp2p::StreamProtocol;

use crate::raw_peer::{RawPeer, Seen};
use crate::support::*;

fn get_job() -> Request {
    Request::GetJob {
        provider_job_id: JobId::new("job").unwrap(),
    }
}

#[tokio::test]
async fn heartbeats_go_both_ways_between_us_and_a_0_1_peer() {
    let mut node = node(TCP).await;
    let mut old = RawPeer::version_0_1();
    old.join(node.address().await).await;
    let net = node.net.clone();
    tokio::select! {
        () = old.run() => {}
        () = until(async || net.peers().await[0].version_0_1 == Some(true)) => {}
    }
    node.net.announce(Some(announcement("ours", 1))).await;
    let ours = loop {
        if let Seen::Message(_, data) = old.next().await {
            break Heartbeat::decode(&data).unwrap();
        }
    };
    assert_eq!(payload(&ours.provider.unwrap()), Some("ours"));
    let theirs = Heartbeat {
        provider: Some(announcement("theirs", 1)),
        timestamp: UnixSeconds(unix_now()),
    };
    old.publish(theirs.encode());
    let received = tokio::select! {
        () = old.run() => unreachable!(),
        received = soon(node.events.heartbeats.recv()) => received.unwrap(),
    };
    assert_eq!(received.heartbeat, theirs);
    assert_eq!(received.source, old.id());
}

#[tokio::test]
async fn every_one_of_many_0_1_peers_gets_every_heartbeat() {
    // More than a mesh would hold: only explicit peers are sure to be sent to.
    let node = node(TCP).await;
    let mut peers = Vec::new();
    for _ in 0..14 {
        let mut old = RawPeer::version_0_1();
        old.join(node.address().await).await;
        peers.push(old);
    }
    let all_known = async || {
        let infos = node.net.peers().await;
        infos.len() == 14 && infos.iter().all(|info| info.version_0_1 == Some(true))
    };
    let run_all = async {
        let runs = peers.iter_mut().map(|peer| peer.run());
        futures::future::join_all(runs).await;
    };
    tokio::select! {
        () = run_all => {}
        () = until(all_known) => {}
    }
    node.net.announce(Some(announcement("ours", 1))).await;
    for peer in &mut peers {
        while !matches!(peer.next().await, Seen::Message(..)) {}
    }
}

#[tokio::test]
async fn a_0_1_peer_asks_and_is_answered() {
    let mut node = node(TCP).await;
    let mut old = RawPeer::version_0_1();
    old.join(node.address().await).await;
    let peer = node.id();
    old.swarm
        .behaviour_mut()
        .reqres
        .send_request(&peer, get_job());
    let serve = async {
        let inbound = soon(node.events.requests.recv()).await.unwrap();
        assert_eq!(inbound.request, get_job());
        assert!(
            inbound
                .reply
                .send(Response::GetJob(GetJobResult::JobNotFound))
        );
    };
    let ask = async {
        loop {
            match old.next().await {
                Seen::Response(response) => break response,
                Seen::RequestFailed(reason) => panic!("{reason}"),
                _ => {}
            }
        }
    };
    let ((), response) = tokio::join!(serve, ask);
    assert_eq!(response, Response::GetJob(GetJobResult::JobNotFound));
}

#[tokio::test]
async fn a_0_1_peer_answers_what_we_ask() {
    let node = node(TCP).await;
    let mut old = RawPeer::version_0_1();
    let address = old.listen().await;
    node.net.add_address(old.id(), address).await;
    let id = old.id();
    let serve = async {
        loop {
            if let Seen::Request(request, channel) = old.next().await {
                assert_eq!(request, get_job());
                // The wrong kind, to see that it is told apart.
                let response = Response::CreateJob(CreateJobResult::Busy);
                let reqres = &mut old.swarm.behaviour_mut().reqres;
                reqres.send_response(channel, response).unwrap();
                break;
            }
        }
        old.run().await;
    };
    let answer = tokio::select! {
        () = serve => unreachable!(),
        answer = node.net.request(id, get_job()) => answer,
    };
    assert!(
        matches!(answer, Err(derouter_net::RequestError::InvalidResponse(_))),
        "{answer:?}"
    );
    let job = JobId::new("job").unwrap();
    let unsupported = tokio::select! {
        () = old.run() => unreachable!(),
        opened = node.net.open_job_stream(id, job) => opened.unwrap_err(),
    };
    let expected = derouter_net::OpenStreamError::Unsupported(STREAM_PROTOCOL);
    assert_eq!(unsupported, expected);
}

#[tokio::test]
async fn a_0_1_peer_that_is_dialled_for_a_large_job_is_found_to_be_one() {
    let node = node(TCP).await;
    let mut old = RawPeer::version_0_1();
    let address = old.listen().await;
    let id = old.id();
    node.net.add_address(id, address).await;
    // More than a substream's window: the refusal comes while this is sent.
    let args = "x".repeat(900 * 1024);
    let call = JobCall::Create(CreateJob {
        job_id: JobId::new("job").unwrap(),
        protocol_id: ProtocolId::new("p").unwrap(),
        offer_id: OfferId::new("o").unwrap(),
        offer_payload_sha256: Bytes(vec![0; 32]),
        currency: Currency::Pol,
        args_bytes: Some(u32::try_from(args.len()).unwrap()),
    });
    let answer = tokio::select! {
        () = old.run() => unreachable!(),
        answer = node.net.call_job(id, &call, Some(&args)) => answer.map(drop),
    };
    let expected = derouter_net::RequestError::Unsupported(JOBS_PROTOCOL);
    assert_eq!(answer.unwrap_err(), expected);
}

/// A peer that holds job streams open without a word, for as long as the handle lives.
pub(crate) struct Silent(tokio::task::JoinHandle<()>);

impl Drop for Silent {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) async fn open_and_say_nothing(address: Multiaddr, count: usize) -> Silent {
    silent::open(address, StreamProtocol::new(STREAM_PROTOCOL), count).await
}

mod silent {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::task::{Context, Poll};

    use futures::StreamExt;
    use libp2p::core::upgrade::{DeniedUpgrade, ReadyUpgrade};
    use libp2p::swarm::handler::ConnectionEvent;
    use libp2p::swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, SubstreamProtocol, SwarmEvent, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    };
    use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, SwarmBuilder, noise, tcp, yamux};

    use super::Silent;
    use crate::support::soon;

    struct Behaviour {
        protocol: StreamProtocol,
        count: usize,
        opened: VecDeque<()>,
    }

    pub(super) struct Handler {
        protocol: StreamProtocol,
        to_open: usize,
        started: usize,
        /// The latest; more than our muxer has room for would end the connection.
        held: VecDeque<Stream>,
        opened: usize,
        told: usize,
    }

    const HELD: usize = 300;
    const NEGOTIATING: usize = 100;

    impl ConnectionHandler for Handler {
        type FromBehaviour = Infallible;
        type ToBehaviour = ();
        type InboundProtocol = DeniedUpgrade;
        type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
        type InboundOpenInfo = ();
        type OutboundOpenInfo = ();

        fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade> {
            SubstreamProtocol::new(DeniedUpgrade, ())
        }

        fn poll(
            &mut self,
            _cx: &mut Context<'_>,
        ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), ()>> {
            if self.to_open > 0 && self.started - self.opened < NEGOTIATING {
                self.to_open -= 1;
                self.started += 1;
                let protocol = SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ());
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
            if self.told < self.opened {
                self.told += 1;
                return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(()));
            }
            Poll::Pending
        }

        fn on_behaviour_event(&mut self, event: Infallible) {
            match event {}
        }

        fn on_connection_event(
            &mut self,
            event: ConnectionEvent<'_, DeniedUpgrade, Self::OutboundProtocol>,
        ) {
            if let ConnectionEvent::FullyNegotiatedOutbound(opened) = event {
                self.opened += 1;
                self.held.push_back(opened.protocol);
                if self.held.len() > HELD {
                    self.held.pop_front();
                }
            }
        }
    }

    impl NetworkBehaviour for Behaviour {
        type ConnectionHandler = Handler;
        type ToSwarm = ();

        fn handle_established_inbound_connection(
            &mut self,
            _: ConnectionId,
            _: PeerId,
            _: &Multiaddr,
            _: &Multiaddr,
        ) -> Result<THandler<Self>, ConnectionDenied> {
            Err(ConnectionDenied::new("only dials"))
        }

        fn handle_established_outbound_connection(
            &mut self,
            _: ConnectionId,
            _: PeerId,
            _: &Multiaddr,
            _: libp2p::core::Endpoint,
            _: libp2p::core::transport::PortUse,
        ) -> Result<THandler<Self>, ConnectionDenied> {
            Ok(Handler {
                protocol: self.protocol.clone(),
                to_open: self.count,
                started: 0,
                held: VecDeque::new(),
                opened: 0,
                told: 0,
            })
        }

        fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

        fn on_connection_handler_event(
            &mut self,
            _: PeerId,
            _: ConnectionId,
            (): THandlerOutEvent<Self>,
        ) {
            self.opened.push_back(());
        }

        fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<(), THandlerInEvent<Self>>> {
            match self.opened.pop_front() {
                Some(()) => Poll::Ready(ToSwarm::GenerateEvent(())),
                None => Poll::Pending,
            }
        }
    }

    pub(super) async fn open(address: Multiaddr, protocol: StreamProtocol, count: usize) -> Silent {
        let behaviour = Behaviour {
            protocol,
            count,
            opened: VecDeque::new(),
        };
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(
                tcp::Config::default(),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(|_| behaviour)
            .unwrap()
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(super::Duration::from_secs(60))
            })
            .build();
        swarm.dial(address).unwrap();
        let mut opened = 0;
        while opened < count {
            if let SwarmEvent::Behaviour(()) = soon(swarm.select_next_some()).await {
                opened += 1;
            }
        }
        Silent(tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        }))
    }
}
