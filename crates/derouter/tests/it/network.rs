//! What users are told of their network: `netcheck`, `ping`, `peers`.

use derouter_testkit::pair::free_port;
use derouter_testkit::{Exit, NodeConfig, NodeHome, NodeProcess, Process};
use serde_json::Value;

use crate::DEROUTER;

/// Runs a command about the network to its end.
async fn derouter(arguments: &[&str]) -> Exit {
    let mut command = tokio::process::Command::new(DEROUTER);
    // What a proxy or a terminal of the tester does must not matter.
    command.args(arguments).env("NO_COLOR", "1");
    Process::spawn(arguments[0], command).exit().await
}

async fn json_of(arguments: &[&str]) -> Value {
    let exit = derouter(arguments).await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    serde_json::from_str(&exit.stdout).unwrap()
}

/// The report of `netcheck --json`, which fails when the node is alone or nobody reaches it.
async fn netcheck(arguments: &[&str]) -> (Exit, Value) {
    let exit = derouter(&[&["netcheck", "--json"], arguments].concat()).await;
    let report: Value = serde_json::from_str(&exit.stdout).unwrap();
    let relays = report["relays"].as_array().unwrap();
    let reserved = relays.iter().any(|relay| relay["state"] == "reserved");
    let unreachable = report["reachability"] == "private" && !reserved;
    let expected = i32::from(report["peers"] == 0 || unreachable);
    assert_eq!(exit.code, Some(expected), "{exit:?}");
    assert_eq!(exit.stderr.contains("not well"), expected == 1, "{exit:?}");
    (exit, report)
}

struct Two {
    one: NodeProcess,
    other: NodeProcess,
    _homes: [NodeHome; 2],
}

impl Two {
    /// Two nodes, of which the first dials the other.
    async fn connected() -> Self {
        let other_home = NodeHome::new("other", &NodeConfig::default());
        let other = other_home.start(DEROUTER).await;
        let config = NodeConfig::default().bootstrap(other.ready.bootstrap());
        let one_home = NodeHome::new("one", &config);
        let one = one_home.start(DEROUTER).await;
        let two = Self {
            one,
            other,
            _homes: [one_home, other_home],
        };
        derouter_testkit::eventually("the nodes are connected", async || {
            let (_, report) = netcheck(&["--rpc", &two.rpc()]).await;
            (report["peers"] == 1).then_some(())
        })
        .await;
        two
    }

    /// Where the first node is asked.
    fn rpc(&self) -> String {
        self.one.ready.rpc.to_string()
    }
}

#[tokio::test]
async fn netcheck_tells_of_a_running_node_in_words_and_in_json() {
    let two = Two::connected().await;
    let (said, report) = netcheck(&["--rpc", &two.rpc()]).await;
    assert_eq!(report["peer_id"], two.one.ready.peer_id.as_str());
    assert_eq!(report["bootstrap"][0]["connected"], true);
    assert_eq!(report["port_mapping"]["state"], "off");
    let exit = derouter(&["netcheck", "--rpc", &two.rpc()]).await;
    assert_eq!(exit.code, said.code, "{exit:?}");
    for part in [
        format!("Node          {}", two.one.ready.peer_id),
        "Peers         1 peer with 1 connection".into(),
        format!("Bootstrap     ok {}", two.other.ready.bootstrap()),
        "Reachable     ".into(),
    ] {
        assert!(exit.stdout.contains(&part), "{part}: {}", exit.stdout);
    }
}

#[tokio::test]
async fn the_port_is_found_in_the_nodes_configuration() {
    let port = free_port();
    let config = NodeConfig::default().with("server", serde_json::json!({"port": port}));
    let home = NodeHome::new("node", &config);
    let node = home.start(DEROUTER).await;
    let path = home.config_path();
    let (exit, report) = netcheck(&["-c", path.to_str().unwrap()]).await;
    assert_eq!(report["peer_id"], node.ready.peer_id.as_str());
    assert_eq!(exit.code, Some(1), "it is alone: {exit:?}");
}

#[tokio::test]
async fn without_a_node_commands_say_so_with_an_exit_code_of_their_own() {
    let nowhere = format!("127.0.0.1:{}", free_port());
    let peer = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
    for arguments in [&["netcheck"][..], &["peers"], &["ping", peer]] {
        let exit = derouter(&[arguments, &["--rpc", &nowhere]].concat()).await;
        assert_eq!(exit.code, Some(4), "{exit:?}");
        assert!(exit.stdout.is_empty(), "{exit:?}");
        assert!(exit.stderr.contains(&nowhere), "{exit:?}");
        let offered = exit.stderr.contains("--standalone");
        assert_eq!(offered, arguments[0] == "netcheck", "{exit:?}");
    }
}

#[tokio::test]
async fn netcheck_can_take_part_in_the_network_without_a_node() {
    let home = NodeHome::new("node", &NodeConfig::default());
    let node = home.start(DEROUTER).await;
    let config = NodeConfig::default().bootstrap(node.ready.bootstrap());
    let other = NodeHome::new("checked", &config);
    let path = other.config_path();
    let arguments = ["--standalone", "--wait", "4", "-c", path.to_str().unwrap()];
    let (exit, report) = netcheck(&arguments).await;
    assert_eq!(report["peers"], 1, "{report}");
    assert_ne!(report["peer_id"], node.ready.peer_id.as_str());
    assert!(exit.stderr.contains("thrown away"), "{exit:?}");
    assert!(!other.data_dir().exists(), "nothing is written");
}

#[tokio::test]
async fn netcheck_without_a_node_checks_the_ports_that_the_node_keeps() {
    let home = NodeHome::new("node", &NodeConfig::default());
    let node = home.start(DEROUTER).await;
    let path = home.config_path();
    let arguments = ["--standalone", "--wait", "0", "-c", path.to_str().unwrap()];
    let (_, port) = node.ready.listen[0].split_once("/tcp/").unwrap();
    let port = format!("/tcp/{}", port.split('/').next().unwrap());
    let listens_there = |report: &Value| {
        let listen = report["listen"].as_array().unwrap();
        let mut texts = listen.iter().filter_map(Value::as_str);
        texts.any(|address| address.ends_with(&port))
    };
    let (exit, report) = netcheck(&arguments).await;
    assert!(exit.stderr.contains("ports are taken"), "{exit:?}");
    assert!(!listens_there(&report), "{report}");
    node.terminate().await;
    let (exit, report) = netcheck(&arguments).await;
    assert!(!exit.stderr.contains("ports are taken"), "{exit:?}");
    assert!(listens_there(&report), "{port}: {report}");
}

#[tokio::test]
async fn peers_are_told_in_a_table_in_detail_and_in_json() {
    let two = Two::connected().await;
    let (rpc, id) = (two.rpc(), two.other.ready.peer_id.clone());
    let (_, short) = id.split_at(id.len() - 8);
    derouter_testkit::eventually("the other says what it is", async || {
        let peers = json_of(&["peers", "--json", "--rpc", &rpc]).await;
        let peers = &peers["peers"];
        assert_eq!(peers[0]["peer"], id.as_str());
        assert_eq!(peers[0]["paths"][0]["outbound"], true);
        peers[0]["agent"].is_string().then_some(())
    })
    .await;
    let table = derouter(&["peers", "--rpc", &rpc]).await;
    let row = table.stdout.lines().nth(1).unwrap();
    assert!(
        row.starts_with(short) && row.contains("derouter/"),
        "{table:?}"
    );
    let detail = derouter(&["peers", short, "--rpc", &rpc]).await;
    assert_eq!(detail.code, Some(0), "{detail:?}");
    for part in [id.as_str(), "Connections", "outgoing", "0.2"] {
        assert!(detail.stdout.contains(part), "{part}: {}", detail.stdout);
    }
    let one = json_of(&["peers", &id, "--json", "--rpc", &rpc]).await;
    assert_eq!(one["peer"], id.as_str());
    let unknown = derouter(&["peers", "zzzzzzzz", "--rpc", &rpc]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    let nonsense = derouter(&["peers", "a b", "--rpc", &rpc]).await;
    assert_eq!(nonsense.code, Some(2), "{nonsense:?}");
}

#[tokio::test]
async fn a_ping_says_which_way_it_went_and_how_long() {
    let two = Two::connected().await;
    let (rpc, id) = (two.rpc(), two.other.ready.peer_id.clone());
    let exit = derouter(&[
        "ping",
        &id,
        "--count",
        "2",
        "--interval",
        "0.1",
        "--rpc",
        &rpc,
    ])
    .await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert_eq!(exit.stdout.lines().count(), 2, "{exit:?}");
    for line in exit.stdout.lines() {
        assert!(
            line.contains(" ms  ") && line.contains("/ip4/127.0.0.1/tcp/"),
            "{line}"
        );
    }
    let json = json_of(&["ping", &id, "-n", "1", "--json", "--rpc", &rpc]).await;
    assert_eq!((&json["peer"], &json["sequence"]), (&id.into(), &1.into()));
    assert!(json["ping"]["rtt_us"].as_u64() > Some(0), "{json}");
    assert_eq!(json["ping"]["path"]["outbound"], true);
    // The address of a peer that is not connected yet.
    let third_home = NodeHome::new("third", &NodeConfig::default());
    let third = third_home.start(DEROUTER).await;
    let address = third.ready.bootstrap();
    let direct = derouter(&["ping", &address, "--until-direct", "--rpc", &rpc]).await;
    assert_eq!(direct.code, Some(0), "{direct:?}");
    assert_eq!(direct.stdout.lines().count(), 1, "{direct:?}");
}

#[tokio::test]
async fn a_peer_that_is_not_reached_is_told_with_its_reason() {
    let home = NodeHome::new("node", &NodeConfig::default());
    let node = home.start(DEROUTER).await;
    let rpc = node.ready.rpc.to_string();
    let peer = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
    let address = format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", free_port());
    let exit = derouter(&["ping", &address, "--count", "1", "--rpc", &rpc]).await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.contains("can't be reached"), "{exit:?}");
    assert!(exit.stdout.is_empty(), "{exit:?}");
    let late = derouter(&[
        "ping",
        &address,
        "--until-direct",
        "--timeout",
        "1",
        "--interval",
        "0.1",
        "--rpc",
        &rpc,
    ])
    .await;
    assert_eq!(late.code, Some(124), "{late:?}");
    for wrong in ["/ip4/127.0.0.1/tcp/1", "/nothing", "x"] {
        let exit = derouter(&["ping", wrong, "--rpc", &rpc]).await;
        assert_eq!(exit.code, Some(2), "{exit:?}");
    }
}
