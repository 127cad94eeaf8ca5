//! The transports of wire 0.1 (TCP with noise and yamux, QUIC v1, DNS, relayed) and the swarm on
//! top of them.

mod coalesced;
mod limiter;
mod meter;
mod metered;
mod mux;
mod routed;

use std::hint::black_box;
use std::num::NonZeroU8;
use std::sync::{Arc, Once};

use futures::io::BufReader;
use libp2p::core::Transport;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox};
use libp2p::core::transport::Boxed;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::upgrade::Version;
use libp2p::{PeerId, Swarm, dns, noise, quic, relay, swarm, tcp};

use crate::behaviour::{Behaviour, BehaviourParts};
use crate::error::StartError;
use crate::limits;
pub use meter::Traffic;
pub(crate) use meter::{ConnectionMeter, Meters, NodeMeter};
use metered::Metered;
use mux::Yamux;
use routed::Routed;

pub(crate) use crate::dial_error::{dial_error_text, innermost, reservation_error_text};

/// Addresses of one peer that are dialled at the same time.
const CONCURRENT_ADDRESSES: NonZeroU8 = NonZeroU8::MAX;

/// A connection, and the meter of its substreams.
type Connected = (PeerId, Arc<ConnectionMeter>, StreamMuxerBox);

/// Builds the swarm. Needs a tokio runtime.
pub(crate) fn build_swarm(parts: BehaviourParts) -> Result<Swarm<Behaviour>, StartError> {
    keep_heap();
    let setup = |error: &dyn std::fmt::Display| StartError::Setup(error.to_string());
    let peer = parts.keypair.public().to_peer_id();
    let (transport, relay_client) = transport(&parts)?;
    let behaviour = Behaviour::new(parts, relay_client).map_err(|error| setup(&error))?;
    let config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(limits::IDLE_CONNECTION)
        .with_max_negotiating_inbound_streams(limits::INBOUND_NEGOTIATING)
        .with_dial_concurrency_factor(CONCURRENT_ADDRESSES)
        // Where one protocol is proposed, the first bytes go with the proposal: a request
        // and a job stream cost one round trip in place of two. Same bytes on the wire.
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    Ok(Swarm::new(transport, behaviour, peer, config))
}

/// Has glibc keep [`limits::KEPT_HEAP_BYTES`] of freed memory. Noise and yamux allocate a buffer for each
/// frame, and glibc gives 128 KiB back to the system at once, to be mapped and zeroed again for the next.
/// It adapts to what it is asked for: where it frees a mapped block, it keeps twice as much from then on
/// (mallopt(3)). The block is never touched. Other allocators have ways of their own.
fn keep_heap() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        drop(black_box(Vec::<u8>::with_capacity(
            limits::KEPT_HEAP_BYTES / 2,
        )));
    });
}

/// Relayed, or by TCP or QUIC to an address that may be a DNS name.
fn transport(
    parts: &BehaviourParts,
) -> Result<(Boxed<(PeerId, StreamMuxerBox)>, relay::client::Behaviour), StartError> {
    let noise = noise::Config::new(&parts.keypair);
    let noise = noise.map_err(|error| StartError::Setup(error.to_string()))?;

    let meters = parts.meters.clone();
    let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .map(|stream, _| BufReader::with_capacity(limits::TCP_READ_BYTES, stream))
        .upgrade(Version::V1Lazy)
        .authenticate(noise.clone())
        .multiplex(Yamux::new())
        .map(move |(peer, muxer), _| metered(peer, muxer, &meters));

    let meters = parts.meters.clone();
    let quic = Routed(quic::tokio::Transport::new(quic_config(parts)))
        .map(move |(peer, muxer), _| metered(peer, muxer, &meters));

    let direct = quic.or_transport(tcp).map(|either, _| either.into_inner());
    let direct = dns::tokio::Transport::system(direct).map_err(StartError::Dns)?;

    let meters = parts.meters.clone();
    let (relayed, relay_client) = relay::client::new(parts.keypair.public().to_peer_id());
    let relayed = relayed
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(Yamux::new())
        .map(move |(peer, muxer), _| metered(peer, muxer, &meters));

    let meters = parts.meters.clone();
    let all = relayed
        .or_transport(direct)
        .map(move |connected, endpoint| {
            let (peer, meter, muxer) = connected.into_inner();
            meters.offer(peer, endpoint.get_remote_address().clone(), &meter);
            (peer, muxer)
        });
    let all = TransportTimeout::new(all, limits::DIAL_DEADLINE).boxed();
    Ok((all, relay_client))
}

fn metered<M>(peer: PeerId, muxer: M, meters: &Meters) -> Connected
where
    M: StreamMuxer + Unpin + Send + 'static,
    M::Substream: Unpin + Send + 'static,
    M::Error: Send + Sync + 'static,
{
    let meter = meters.start();
    let muxer = StreamMuxerBox::new(Metered::new(muxer, meter.clone()));
    (peer, meter, muxer)
}

fn quic_config(parts: &BehaviourParts) -> quic::Config {
    let mut config = quic::Config::new(&parts.keypair);
    config.max_concurrent_stream_limit = limits::QUIC_STREAMS;
    config.handshake_timeout = limits::DIAL_DEADLINE;
    config.max_stream_data = limits::QUIC_STREAM_WINDOW;
    config.max_connection_data = limits::QUIC_CONNECTION_WINDOW;
    // A QUIC connection without any packet for this long is closed; keep-alives go
    // every 5 s, so only a dead or cut-off peer gets there.
    config.max_idle_timeout = 30_000;
    config
}
