//! Measuring job streams against raw TCP: the same bytes between the same two processes, over plain
//! sockets and over job streams on TCP (noise, yamux) and QUIC, interleaved in one run.

pub mod client;
pub mod report;
pub mod server;
pub mod transfer;

use std::net::{IpAddr, SocketAddr};

use derouter_net::{Keypair, Multiaddr, NetConfig, PeerId};
use serde::{Deserialize, Serialize};

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Plain sockets, one for each stream.
    Raw,
    /// Job streams on TCP, noise and yamux.
    Tcp,
    /// Job streams on QUIC.
    Quic,
}

impl Route {
    /// In the order of the tables.
    pub const ALL: [Route; 3] = [Route::Raw, Route::Tcp, Route::Quic];

    /// As the tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Route::Raw => "raw TCP",
            Route::Tcp => "job stream, TCP",
            Route::Quic => "job stream, QUIC",
        }
    }
}

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the server.
    Up,
    /// From the server.
    Down,
}

/// Where the server is reached; it prints this as one line of JSON once it serves.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Places {
    /// Plain sockets.
    pub raw: SocketAddr,
    /// Its node that listens on TCP.
    pub tcp: String,
    /// Its node that listens on QUIC.
    pub quic: String,
}

/// A node that listens on one address; none when it only dials.
pub fn node_config(listen: Option<String>) -> NetConfig {
    let mut config = NetConfig::new(Keypair::generate_ed25519());
    let parse = |address: String| address.parse().expect("an address of ours is valid");
    config.options.listen = listen.map(parse).into_iter().collect();
    config
}

/// The address of an IP, before its protocol.
fn ip_part(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("/ip4/{ip}"),
        IpAddr::V6(ip) => format!("/ip6/{ip}"),
    }
}

/// An address of [`Places`].
fn address(text: &str) -> Multiaddr {
    text.parse().expect("an address of ours is valid")
}

/// The peer that an address of [`Places`] names.
fn peer(text: &str) -> PeerId {
    let (_, peer) = text.rsplit_once('/').expect("it ends in a peer id");
    peer.parse().expect("a peer id of ours is valid")
}
