//! `derouter ping`: round trips to a peer, and which way they go.

use std::time::Duration;

use derouter_node::Multiaddr;
use derouter_sdk::{Node, PathKind, PeerId, PingError, PingReport};
use serde::Serialize;
use tokio::time::Instant;

use crate::cli::network::PingArgs;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::rpc_node::RpcNode;
use crate::text;

/// How long one answer may take: a dial through a relay, and then some.
const ANSWER_WAIT: Duration = Duration::from_secs(15);

/// Pings without `--count`.
const COUNT: u32 = 4;

/// How long `--until-direct` goes on: hole punching is tried again within that.
const UNTIL_DIRECT: Duration = Duration::from_secs(60);

/// One line of `--json`.
#[derive(Debug, Serialize)]
struct Line<'a> {
    peer: String,
    sequence: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ping: Option<&'a PingReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Pings until it was often enough, direct, or too late.
pub(crate) async fn ping(args: PingArgs, output: Output) -> Result<(), Failure> {
    let address = multiaddr(&args.target)?;
    let node = RpcNode::find(&args.node).await?;
    let (peer, address) = match address {
        Some((peer, address)) => (peer, Some(address.to_string())),
        None => (node.resolve(&args.target).await?, None),
    };
    let limit = args.timeout.or(args.until_direct.then_some(UNTIL_DIRECT));
    let mut pinging = Pinging {
        node: &node,
        peer,
        address,
        json: output.is_json(),
        deadline: limit.map(|limit| Instant::now() + limit),
        answers: 0,
        last: None,
    };
    let count = match args.until_direct {
        true => args.count.unwrap_or(u32::MAX),
        false => args.count.unwrap_or(COUNT),
    };
    for sequence in 1..=count {
        if sequence > 1 && !pinging.pause(args.interval).await {
            return Err(pinging.time_is_up());
        }
        let direct = pinging.once(sequence).await?;
        if direct && args.until_direct {
            return Ok(());
        }
    }
    match args.until_direct {
        true => Err(Failure::failed(format_args!(
            "no direct path after {}; {}",
            text::counted(count, "ping"),
            pinging.last_words()
        ))),
        false if pinging.answers == 0 => Err(Failure::failed(pinging.last_words())),
        false => Ok(()),
    }
}

/// The address and its peer, when the target is a multiaddr.
fn multiaddr(target: &str) -> Result<Option<(PeerId, Multiaddr)>, Failure> {
    if !target.starts_with('/') {
        return Ok(None);
    }
    let address: Multiaddr = target
        .parse()
        .map_err(|error| Failure::usage(format_args!("{target} is not a multiaddr: {error}")))?;
    let last = target.rsplit_once("/p2p/").map(|(_, peer)| peer.parse());
    match last {
        Some(Ok(peer)) => Ok(Some((peer, address))),
        _ => Err(Failure::usage(format_args!(
            "{target} does not say whom to ping: it must end in /p2p/<peer id>"
        ))),
    }
}

struct Pinging<'a> {
    node: &'a RpcNode,
    peer: PeerId,
    address: Option<String>,
    json: bool,
    deadline: Option<Instant>,
    answers: u32,
    last: Option<String>,
}

impl Pinging<'_> {
    /// What is left of the time; `None` when there is no limit.
    fn left(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// False when the time is up before the pause is over.
    async fn pause(&self, interval: Duration) -> bool {
        let left = self.left();
        tokio::time::sleep(left.map_or(interval, |left| left.min(interval))).await;
        self.left().is_none_or(|left| !left.is_zero())
    }

    /// One round trip. True when it was direct.
    async fn once(&mut self, sequence: u32) -> Result<bool, Failure> {
        let left = self.left();
        let wait = left.map_or(ANSWER_WAIT, |left| left.min(ANSWER_WAIT));
        // The node refuses a wait of nothing.
        let wait = wait.max(Duration::from_millis(1));
        let calls = self.node.calls();
        match calls.ping(self.peer, self.address.clone(), wait).await {
            Ok(mut report) => {
                text::clean_path(&mut report.path);
                self.answers += 1;
                self.tell(sequence, Ok(&report));
                self.last = Some(format!("the last answer came {}", way(&report)));
                Ok(report.path.kind != PathKind::Relayed)
            }
            Err(PingError::Node(error)) => Err(self.node.failure(error)),
            Err(PingError::Timeout) if self.left().is_some_and(|left| left.is_zero()) => {
                Err(self.time_is_up())
            }
            Err(error) => {
                let error = text::printable(&error.to_string());
                self.tell(sequence, Err(&error));
                self.last = Some(error);
                Ok(false)
            }
        }
    }

    fn tell(&self, sequence: u32, outcome: Result<&PingReport, &String>) {
        if self.json {
            let line = Line {
                peer: self.peer.to_string(),
                sequence,
                ping: outcome.ok(),
                error: outcome.err().cloned(),
            };
            return output::document("derouter.ping/1", &line);
        }
        match outcome {
            Ok(report) => output::line(&described(report)),
            // Beside the answers, so that whoever reads these reads numbers only.
            Err(error) => output::error_line(&format!("no answer: {error}")),
        }
    }

    fn time_is_up(&self) -> Failure {
        Failure::time_is_up(format_args!("the time is up; {}", self.last_words()))
    }

    fn last_words(&self) -> String {
        self.last.clone().unwrap_or_else(|| "no answer came".into())
    }
}

/// `24.8 ms    hole-punched  /ip4/203.0.113.5/udp/4001/quic-v1`.
fn described(report: &PingReport) -> String {
    let rtt = text::round_trip(report.rtt_us);
    let kind = text::path_kind(report.path.kind);
    match &report.path.relay {
        Some(relay) => format!("{rtt:>9}  {kind} through {relay}"),
        None => format!("{rtt:>9}  {kind:<12}  {}", report.path.address),
    }
}

fn way(report: &PingReport) -> String {
    match (&report.path.relay, report.path.kind) {
        (Some(relay), _) => format!("through the relay {relay}"),
        (None, PathKind::Relayed) => "through a relay".into(),
        (None, _) => format!("from {}", report.path.address),
    }
}

#[cfg(test)]
mod tests {
    use derouter_sdk::{PathReport, UnixSeconds};

    use super::*;

    fn report(kind: PathKind, relay: Option<&str>) -> PingReport {
        PingReport {
            rtt_us: 24_890,
            path: PathReport {
                kind,
                relay: relay.map(str::to_owned),
                address: "/ip4/203.0.113.5/tcp/4001".into(),
                outbound: true,
                since: UnixSeconds(0),
                rtt_us: None,
                bytes_in: 0,
                bytes_out: 0,
                streams: 0,
            },
        }
    }

    #[test]
    fn a_line_says_which_way_the_round_trip_went() {
        assert_eq!(
            described(&report(PathKind::Direct, None)),
            "  24.8 ms  direct        /ip4/203.0.113.5/tcp/4001"
        );
        assert_eq!(
            described(&report(PathKind::Relayed, Some("12D3Koo"))),
            "  24.8 ms  relayed through 12D3Koo"
        );
    }

    #[test]
    fn a_multiaddr_must_say_whom() {
        let peer = PeerId::random();
        let through = format!(
            "/ip4/127.0.0.1/tcp/1/p2p/{}/p2p-circuit/p2p/{peer}",
            PeerId::random()
        );
        let (named, _) = multiaddr(&through).unwrap().unwrap();
        assert_eq!(named, peer);
        assert!(multiaddr("/ip4/127.0.0.1/tcp/1").is_err());
        assert!(multiaddr("/ip4/127.0.0.1/tcp").is_err());
        assert!(multiaddr("6vnc6iDEp").unwrap().is_none());
    }
}
