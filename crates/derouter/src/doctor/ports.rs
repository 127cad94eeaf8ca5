//! The ports: free while no node runs.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use derouter_node::Multiaddr;

use super::{Check, Patient};

pub(super) fn check(patient: &Patient, checks: &mut Vec<Check>) {
    let Ok(config) = &patient.config else {
        return;
    };
    let rpc = config.node.rpc.as_ref().map_or(0, |rpc| rpc.port);
    let rpc = (rpc, "rpc-port", "server.port");
    let endpoint = config.openai.consumer.as_ref();
    let endpoint = endpoint.map(|endpoint| SocketAddr::new(endpoint.host, endpoint.port));
    if patient.running {
        for id in ["rpc-port", "endpoint-port", "peer-ports"] {
            checks.push(Check::skip(id, "the node that runs has it"));
        }
        return;
    }
    checks.push(tcp(
        SocketAddr::from((Ipv4Addr::LOCALHOST, rpc.0)),
        rpc.1,
        rpc.2,
    ));
    if let Some(endpoint) = endpoint {
        checks.push(tcp(
            endpoint,
            "endpoint-port",
            "openai.consumer.server.port",
        ));
    }
    checks.push(peer_ports(&config.node.net.listen));
}

fn tcp(address: SocketAddr, id: &'static str, key: &str) -> Check {
    if address.port() == 0 {
        return Check::ok(id, "chosen by the system at each start");
    }
    verdict(
        TcpListener::bind(address).map(drop),
        &address.to_string(),
        id,
        key,
    )
}

fn verdict(bound: std::io::Result<()>, address: &str, id: &'static str, key: &str) -> Check {
    match bound {
        Ok(()) => Check::ok(id, format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Check::fail(
            id,
            format!("{address} is in use by another program"),
            format!(
                "stop that one (another node?), or choose another port: derouter config set {key} {}",
                if key == "listen" { "..." } else { "PORT" }
            ),
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Check::fail(
            id,
            format!("{address}: {error}"),
            format!("ports under 1024 are the system's: choose one above with `{key}`"),
        ),
        Err(error) => Check::fail(
            id,
            format!("{address}: {error}"),
            format!("choose an address of this machine with `{key}`"),
        ),
    }
}

fn peer_ports(listen: &[Multiaddr]) -> Check {
    const ID: &str = "peer-ports";
    for address in listen {
        let Some((socket, tcp)) = socket(address) else {
            continue;
        };
        let bound = match tcp {
            true => TcpListener::bind(socket).map(drop),
            false => UdpSocket::bind(socket).map(drop),
        };
        if bound.is_err() {
            return verdict(bound, &address.to_string(), ID, "listen");
        }
    }
    Check::ok(ID, "free")
}

/// The socket address with a port that is given, and whether it is one of TCP.
fn socket(address: &Multiaddr) -> Option<(SocketAddr, bool)> {
    let text = address.to_string();
    let mut parts = text.split('/').skip(1);
    let (kind, ip, transport) = (parts.next()?, parts.next()?, parts.next()?);
    let port: u16 = parts.next()?.parse().ok()?;
    let known = matches!(kind, "ip4" | "ip6") && matches!(transport, "tcp" | "udp");
    if !known || port == 0 || text.contains("/p2p-circuit") {
        return None;
    }
    Some((SocketAddr::new(ip.parse().ok()?, port), transport == "tcp"))
}
