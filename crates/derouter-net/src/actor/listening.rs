//! Listening at the start.

use std::time::Instant;

use futures::StreamExt;
use libp2p::Multiaddr;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::SwarmEvent;
use tokio::time::timeout;

use super::Actor;
use crate::behaviour::BehaviourEvent;
use crate::error::StartError;
use crate::limits;
use crate::listen_ports::{choose, is_free, port, with_port};
use crate::reachability::place;

/// Listeners that have not told their port yet, and what each was to listen on.
type Silent = Vec<(ListenerId, Multiaddr)>;

impl Actor {
    /// Listens on the configured addresses, and waits until their real ports are known.
    pub(crate) async fn listen(&mut self) -> Result<(), StartError> {
        self.add_configured_addresses();
        let mut silent = Silent::new();
        for configured in self.listen.clone() {
            if place::is_relayed(&configured) {
                let listener = self.swarm.listen_on(configured.clone());
                let listener = listener.map_err(|error| listen_error(&configured, &error))?;
                self.reach.relays.pin(&configured, listener, Instant::now());
                silent.push((listener, configured));
                continue;
            }
            let index = self.chosen_listen.len();
            let listener = self.listen_with_port(&configured)?;
            silent.push((listener, configured.clone()));
            // Its port decides the next one's.
            if port(&configured) == Some(0) {
                self.until_told(&mut silent, Some((listener, index)))
                    .await?;
            }
        }
        self.until_told(&mut silent, None).await
    }

    /// On the port that was chosen, or on any when that fails.
    fn listen_with_port(&mut self, configured: &Multiaddr) -> Result<ListenerId, StartError> {
        let chosen = choose(configured, &self.kept_listen, &self.chosen_listen, is_free);
        let listener = match self.swarm.listen_on(chosen.clone()) {
            Ok(listener) => {
                self.chosen_listen.push(chosen);
                return Ok(listener);
            }
            // Somebody took the port just now.
            Err(_) if chosen != *configured => self.swarm.listen_on(configured.clone()),
            Err(error) => Err(error),
        };
        self.chosen_listen.push(configured.clone());
        listener.map_err(|error| listen_error(configured, &error))
    }

    /// Waits until one listener, or all, have told where they listen; the one's port is noted.
    async fn until_told(
        &mut self,
        silent: &mut Silent,
        one: Option<(ListenerId, usize)>,
    ) -> Result<(), StartError> {
        let wait = async {
            while silent
                .iter()
                .any(|(listener, _)| one.is_none_or(|(one, _)| one == *listener))
            {
                let event = self.swarm.select_next_some().await;
                if let (
                    SwarmEvent::NewListenAddr {
                        listener_id,
                        address,
                    },
                    Some((one, index)),
                ) = (&event, one)
                    && *listener_id == one
                {
                    self.note_port(index, address);
                }
                self.on_listening(event, silent)?;
            }
            Ok(())
        };
        match timeout(limits::LISTEN_DEADLINE, wait).await {
            Ok(outcome) => outcome,
            // A relay may take longer to grant a reservation, or no interface may be up yet.
            Err(_late) => Ok(()),
        }
    }

    fn note_port(&mut self, index: usize, address: &Multiaddr) {
        let Some(chosen) = self.chosen_listen.get_mut(index) else {
            return;
        };
        if let Some(real) = port(address).and_then(|port| with_port(chosen, port)) {
            *chosen = real;
        }
    }

    fn on_listening(
        &mut self,
        event: SwarmEvent<BehaviourEvent>,
        silent: &mut Silent,
    ) -> Result<(), StartError> {
        match &event {
            SwarmEvent::NewListenAddr { listener_id, .. } => {
                silent.retain(|(listener, _)| listener != listener_id);
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                reason: Err(error),
                ..
            } => {
                let closed = silent.iter().find(|(listener, _)| listener == listener_id);
                if let Some((_, address)) = closed {
                    return Err(listen_error(address, error));
                }
            }
            _ => {}
        }
        self.on_swarm_event(event);
        Ok(())
    }

    /// The configured addresses, but those through relays, with the ports that were chosen.
    pub(crate) fn chosen_listen(&self) -> &[Multiaddr] {
        &self.chosen_listen
    }
}

fn listen_error(address: &Multiaddr, error: &dyn std::error::Error) -> StartError {
    StartError::Listen {
        address: address.clone(),
        reason: crate::transport::innermost(error),
    }
}
