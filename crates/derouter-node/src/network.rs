//! What the node tells of its network.

use std::time::Duration;

use derouter_net::{DialError, Multiaddr, Net};
use derouter_sdk::{
    NetworkReport, NodeError, PeerId, PeerQuery, PeerReport, PingError, PingReport,
};
use derouter_wire::limits::{ADDRESS_BYTES, RPC_PING_MILLISECONDS, RPC_QUERY_ITEMS};

pub(crate) async fn report(net: &Net) -> Result<NetworkReport, NodeError> {
    net.network_report().await.ok_or(NodeError::ShuttingDown)
}

pub(crate) async fn peers(net: &Net, query: &PeerQuery) -> Result<Vec<PeerReport>, NodeError> {
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    if !(1..=RPC_QUERY_ITEMS).contains(&limit) {
        let text = format!("limit must be 1 to {RPC_QUERY_ITEMS}");
        return Err(NodeError::Invalid(text));
    }
    Ok(page(net.peer_reports().await, query, limit))
}

/// The peers that a query asks for, in the order of their ids.
fn page(mut all: Vec<PeerReport>, query: &PeerQuery, limit: usize) -> Vec<PeerReport> {
    all.retain(|report| {
        query.after.is_none_or(|after| report.peer > after)
            && query.peer.is_none_or(|peer| report.peer == peer)
            && !(query.connected_only && report.paths.is_empty())
    });
    all.sort_unstable_by_key(|report| report.peer);
    all.truncate(limit);
    all
}

pub(crate) async fn ping(
    net: &Net,
    peer: PeerId,
    address: Option<String>,
    timeout: Duration,
) -> Result<PingReport, PingError> {
    let most = Duration::from_millis(RPC_PING_MILLISECONDS);
    if timeout.is_zero() || timeout > most {
        return Err(NodeError::Invalid("the timeout must be 1 ms to 60 s".into()).into());
    }
    let address = address.as_deref().map(parse).transpose()?;
    match tokio::time::timeout(timeout, net.ping(peer, address)).await {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(DialError::Timeout)) | Err(_) => Err(PingError::Timeout),
        Ok(Err(DialError::Stopped)) => Err(NodeError::ShuttingDown.into()),
        Ok(Err(error)) => Err(PingError::Unreachable(error.to_string())),
    }
}

fn parse(text: &str) -> Result<Multiaddr, NodeError> {
    if text.len() > ADDRESS_BYTES {
        return Err(NodeError::Invalid("the address is too long".into()));
    }
    let parsed = text.parse();
    parsed.map_err(|_| NodeError::Invalid(format!("not a multiaddr: {text}")))
}

#[cfg(test)]
mod tests {
    use derouter_sdk::{PathKind, PathReport};
    use derouter_wire::UnixSeconds;

    use super::*;

    fn reports(count: usize) -> Vec<PeerReport> {
        let path = PathReport {
            kind: PathKind::Lan,
            relay: None,
            address: "/ip4/127.0.0.1/tcp/1".into(),
            outbound: true,
            since: UnixSeconds(1),
            rtt_us: None,
            bytes_in: 0,
            bytes_out: 0,
            streams: 0,
        };
        let report = |number: usize| PeerReport {
            peer: PeerId::random(),
            agent: None,
            version_0_1: None,
            paths: vec![path.clone(); number % 2],
            addresses: Vec::new(),
            score: 0,
            banned_until: None,
            offence: None,
            last_connected: None,
            last_dial_error: None,
            last_dial_error_at: None,
        };
        (0..count).map(report).collect()
    }

    #[test]
    fn pages_go_through_all_peers_once_and_in_order() {
        let all = reports(25);
        let mut seen = Vec::new();
        let mut query = PeerQuery::default();
        loop {
            let page = page(all.clone(), &query, 10);
            let Some(last) = page.last() else {
                break;
            };
            query.after = Some(last.peer);
            seen.extend(page.iter().map(|report| report.peer));
        }
        let mut expected: Vec<PeerId> = all.iter().map(|report| report.peer).collect();
        expected.sort_unstable();
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_query_may_be_for_connected_peers_or_for_one() {
        let all = reports(9);
        let connected = PeerQuery {
            connected_only: true,
            ..PeerQuery::default()
        };
        assert_eq!(page(all.clone(), &connected, 100).len(), 4);
        let one = PeerQuery {
            peer: Some(all[3].peer),
            ..PeerQuery::default()
        };
        assert_eq!(page(all.clone(), &one, 100), vec![all[3].clone()]);
    }
}
