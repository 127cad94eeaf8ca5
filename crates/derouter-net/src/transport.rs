//! The transports of wire 0.1 (TCP with noise and yamux, QUIC v1, DNS, relayed) and the swarm on
//! top of them.

use std::num::NonZeroU8;

use libp2p::core::upgrade::Version;
use libp2p::{Swarm, SwarmBuilder, noise, tcp, yamux};

use crate::behaviour::{Behaviour, BehaviourParts};
use crate::error::StartError;
use crate::limits;

pub(crate) use crate::dial_error::{dial_error_text, innermost};

/// Addresses of one peer that are dialled at the same time.
const CONCURRENT_ADDRESSES: NonZeroU8 = NonZeroU8::MAX;

fn yamux_config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(limits::YAMUX_STREAMS);
    config
}

/// Builds the swarm. Needs a tokio runtime.
pub(crate) fn build_swarm(parts: BehaviourParts) -> Result<Swarm<Behaviour>, StartError> {
    let setup = |error: &dyn std::fmt::Display| StartError::Setup(error.to_string());
    let keypair = parts.keypair.clone();
    let builder = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(
            tcp::Config::new().nodelay(true),
            noise::Config::new,
            yamux_config,
        )
        .map_err(|error| setup(&error))?
        .with_quic_config(|mut config| {
            config.max_concurrent_stream_limit = limits::QUIC_STREAMS;
            config.handshake_timeout = limits::DIAL_DEADLINE;
            // A QUIC connection without any packet for this long is closed; keep-alives go
            // every 5 s, so only a dead or cut-off peer gets there.
            config.max_idle_timeout = 30_000;
            config
        })
        .with_dns()
        .map_err(StartError::Dns)?
        .with_relay_client(noise::Config::new, yamux_config)
        .map_err(|error| setup(&error))?;
    let swarm = builder
        .with_behaviour(|_keypair, relay_client| Behaviour::new(parts, relay_client))
        .map_err(|error| setup(&error))?
        .with_swarm_config(|config| {
            config
                .with_idle_connection_timeout(limits::IDLE_CONNECTION)
                .with_max_negotiating_inbound_streams(limits::INBOUND_NEGOTIATING)
                .with_dial_concurrency_factor(CONCURRENT_ADDRESSES)
                // Where one protocol is proposed, the first bytes go with the proposal: a request
                // and a job stream cost one round trip in place of two. Same bytes on the wire.
                .with_substream_upgrade_protocol_override(Version::V1Lazy)
        })
        .with_connection_timeout(limits::DIAL_DEADLINE)
        .build();
    Ok(swarm)
}
