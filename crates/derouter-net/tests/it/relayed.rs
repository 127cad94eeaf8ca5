//! A node that is only reached through another node of ours that relays.

use derouter_net::{Keypair, NetConfig, PeerEvent};
use derouter_wire::JobId;
use libp2p::multiaddr::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

#[tokio::test]
async fn a_job_stream_goes_through_a_relay_and_carries_more_than_libp2ps_default_limit() {
    const BYTES: usize = 3 * 1024 * 1024;
    let mut relay_config = config(TCP);
    relay_config.options.relay_server = Some(derouter_net::RelayLimits::default());
    let relay = node_with(relay_config).await;
    let circuit = relay.address().await.with(Protocol::P2pCircuit);

    let mut hidden = NetConfig::new(Keypair::generate_ed25519());
    hidden.options.listen = vec![circuit.clone()];
    let mut hidden = node_with(hidden).await;
    let net = hidden.net.clone();
    until(async || !net.listen_addresses().await.is_empty()).await;

    let mut consumer = node(TCP).await;
    let address = circuit.with_p2p(hidden.id()).unwrap();
    consumer.net.dial(address).await.unwrap();
    let mut connected = Vec::new();
    while !connected.contains(&PeerEvent::Connected(hidden.id())) {
        connected.push(soon(consumer.events.peers.recv()).await.unwrap());
    }
    let peers = consumer.net.peers().await;
    let info = peers.iter().find(|info| info.peer == hidden.id()).unwrap();
    assert!(info.connections[0].relayed);

    let (opened, accepted) = soon(async {
        tokio::join!(
            consumer
                .net
                .open_job_stream(hidden.id(), JobId::new("job").unwrap()),
            async {
                let inbound = hidden.events.streams.recv().await.unwrap();
                inbound.accept().await.unwrap()
            }
        )
    })
    .await;
    let (mut near, mut far) = (opened.unwrap(), accepted);
    let mut received = Vec::new();
    let (sent, got) = soon(async {
        tokio::join!(
            async {
                far.write_all(&vec![7; BYTES]).await?;
                far.shutdown().await
            },
            near.read_to_end(&mut received)
        )
    })
    .await;
    sent.unwrap();
    got.unwrap();
    assert_eq!(received.len(), BYTES);
}

#[tokio::test]
async fn a_job_stream_takes_the_direct_connection_although_the_relayed_one_is_older() {
    let mut relay_config = config(TCP);
    relay_config.options.relay_server = Some(derouter_net::RelayLimits::default());
    let relay = node_with(relay_config).await;
    let circuit = relay.address().await.with(Protocol::P2pCircuit);
    let mut provider = config(TCP);
    provider.options.listen.push(circuit.clone());
    let mut provider = node_with(provider).await;
    let net = provider.net.clone();
    until(async || net.listen_addresses().await.len() > 1).await;
    let addresses = net.listen_addresses().await;
    let is_direct = |address: &&derouter_net::Multiaddr| {
        !address.iter().any(|part| part == Protocol::P2pCircuit)
    };
    let direct = addresses.iter().find(is_direct).unwrap().clone();

    let consumer = node(TCP).await;
    let relayed = circuit.with_p2p(provider.id()).unwrap();
    consumer.net.dial(relayed).await.unwrap();
    let direct = direct.with_p2p(provider.id()).unwrap();
    consumer.net.dial(direct).await.unwrap();
    let (opened, accepted) = tokio::join!(
        consumer
            .net
            .open_job_stream(provider.id(), JobId::new("job").unwrap()),
        async {
            let inbound = soon(provider.events.streams.recv()).await.unwrap();
            inbound.accept().await.unwrap()
        }
    );
    let (mut near, mut far) = (opened.unwrap(), accepted);
    // Without the relay only the direct connection is left.
    relay.net.shutdown().await;
    until(async || {
        let peers = consumer.net.peers().await;
        let left = peers.iter().find(|info| info.peer == provider.id());
        peers.len() == 1 && left.unwrap().connections.iter().all(|one| !one.relayed)
    })
    .await;
    far.write_all(b"direct").await.unwrap();
    far.shutdown().await.unwrap();
    let mut received = Vec::new();
    soon(near.read_to_end(&mut received)).await.unwrap();
    assert_eq!(received, b"direct");
}
