//! Connections that die in silence: no FIN, no RST, nothing comes back.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use derouter_net::{Multiaddr, PeerEvent, RequestError};
use derouter_wire::JobId;
use derouter_wire::reqres::{GetJobResult, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

/// A line to a node that can be cut without either end being told.
struct Line {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
}

impl Line {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Arc::new(AtomicBool::new(false));
        let cuts = Arc::clone(&cut);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if cuts.load(Ordering::SeqCst) {
                    continue;
                }
                let far = TcpStream::connect(target).await.unwrap();
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                tokio::spawn(carry(near_in, far_out, Arc::clone(&cuts)));
                tokio::spawn(carry(far_in, near_out, Arc::clone(&cuts)));
            }
        });
        Self { address, cut }
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }
}

/// Swallows all once the line is cut, and holds both ends open.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cut: Arc<AtomicBool>) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if !cut.load(Ordering::SeqCst) && to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

fn tcp(socket: SocketAddr) -> Multiaddr {
    format!("/ip4/{}/tcp/{}", socket.ip(), socket.port())
        .parse()
        .unwrap()
}

fn get_job() -> Request {
    Request::GetJob {
        provider_job_id: JobId::new("job").unwrap(),
    }
}

/// Answers all requests; gives the node's address.
async fn serving(provider: Node) -> SocketAddr {
    let address = provider.net.listen_addresses().await[0].to_string();
    let port = address.rsplit('/').next().unwrap().parse().unwrap();
    tokio::spawn(async move {
        // Whole, as the node ends with its last handle.
        let Node {
            net: _net,
            mut events,
        } = provider;
        while let Some(request) = events.requests.recv().await {
            let _ = request
                .reply
                .send(Response::GetJob(GetJobResult::JobNotFound));
        }
    });
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[tokio::test]
async fn a_request_on_a_dead_connection_ends_before_its_deadline_and_the_next_one_dials() {
    let consumer = node(TCP).await;
    let provider = node(TCP).await;
    let peer = provider.id();
    let target = serving(provider).await;
    let line = Line::to(target).await;
    let through = tcp(line.address).with_p2p(peer).unwrap();
    consumer.net.dial(through).await.unwrap();
    consumer.net.add_address(peer, tcp(target)).await;
    assert!(consumer.net.request(peer, get_job()).await.is_ok());
    line.cut();
    let error = consumer.net.request(peer, get_job()).await.unwrap_err();
    assert!(
        matches!(error, RequestError::Closed(_)),
        "not found out before the deadline: {error:?}"
    );
    assert!(consumer.net.request(peer, get_job()).await.is_ok());
}

#[tokio::test]
async fn a_connection_that_dies_while_nobody_uses_it_is_closed_by_both_ends() {
    let mut consumer = node(TCP).await;
    let mut provider = node(TCP).await;
    let (consumer_id, provider_id) = (consumer.id(), provider.id());
    let address = provider.net.listen_addresses().await[0].to_string();
    let port: u16 = address.rsplit('/').next().unwrap().parse().unwrap();
    let line = Line::to(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
    let through = tcp(line.address).with_p2p(provider_id).unwrap();
    consumer.net.dial(through).await.unwrap();
    for (node, other) in [(&mut consumer, provider_id), (&mut provider, consumer_id)] {
        let event = soon(node.events.peers.recv()).await;
        assert_eq!(event, Some(PeerEvent::Connected(other)));
    }
    line.cut();
    // Longer than all that is waited for; without a look at it, libp2p's ping takes 50 s.
    let limit = std::time::Duration::from_secs(45);
    for (node, other) in [(&mut consumer, provider_id), (&mut provider, consumer_id)] {
        let event = within(limit, node.events.peers.recv()).await;
        assert_eq!(event, Some(PeerEvent::Disconnected(other)));
    }
}

#[tokio::test]
async fn an_answer_that_takes_long_over_a_living_connection_comes() {
    let (consumer, mut provider) = pair(TCP).await;
    let peer = provider.id();
    let asked = consumer.net.request(peer, get_job());
    let slow = async {
        let request = soon(provider.events.requests.recv()).await.unwrap();
        // Longer than the time in which a connection that is looked at must answer.
        tokio::time::sleep(std::time::Duration::from_secs(7)).await;
        assert!(
            request
                .reply
                .send(Response::GetJob(GetJobResult::JobNotFound))
        );
    };
    let (answer, ()) = tokio::join!(asked, slow);
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(consumer.net.peers().await[0].connections.len(), 1);
}
