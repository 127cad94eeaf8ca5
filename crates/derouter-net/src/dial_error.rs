//! Why a dial failed, in words that a user can act on.

use std::error::Error;
use std::io;

use libp2p::swarm::DialError;
use libp2p::{Multiaddr, TransportError};

use crate::limits;
use crate::reachability::place::bare;

/// Errors that libp2p wraps in each other; a chain without end would be a bug of theirs.
const CHAIN: usize = 32;

/// What is said for what libp2p's errors say, where no kind tells them apart. In order: the first
/// that occurs in the chain counts.
const MEANINGS: &[(&str, &str)] = &[
    (
        "no reservation for destination",
        "the relay has no reservation of this peer: it is offline, or uses other relays now",
    ),
    (
        "resource limit exceeded",
        "the relay is at its limit; try again later",
    ),
    (
        "Relay failed to connect to destination",
        "the relay can't reach this peer: it went offline",
    ),
    ("denied permission", "the relay refuses to connect to it"),
    (
        "does not support the `/libp2p/circuit",
        "the node in this address is no relay",
    ),
    (
        "Response from behaviour was canceled",
        "the relay can't be reached",
    ),
    ("handshake timed out", NO_ANSWER),
    ("Timeout has been reached", NO_ANSWER),
    ("timed out", NO_ANSWER),
    (
        "Unable to negotiate",
        "it does not speak our protocols: it is no libp2p node, or another kind",
    ),
    (
        "Negotiation failed",
        "it does not speak our protocols: it is no libp2p node, or another kind",
    ),
    ("Unexpected peer ID", "another peer answers there"),
    ("no record found", "its name is not known to the DNS"),
    ("Connection refused", REFUSED),
    ("No route to host", NO_ROUTE),
    ("Network is unreachable", NO_ROUTE),
];

/// Why a peer that was reached is not connected.
pub(crate) const TURNED_AWAY: &str = "it closed the connection right after the handshake: it is full, it is stopping, or it blocks or has banned this node";

const NO_ANSWER: &str =
    "no answer in time: it is offline, or a NAT or firewall drops what is sent there";
const NO_ROUTE: &str = "no route: this machine's network does not lead there";
const REFUSED: &str = "connection refused: nothing listens there, or a firewall rejects it";

/// A dial error in words.
pub(crate) fn dial_error_text(error: &DialError) -> String {
    match error {
        DialError::NoAddresses => "no address of this peer is known".to_owned(),
        DialError::LocalPeerId { address } => {
            format!("{} is this node itself", bare(address))
        }
        DialError::WrongPeerId { obtained, address } => {
            let address = bare(address);
            format!("another peer answers at {address}: {obtained}")
        }
        DialError::Transport(errors) => {
            let shown = errors.iter().take(limits::BOOK_ADDRESSES);
            by_reason(shown.map(|(address, error)| (address, address_error_text(error))))
        }
        DialError::Denied { cause } => format!("not dialled: {}", innermost(cause)),
        DialError::Aborted => "the dial was cut short".to_owned(),
        other => other.to_string(),
    }
}

/// Each reason once, with the addresses that failed for it behind it: they mostly fail for the same.
/// Whose they are is known to whoever reads it.
fn by_reason<'a>(failed: impl Iterator<Item = (&'a Multiaddr, String)>) -> String {
    let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
    for (address, reason) in failed {
        let address = bare(address).to_string();
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, addresses)) if addresses.contains(&address) => {}
            Some((_, addresses)) => addresses.push(address),
            None => reasons.push((reason, vec![address])),
        }
    }
    let told = reasons
        .iter()
        .map(|(reason, addresses)| format!("{reason} ({})", addresses.join(", ")));
    told.collect::<Vec<_>>().join("; ")
}

/// Why one address failed.
pub(crate) fn address_error_text(error: &TransportError<io::Error>) -> String {
    match error {
        TransportError::MultiaddrNotSupported(_) => {
            "this kind of address is not supported here".to_owned()
        }
        TransportError::Other(error) => cause_text(error),
    }
}

fn cause_text(error: &(dyn Error + 'static)) -> String {
    let chain = chain(error);
    // Innermost first: those around it say where, and have a kind of "other".
    let kinds = chain.iter().rev().filter_map(|error| {
        let io = error.downcast_ref::<io::Error>()?;
        kind_text(io.kind())
    });
    if let Some(text) = kinds.into_iter().next() {
        return text.to_owned();
    }
    let texts: Vec<String> = chain.iter().map(ToString::to_string).collect();
    if let Some(meant) = meaning(&texts) {
        return meant.to_owned();
    }
    let last = texts.last().map_or("unknown", String::as_str);
    format!("handshake failed: {last}")
}

/// What one of these texts means, if it is known.
fn meaning(texts: &[String]) -> Option<&'static str> {
    let said = |(said, _): &&(&str, &str)| texts.iter().any(|text| text.contains(*said));
    MEANINGS.iter().find(said).map(|(_, meant)| *meant)
}

/// Why a reservation ended or was not made.
pub(crate) fn reservation_error_text(error: &io::Error) -> String {
    let texts: Vec<String> = chain(error).iter().map(ToString::to_string).collect();
    meaning(&texts).map_or_else(|| innermost(error), str::to_owned)
}

fn kind_text(kind: io::ErrorKind) -> Option<&'static str> {
    Some(match kind {
        io::ErrorKind::ConnectionRefused => REFUSED,
        io::ErrorKind::TimedOut => NO_ANSWER,
        io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkDown => NO_ROUTE,
        io::ErrorKind::AddrNotAvailable => "no route: this machine has no such kind of address",
        io::ErrorKind::PermissionDenied => "this machine's firewall forbids it",
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => {
            "it closed the connection during the handshake: it is full, refuses this node, or is no libp2p node"
        }
        _ => return None,
    })
}

/// The error and what it wraps, outermost first. An `io::Error` skips what it holds when it is asked
/// for its source.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut found: Vec<&(dyn Error + 'static)> = vec![error];
    let mut current = error;
    while found.len() < CHAIN {
        let held = current
            .downcast_ref::<io::Error>()
            .and_then(|error| error.get_ref());
        let next: Option<&(dyn Error + 'static)> = match held {
            Some(held) => Some(held),
            None => current.source(),
        };
        let Some(next) = next else { break };
        found.push(next);
        current = next;
    }
    found
}

/// The last error in the chain says what happened; those around it only where.
pub(crate) fn innermost(error: &dyn Error) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    current.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("somewhere in libp2p")]
    struct Wrapped(#[source] io::Error);

    fn text(error: io::Error) -> String {
        let wrapped = io::Error::other(Wrapped(io::Error::other(error)));
        address_error_text(&TransportError::Other(wrapped))
    }

    #[test]
    fn what_the_system_says_is_found_however_deep_it_is_wrapped() {
        for (kind, words) in [
            (io::ErrorKind::ConnectionRefused, "nothing listens there"),
            (io::ErrorKind::TimedOut, "no answer in time"),
            (io::ErrorKind::NetworkUnreachable, "no route"),
            (io::ErrorKind::HostUnreachable, "no route"),
            (io::ErrorKind::ConnectionReset, "closed the connection"),
        ] {
            let text = text(io::Error::from(kind));
            assert!(text.contains(words), "{kind:?}: {text}");
        }
    }

    #[test]
    fn what_a_relay_says_is_told_in_our_words() {
        for (said, words) in [
            (
                "Relay has no reservation for destination.",
                "no reservation of this peer",
            ),
            ("Remote reported resource limit exceeded.", "at its limit"),
            (
                "Relay failed to connect to destination.",
                "can't reach this peer",
            ),
            ("Timeout has been reached", "no answer in time"),
        ] {
            let text = text(io::Error::other(said));
            assert!(text.contains(words), "{said}: {text}");
        }
    }

    #[test]
    fn why_a_relay_did_not_take_this_node_in_is_told_in_our_words() {
        let full = io::Error::other("Remote reported resource limit exceeded.");
        let text = reservation_error_text(&full);
        assert!(text.starts_with("the relay is at its limit"), "{text}");
        let other = reservation_error_text(&io::Error::other("Bad frame 7"));
        assert_eq!(other, "Bad frame 7");
    }

    #[test]
    fn a_reason_is_told_once_with_the_addresses_that_failed_for_it() {
        let peer = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
        let refused = |address: String| {
            let error = io::Error::from(io::ErrorKind::ConnectionRefused);
            (address.parse().unwrap(), TransportError::Other(error))
        };
        let silent = io::Error::from(io::ErrorKind::TimedOut);
        let error = DialError::Transport(vec![
            refused("/ip4/192.0.2.1/tcp/1".to_owned()),
            refused(format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}")),
            (
                format!("/ip4/192.0.2.1/udp/1/quic-v1/p2p/{peer}")
                    .parse()
                    .unwrap(),
                TransportError::Other(silent),
            ),
            refused(format!("/ip4/192.0.2.2/tcp/1/p2p/{peer}")),
        ]);
        assert_eq!(
            dial_error_text(&error),
            format!(
                "{REFUSED} (/ip4/192.0.2.1/tcp/1, /ip4/192.0.2.2/tcp/1); {NO_ANSWER} \
                 (/ip4/192.0.2.1/udp/1/quic-v1)"
            )
        );
    }

    #[test]
    fn what_is_not_understood_is_shown_as_it_is() {
        let text = text(io::Error::other("Bad frame 7"));
        assert_eq!(text, "handshake failed: Bad frame 7");
    }
}
