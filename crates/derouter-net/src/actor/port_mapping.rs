//! Port mappings: what routers answer, and what becomes of it.

use std::time::Instant;

use derouter_wire::rpc::network::{AddressSource, PortMappingState};
use libp2p::core::transport::ListenerId;
use libp2p::swarm::{FromSwarm, NetworkBehaviour, NewListenAddr};
use libp2p::{Multiaddr, upnp};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Actor;
use crate::limits;
use crate::reachability::mapping::{self, Event, Wanted};
use crate::reachability::place::{self, Scope};

/// How libp2p's way is told.
const UPNP: &str = "upnp";
/// The other two ways, as one that fails or not.
const PCP: &str = "pcp";

/// The task that asks for mappings.
pub(super) struct Mapper {
    wanted: watch::Sender<Wanted>,
    events: mpsc::Receiver<Event>,
    /// What it mapped last.
    mapped: Vec<Multiaddr>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Mapper {
    pub(super) fn start() -> Self {
        let (sender, wanted) = watch::channel(Wanted::default());
        let (to_actor, events) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let task = tokio::spawn(mapping::keep_mapped(wanted, to_actor, stop.clone()));
        Self {
            wanted: sender,
            events,
            mapped: Vec::new(),
            stop,
            task,
        }
    }

    /// Has the router forget the mappings, within [`limits::CLOSE`].
    pub(super) async fn stop(self) {
        self.stop.cancel();
        let _ = timeout(limits::CLOSE, self.task).await;
    }
}

impl Actor {
    /// Tells the task which ports are wanted, and takes what it found out.
    pub(super) fn map_ports(&mut self, now: Instant) {
        let Some(mapper) = &mut self.mapper else {
            return;
        };
        let round = mapper.wanted.borrow().round;
        let wanted = Wanted::of(self.swarm.listeners(), round);
        mapper.wanted.send_if_modified(|old| {
            let changed = *old != wanted;
            *old = wanted;
            changed
        });
        while let Some(Ok(event)) = self.mapper.as_mut().map(|mapper| mapper.events.try_recv()) {
            self.on_mapping(event, now);
        }
    }

    /// There may be another router now.
    pub(super) fn map_ports_again(&mut self) {
        let Some(mapper) = &self.mapper else {
            return;
        };
        mapper.wanted.send_modify(|wanted| wanted.round += 1);
        self.reach.mapping_failed.clear();
        if self.reach.mapping.state == PortMappingState::Mapped {
            return;
        }
        self.reach.mapping.state = PortMappingState::Searching;
        // libp2p looks for a router once in the life of the behaviour.
        let mut upnp = upnp::tokio::Behaviour::default();
        let listeners: Vec<Multiaddr> = self.swarm.listeners().cloned().collect();
        for addr in &listeners {
            upnp.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr {
                listener_id: ListenerId::next(),
                addr,
            }));
        }
        self.swarm.behaviour_mut().upnp = Some(upnp).into();
    }

    fn on_mapping(&mut self, event: Event, now: Instant) {
        let (protocol, addresses) = match event {
            Event::Failed(reason) => return self.on_mapping_failed(PCP, reason),
            Event::Mapped {
                protocol,
                addresses,
            } => (protocol, addresses),
        };
        self.reach.mapping_failed.remove(PCP);
        let before = match &mut self.mapper {
            Some(mapper) => std::mem::replace(&mut mapper.mapped, addresses.clone()),
            None => Vec::new(),
        };
        for gone in before.iter().filter(|old| !addresses.contains(old)) {
            self.unmapped(gone);
        }
        for address in &addresses {
            self.mapped(address, protocol, now);
        }
    }

    pub(super) fn on_upnp(&mut self, event: upnp::Event) {
        let now = Instant::now();
        match event {
            upnp::Event::NewExternalAddr { external_addr, .. } => {
                self.reach.mapping_failed.remove(UPNP);
                self.mapped(&external_addr, UPNP, now);
            }
            upnp::Event::ExpiredExternalAddr { external_addr, .. } => {
                self.unmapped(&external_addr);
            }
            upnp::Event::NonRoutableGateway => self.not_public(UPNP),
            upnp::Event::GatewayNotFound => {
                self.on_mapping_failed(UPNP, "no router answered".to_owned());
            }
        }
        self.reach.look_soon(now);
    }

    fn mapped(&mut self, address: &Multiaddr, protocol: &str, now: Instant) {
        if place::scope(address) != Some(Scope::World) {
            return self.not_public(protocol);
        }
        let text = address.to_string();
        let mapping = &mut self.reach.mapping;
        if !mapping.addresses.contains(&text) {
            tracing::info!(%address, protocol, "the router forwards a port");
            mapping.addresses.push(text);
        }
        mapping.state = PortMappingState::Mapped;
        mapping.protocol = Some(protocol.to_owned());
        mapping.error = None;
        let source = AddressSource::Mapped;
        self.reach.external.candidate(address, source, now);
        self.reach.look_soon(now);
    }

    fn unmapped(&mut self, address: &Multiaddr) {
        let text = address.to_string();
        let mapping = &mut self.reach.mapping;
        mapping.addresses.retain(|known| *known != text);
        if mapping.addresses.is_empty() && mapping.state == PortMappingState::Mapped {
            mapping.state = PortMappingState::Searching;
        }
        let source = AddressSource::Mapped;
        if let Some(action) = self.reach.external.withdraw(address, source) {
            self.do_external(action);
        }
    }

    fn not_public(&mut self, protocol: &str) {
        let mapping = &mut self.reach.mapping;
        if mapping.state != PortMappingState::Mapped {
            mapping.state = PortMappingState::NotPublic;
            mapping.protocol = Some(protocol.to_owned());
        }
    }

    /// Only when both ways failed there is none.
    fn on_mapping_failed(&mut self, way: &'static str, reason: String) {
        tracing::debug!(way, %reason, "the router forwards no port");
        if way == PCP {
            let gone = self
                .mapper
                .as_mut()
                .map(|mapper| std::mem::take(&mut mapper.mapped));
            for address in gone.unwrap_or_default() {
                self.unmapped(&address);
            }
        }
        self.reach.mapping_failed.insert(way);
        let mapping = &mut self.reach.mapping;
        let both = self.reach.mapping_failed.len() > 1;
        if both && mapping.state == PortMappingState::Searching {
            mapping.state = PortMappingState::Unavailable;
            mapping.error = Some(reason);
        }
    }
}
