//! Measuring job streams against raw TCP: the same bytes between the same two processes, over plain
//! sockets and over job streams on TCP (noise, yamux) and QUIC, interleaved in one run. Plain sockets
//! whose bytes are sealed and opened with the cipher of noise, and nothing else, tell how much of
//! raw TCP there is to be had with encryption.

pub mod cipher;
pub mod client;
pub mod opens;
pub mod report;
pub mod server;
pub mod transfer;

use std::net::{IpAddr, SocketAddr};

use derouter_net::{Keypair, Multiaddr, Net, NetConfig, PeerId};
use serde::{Deserialize, Serialize};

/// How many there are of [`Route`].
pub const ROUTES: usize = 4;

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Plain sockets, one for each stream.
    Raw,
    /// Plain sockets, each message sealed before it is written and opened after it is read.
    Sealed,
    /// Job streams on TCP, noise and yamux.
    Tcp,
    /// Job streams on QUIC.
    Quic,
}

impl Route {
    /// In the order of the tables.
    pub const ALL: [Route; ROUTES] = [Route::Raw, Route::Sealed, Route::Tcp, Route::Quic];

    /// As the tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Route::Raw => "raw TCP",
            Route::Sealed => "raw TCP, sealed",
            Route::Tcp => "job stream, TCP",
            Route::Quic => "job stream, QUIC",
        }
    }

    fn wrapping(self) -> transfer::Wrapping {
        match self {
            Route::Sealed => transfer::Wrapping::Sealed,
            _ => transfer::Wrapping::Plain,
        }
    }
}

/// What a command begins with when its bytes go sealed.
const SEALED: &str = "sealed:";
/// The command to give back as many bytes as this has; also what is sent.
const WORD: &str = "word";
/// The commands to tell how many streams the server's nodes hold.
const HELD_TCP: &str = "held-tcp";
const HELD_QUIC: &str = "held-quic";

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
    /// The id of its process.
    pub process: u32,
}

/// A node that listens on one address; none when it only dials.
pub fn node_config(listen: Option<String>) -> NetConfig {
    let mut config = NetConfig::new(Keypair::generate_ed25519());
    let parse = |address: String| address.parse().expect("an address of ours is valid");
    config.options.listen = listen.map(parse).into_iter().collect();
    config
}

/// Requests and job streams that a node holds with all its peers.
async fn held_streams(net: &Net) -> u64 {
    let reports = net.peer_reports().await;
    let paths = reports.iter().flat_map(|report| &report.paths);
    paths.map(|path| u64::from(path.streams)).sum()
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
