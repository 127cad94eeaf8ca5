//! Peers as people read them. Pure.

use std::fmt::Write as _;

use derouter_sdk::{PathReport, PeerReport, UnixSeconds};

use crate::text::{age, bytes, cut, path_kind, round_trip, short_id};

/// One line for each peer, cut to `room` columns; without a limit, with whole ids.
pub(crate) fn table(reports: &[PeerReport], now: UnixSeconds, room: Option<usize>) -> String {
    let id_width = if room.is_none() { 52 } else { 8 };
    let mut lines = format!(
        "{:<id_width$}  {:<12} {:>9} {:>7} {:>7} {:>5}  SINCE   AGENT",
        "PEER", "PATH", "RTT", "IN", "OUT", "SCORE"
    );
    for report in reports {
        let id = match room {
            None => report.peer.to_string(),
            Some(_) => short_id(&report.peer),
        };
        let line = match report.paths.first() {
            Some(path) => connected(report, path, now),
            None => absent(report, now),
        };
        let line = format!("{id:<id_width$}  {line}");
        let line = room.map_or_else(|| line.clone(), |room| cut(&line, room));
        let _ = write!(lines, "\n{}", line.trim_end());
    }
    lines
}

fn connected(report: &PeerReport, path: &PathReport, now: UnixSeconds) -> String {
    // Over all its connections.
    let (received, sent) = report.paths.iter().fold((0_u64, 0_u64), |sum, path| {
        (
            sum.0.saturating_add(path.bytes_in),
            sum.1.saturating_add(path.bytes_out),
        )
    });
    format!(
        "{:<12} {:>9} {:>7} {:>7} {:>5}  {:<6}  {}",
        path_kind(path.kind),
        path.rtt_us.map_or_else(|| "-".into(), round_trip),
        bytes(received),
        bytes(sent),
        report.score,
        age(path.since, now),
        report.agent.as_deref().unwrap_or("-")
    )
}

fn absent(report: &PeerReport, now: UnixSeconds) -> String {
    let mut line = format!(
        "{:<12} {:>9} {:>7} {:>7} {:>5}  ",
        "-", "-", "-", "-", report.score
    );
    match (
        report.banned_until,
        &report.last_dial_error,
        report.last_connected,
    ) {
        (Some(until), _, _) if until > now => {
            let _ = write!(line, "banned for {}", age(now, until));
        }
        (_, Some(error), _) => line.push_str(error),
        (_, None, Some(at)) => {
            let _ = write!(line, "last connected {} ago", age(at, now));
        }
        (_, None, None) => line.push_str("never connected"),
    }
    line
}

/// All about one peer.
pub(crate) fn detail(report: &PeerReport, now: UnixSeconds) -> String {
    let version = match report.version_0_1 {
        Some(true) => "0.1",
        Some(false) => "0.2 or later",
        None => "not known",
    };
    let mut lines = format!("Peer            {}", report.peer);
    let mut line = |label: &str, value: &str| {
        let _ = write!(lines, "\n{label:<14}  {value}");
    };
    line("Agent", report.agent.as_deref().unwrap_or("not known"));
    line("Version", version);
    line("Score", &report.score.to_string());
    if let Some(offence) = &report.offence {
        line("Last offence", offence);
    }
    if let Some(until) = report.banned_until.filter(|until| *until > now) {
        line("Banned", &format!("for another {}", age(now, until)));
    }
    if report.paths.is_empty() {
        let last = report
            .last_connected
            .map(|at| format!("{} ago", age(at, now)));
        line("Last connected", last.as_deref().unwrap_or("never"));
    }
    if let Some(error) = &report.last_dial_error {
        let at = report.last_dial_error_at;
        let ago = at.map_or_else(String::new, |at| format!(" ({} ago)", age(at, now)));
        line("Last failure", &format!("{error}{ago}"));
    }
    for (index, path) in report.paths.iter().enumerate() {
        line(
            if index == 0 { "Connections" } else { "" },
            &described(path, now),
        );
        line("", &format!("  {}", path.address));
    }
    for (index, address) in report.addresses.iter().enumerate() {
        let state = match (&address.error, address.last_success) {
            (Some(error), _) => format!("  ({error})"),
            (None, Some(at)) => format!("  (reached {} ago)", age(at, now)),
            (None, None) => "  (not tried)".into(),
        };
        let label = if index == 0 { "Addresses" } else { "" };
        line(label, &format!("{}{state}", address.address));
    }
    lines
}

fn described(path: &PathReport, now: UnixSeconds) -> String {
    let through = path
        .relay
        .as_ref()
        .map_or_else(String::new, |relay| format!(" through {relay}"));
    let rtt = path.rtt_us.map_or_else(|| "-".into(), round_trip);
    format!(
        "{}{through}, {rtt}, {}, for {}, {} in, {} out, {} open",
        path_kind(path.kind),
        if path.outbound {
            "outgoing"
        } else {
            "incoming"
        },
        age(path.since, now),
        bytes(path.bytes_in),
        bytes(path.bytes_out),
        crate::text::counted(path.streams, "stream"),
    )
}

#[cfg(test)]
mod tests {
    use derouter_sdk::wire::rpc::network::PeerAddress;
    use derouter_sdk::{PathKind, PeerId};

    use super::*;
    use crate::text::WIDTH;

    fn peer() -> PeerId {
        let text = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
        text.parse().unwrap()
    }

    fn absent_peer() -> PeerReport {
        PeerReport {
            peer: peer(),
            agent: None,
            version_0_1: None,
            paths: Vec::new(),
            addresses: vec![PeerAddress {
                address: "/ip4/203.0.113.5/tcp/4001".into(),
                last_success: None,
                error: Some("connection refused".into()),
            }],
            score: 0,
            banned_until: None,
            last_connected: Some(UnixSeconds(400)),
            last_dial_error: Some("connection refused ".repeat(9)),
            last_dial_error_at: Some(UnixSeconds(990)),
            offence: None,
        }
    }

    fn connected_peer() -> PeerReport {
        let path = PathReport {
            kind: PathKind::HolePunched,
            relay: None,
            address: "/ip4/203.0.113.5/udp/4001/quic-v1".into(),
            outbound: true,
            since: UnixSeconds(940),
            rtt_us: Some(24_890),
            bytes_in: 1_250_000,
            bytes_out: 300,
            streams: 1,
        };
        PeerReport {
            agent: Some("derouter/0.2.0".into()),
            version_0_1: Some(false),
            paths: vec![path],
            last_dial_error: None,
            last_dial_error_at: None,
            score: -12,
            ..absent_peer()
        }
    }

    #[test]
    fn the_table_fits_a_terminal_and_says_how_each_peer_is_reached() {
        let table = table(
            &[connected_peer(), absent_peer()],
            UnixSeconds(1000),
            Some(WIDTH),
        );
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH));
        assert_eq!(
            lines[1],
            "vnc6iDEp  hole-punched   24.8 ms  1.2 MB   300 B   -12  60 s    derouter/0.2.0"
        );
        assert!(lines[2].contains("connection refused"), "{table}");
    }

    #[test]
    fn the_whole_table_cuts_nothing() {
        let table = table(&[absent_peer()], UnixSeconds(1000), None);
        assert!(table.contains(&peer().to_string()));
        assert!(table.contains("connection refused connection refused connection"));
    }

    #[test]
    fn a_peer_in_detail_has_its_connections_and_addresses() {
        let text = detail(&connected_peer(), UnixSeconds(1000));
        for part in [
            "hole-punched, 24.8 ms, outgoing, for 60 s, 1.2 MB in, 300 B out, 1 stream open",
            "/ip4/203.0.113.5/udp/4001/quic-v1",
            "/ip4/203.0.113.5/tcp/4001  (connection refused)",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = detail(&absent_peer(), UnixSeconds(1000));
        assert!(text.contains("Last connected  10 min ago"), "{text}");
    }
}
