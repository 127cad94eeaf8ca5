//! What the node tells of its network.

use std::time::Duration;

use derouter_sdk::{NodeError, PeerId, PeerQuery, PingError};
use derouter_wire::cbor::{InvalidPeerId, PeerIdArg};
use derouter_wire::limits::{ADDRESS_BYTES, RPC_PING_MILLISECONDS, RPC_QUERY_ITEMS};
use derouter_wire::rpc::module::{QueryModules, QueryModulesReply};
use derouter_wire::rpc::request::*;

use super::{Failure, Session};
use crate::rpc::fitting::{LIST_BYTES, first_that_fit};

impl Session {
    pub(super) async fn query_network(
        &self,
        _: QueryNetwork,
    ) -> Result<QueryNetworkReply, Failure> {
        let report = self.node.network().await?;
        Ok(QueryNetworkReply::Ok(Box::new(report)))
    }

    pub(super) async fn query_modules(
        &self,
        query: QueryModules,
    ) -> Result<QueryModulesReply, Failure> {
        let mut modules = self.node.modules(query.state).await?;
        // All are told of; what they tell of themselves may be much.
        let mut room = LIST_BYTES / 2;
        for module in &mut modules {
            let length = module.state.as_ref().map_or(0, String::len);
            match room.checked_sub(length) {
                Some(left) => room = left,
                None => module.state = None,
            }
        }
        Ok(QueryModulesReply::Ok(first_that_fit(modules, LIST_BYTES)))
    }

    pub(super) async fn query_peers(&self, query: QueryPeers) -> Result<QueryPeersReply, Failure> {
        let limit = u32::try_from(query.limit).unwrap_or(u32::MAX);
        if limit == 0 || usize::try_from(limit).is_ok_and(|limit| limit > RPC_QUERY_ITEMS) {
            return Ok(QueryPeersReply::InvalidLimit);
        }
        let (after, peer) = match (
            id(query.peer_id_cursor.as_ref()),
            id(query.peer_id.as_ref()),
        ) {
            (Ok(after), Ok(peer)) => (after, peer),
            (Err(InvalidPeerId(text)), _) | (_, Err(InvalidPeerId(text))) => {
                return Ok(QueryPeersReply::InvalidPeerId(text));
            }
        };
        let query = PeerQuery {
            after,
            peer,
            connected_only: query.connected_only,
            limit,
        };
        let peers = self.node.peers(&query).await?;
        // Pages go by cursor: the peers that are left out come with the next one.
        Ok(QueryPeersReply::Ok(first_that_fit(peers, LIST_BYTES)))
    }

    pub(super) async fn ping_peer(&self, request: PingPeer) -> Result<PingPeerReply, Failure> {
        let peer = match request.peer_id.get() {
            Ok(peer) => peer,
            Err(InvalidPeerId(text)) => return Ok(PingPeerReply::InvalidPeerId(text)),
        };
        if !(1..=RPC_PING_MILLISECONDS).contains(&request.timeout_ms) {
            return Ok(PingPeerReply::InvalidTimeout);
        }
        let too_long = |address: &String| address.len() > ADDRESS_BYTES;
        if let Some(address) = request.address.as_ref().filter(|address| too_long(address)) {
            let shown = address.chars().take(100).collect();
            return Ok(PingPeerReply::InvalidAddress(shown));
        }
        let timeout = Duration::from_millis(request.timeout_ms);
        let address = request.address.clone();
        match self.node.ping(peer, request.address, timeout).await {
            Ok(report) => Ok(PingPeerReply::Ok(Box::new(report))),
            Err(PingError::Timeout) => Ok(PingPeerReply::Timeout),
            // Everything else was checked above.
            Err(PingError::Node(NodeError::Invalid(_))) => {
                Ok(PingPeerReply::InvalidAddress(address.unwrap_or_default()))
            }
            Err(PingError::Node(error)) => Err(error.into()),
            Err(PingError::Unreachable(reason)) => Ok(PingPeerReply::Unreachable(reason)),
            Err(other) => Ok(PingPeerReply::Unreachable(other.to_string())),
        }
    }
}

fn id(given: Option<&PeerIdArg>) -> Result<Option<PeerId>, InvalidPeerId> {
    given.map(PeerIdArg::get).transpose()
}
