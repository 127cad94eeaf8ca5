//! `derouter doctor` finds what is wrong, and says what to do.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use derouter_testkit::backend::Backend;
use serde_json::{Value, json};

use super::Home;
use crate::DEROUTER;

/// A node with nothing wrong: it sells, buys, and stays on this machine.
fn sound(backend: &Backend) -> Value {
    json!({
        "server": {"port": 0},
        "listen": ["/ip4/127.0.0.1/tcp/0", "/ip4/0.0.0.0/tcp/0"],
        "mdns": false,
        "port_mapping": false,
        "bootstrap": ["/ip4/127.0.0.1/tcp/1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"],
        "openai": {
            "provider": {
                "openai_base_url": backend.url(),
                "offers": {"a": {"model_id": "test-model", "context_size": 4096,
                    "input_token_price": {"$pol": "1"}, "output_token_price": {"$pol": "1"}}},
            },
            "consumer": {"server": {"port": 0}},
        },
    })
}

struct Found {
    status: String,
    text: String,
    remedy: String,
}

/// The worst that is said of one thing.
async fn examine(home: &Home, id: &str, variables: &[(&str, &str)]) -> Found {
    let exit = home.run_with(&["doctor", "--json"], variables).await;
    let report = super::checked(exit.stdout.lines().next().unwrap_or_default(), &["doctor"]);
    let failures = report["fail"].as_u64().unwrap();
    assert_eq!(exit.code, Some(i32::from(failures > 0)), "{report:#}");
    worst(&report, id)
}

fn worst(report: &Value, id: &str) -> Found {
    let checks = report["checks"].as_array().unwrap();
    let of_id = checks.iter().filter(|check| check["id"] == id);
    let rank = |check: &&Value| match check["status"].as_str() {
        Some("fail") => 3,
        Some("warn") => 2,
        Some("ok") => 1,
        _ => 0,
    };
    let check = of_id
        .max_by_key(rank)
        .unwrap_or_else(|| panic!("no {id}: {report:#}"));
    let text = |name: &str| check[name].as_str().unwrap_or_default().to_owned();
    Found {
        status: text("status"),
        text: text("found"),
        remedy: text("remedy"),
    }
}

fn mode(path: &std::path::Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What keeps a fault planted: a socket, a directory.
type Kept = Vec<Box<dyn std::any::Any>>;

/// A fault: the check that must find it, how bad it is, what it must say, and what the remedy must name.
struct Planted {
    id: &'static str,
    status: &'static str,
    says: &'static str,
    remedy: &'static str,
    plant: fn(&Home, &mut Value, &mut Kept),
}

fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

fn faults() -> Vec<Planted> {
    let fault = |id, status, says, remedy, plant| Planted {
        id,
        status,
        says,
        remedy,
        plant,
    };
    vec![
        fault(
            "config",
            "fail",
            "unknown key",
            "config schema",
            |_, config, _| config["prt"] = json!(1),
        ),
        fault(
            "config-mode",
            "warn",
            "holds a server's key",
            "chmod 600",
            |_, config, _| {
                config["openai"]["provider"]["openai_api_key"] = json!("s3cret-of-mine");
            },
        ),
        fault(
            "data-dir",
            "fail",
            "not a directory",
            "data_dir",
            |home, config, _| {
                let path = home.path().join("a-file");
                fs::write(&path, "").unwrap();
                config["data_dir"] = json!(path);
            },
        ),
        fault(
            "data-dir-mode",
            "warn",
            "other users",
            "chmod 700",
            |home, _, _| mode(&home.data(), 0o755),
        ),
        fault(
            "key",
            "fail",
            "not a key file",
            "key restore",
            |home, _, _| {
                fs::write(home.data().join("keypair.bin"), "junk").unwrap();
            },
        ),
        fault(
            "key-mode",
            "warn",
            "other users",
            "chmod 600",
            |home, _, _| mode(&home.data().join("keypair.bin"), 0o644),
        ),
        fault("database", "fail", "damaged", "backup", |home, _, _| {
            fs::write(home.data().join("derouter.sqlite"), "not a database").unwrap();
        }),
        fault(
            "rpc-cookie",
            "warn",
            "other users",
            "chmod 600",
            |home, _, _| {
                let path = home.data().join("rpc.cookie");
                fs::write(&path, "0".repeat(64)).unwrap();
                mode(&path, 0o644);
            },
        ),
        fault(
            "rpc-socket",
            "warn",
            "nobody listens",
            "remove",
            |home, _, _| {
                // Its end leaves the file.
                drop(UnixListener::bind(home.data().join("rpc.sock")).unwrap());
            },
        ),
        fault(
            "rpc-port",
            "fail",
            "in use",
            "server.port",
            |_, config, kept| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                config["server"]["port"] = json!(port_of(&listener));
                kept.push(Box::new(listener));
            },
        ),
        fault(
            "endpoint-port",
            "fail",
            "in use",
            "openai.consumer.server.port",
            |_, config, kept| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                config["openai"]["consumer"]["server"]["port"] = json!(port_of(&listener));
                kept.push(Box::new(listener));
            },
        ),
        fault(
            "peer-ports",
            "fail",
            "in use",
            "listen",
            |_, config, kept| {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                let port = socket.local_addr().unwrap().port();
                config["listen"] = json!([format!("/ip4/127.0.0.1/udp/{port}/quic-v1")]);
                kept.push(Box::new(socket));
            },
        ),
        fault(
            "bootstrap",
            "fail",
            "stays alone",
            "mdns",
            |_, config, _| config["bootstrap"] = json!([]),
        ),
        fault(
            "listen",
            "warn",
            "no other machine",
            "listen",
            |_, config, _| {
                config["listen"] = json!(["/ip4/127.0.0.1/tcp/0"]);
            },
        ),
        fault(
            "paths",
            "warn",
            "another place",
            "whole path",
            |_, config, _| {
                config["database_path"] = json!("my.sqlite");
            },
        ),
        fault(
            "external",
            "fail",
            "private network",
            "private_network",
            |_, config, _| {
                config["external_addresses"] = json!(["/ip4/192.168.1.2/tcp/4001"]);
            },
        ),
        fault(
            "prices",
            "warn",
            "costs nothing",
            "requests_per_minute",
            |_, config, _| {
                let offer = &mut config["openai"]["provider"]["offers"]["a"];
                offer["input_token_price"] = json!({"$pol": "0"});
                offer["output_token_price"] = json!({"$pol": "0"});
            },
        ),
        fault(
            "endpoint",
            "fail",
            "spend your money",
            "token create",
            |_, config, _| {
                config["openai"]["consumer"]["server"]["host"] = json!("0.0.0.0");
            },
        ),
        fault(
            "endpoint-keys",
            "fail",
            "keys.json",
            "token create",
            |home, _, _| {
                fs::write(home.data().join("keys.json"), "{").unwrap();
            },
        ),
        fault(
            "blocked-providers",
            "fail",
            "openai-providers.json",
            "mend or remove",
            |home, _, _| {
                fs::write(home.data().join("openai-providers.json"), "{").unwrap();
            },
        ),
        fault(
            "tokenizers",
            "fail",
            "tokenizer.json can't be used",
            "model's repository",
            |home, config, _| {
                let path = home.path().join("tokenizer.json");
                fs::write(&path, "{}").unwrap();
                config["openai"]["consumer"]["tokenizers"] = json!({"llama*": path});
            },
        ),
        fault(
            "modules",
            "warn",
            "neither sells nor buys",
            "openai",
            |_, config, _| config["openai"] = json!({}),
        ),
        fault(
            "backend",
            "fail",
            "127.0.0.1:1",
            "openai_base_url",
            |_, config, _| {
                config["openai"]["provider"]["openai_base_url"] = json!("http://127.0.0.1:1/v1");
            },
        ),
        fault(
            "backend-models",
            "fail",
            "names no model \"gone\"",
            "backend_model",
            |_, config, _| {
                config["openai"]["provider"]["offers"]["a"]["model_id"] = json!("gone");
            },
        ),
    ]
}

/// A home in which a node ran once.
fn prepared(config: &Value) -> Home {
    let home = Home::new();
    fs::create_dir_all(home.data()).unwrap();
    mode(&home.data(), 0o700);
    let key = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../testdata/vectors/0.1-data/consumer/keypair.bin"
    );
    let own = home.data().join("keypair.bin");
    fs::copy(key, &own).unwrap();
    mode(&own, 0o600);
    home.configure(&config.to_string());
    home
}

#[tokio::test]
async fn each_planted_fault_is_found_and_its_remedy_named() {
    let backend = Backend::start().await;
    let healthy = prepared(&sound(&backend));
    let report = healthy.document(&["doctor"]).await;
    assert_eq!(
        (&report["fail"], &report["warn"]),
        (&json!(0), &json!(0)),
        "{report:#}"
    );
    let faults = faults();
    assert!(faults.len() >= 15);
    for fault in faults {
        assert_eq!(
            worst_of(&report, fault.id),
            fault.id,
            "the healthy one has it"
        );
        let home = prepared(&sound(&backend));
        let mut config = sound(&backend);
        let mut kept = Kept::new();
        (fault.plant)(&home, &mut config, &mut kept);
        home.configure(&config.to_string());
        let found = examine(&home, fault.id, &[]).await;
        let shown = format!(
            "{}: {} {} / {}",
            fault.id, found.status, found.text, found.remedy
        );
        assert_eq!(found.status, fault.status, "{shown}");
        assert!(found.text.contains(fault.says), "{shown}");
        assert!(found.remedy.contains(fault.remedy), "{shown}");
    }
}

/// That a check is there and finds nothing.
fn worst_of<'a>(report: &Value, id: &'a str) -> &'a str {
    let found = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .any(|check| check["id"] == id && check["status"] != "ok" && check["status"] != "skip");
    assert!(!found, "{id}: {report:#}");
    id
}

#[tokio::test]
async fn faults_of_the_environment_and_of_the_machine_are_found() {
    let backend = Backend::start().await;
    let home = prepared(&sound(&backend));
    let found = examine(&home, "environment", &[("DEROUTER_CONFG", "x")]).await;
    assert_eq!(found.status, "warn");
    assert!(found.remedy.contains("DEROUTER_CONFIG"), "{}", found.remedy);
    let found = examine(&home, "log-filter", &[("RUST_LOG", "derouter=loud")]).await;
    assert_eq!(found.status, "fail");
    assert!(found.remedy.contains("debug"), "{}", found.remedy);
    let limited = home.command(
        "sh",
        &["-c", "ulimit -n 256; exec \"$0\" doctor --json", DEROUTER],
    );
    let exit = derouter_testkit::Process::spawn("doctor", limited)
        .exit()
        .await;
    let found = worst(&serde_json::from_str(&exit.stdout).unwrap(), "open-files");
    assert_eq!(found.status, "fail");
    assert!(found.remedy.contains("ulimit -n"), "{}", found.remedy);
}

#[tokio::test]
async fn what_can_be_mended_is_mended_and_nothing_else_is_touched() {
    let backend = Backend::start().await;
    let mut config = sound(&backend);
    config["openai"]["provider"]["openai_api_key"] = json!("s3cret-of-mine");
    let home = prepared(&config);
    mode(&home.config(), 0o644);
    mode(&home.data(), 0o755);
    mode(&home.data().join("keypair.bin"), 0o604);
    drop(UnixListener::bind(home.data().join("rpc.sock")).unwrap());
    let report = home.document(&["doctor"]).await;
    assert_eq!(report["warn"], 4, "{report:#}");
    let report = home.document(&["doctor", "--fix"]).await;
    assert_eq!(report["warn"], 0, "{report:#}");
    let fixed = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["fixed"] == true);
    let fixed: Vec<&str> = fixed.filter_map(|check| check["id"].as_str()).collect();
    assert_eq!(fixed, ["config-mode", "data-dir-mode", "key-mode"]);
    let permissions =
        |path: std::path::PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(permissions(home.config()), 0o600);
    assert_eq!(permissions(home.data()), 0o700);
    assert_eq!(permissions(home.data().join("keypair.bin")), 0o600);
    assert!(!home.data().join("rpc.sock").exists());
    assert_eq!(
        fs::read_to_string(home.config()).unwrap(),
        config.to_string()
    );
}

#[tokio::test]
async fn a_bundle_has_everything_but_secrets() {
    let backend = Backend::start().await;
    let mut config = sound(&backend);
    config["openai"]["provider"]["openai_api_key"] = json!("s3cret-of-mine");
    config["listen"] = json!(["/ip4/127.0.0.1/tcp/0"]);
    let home = prepared(&config);
    home.good(&["up"]).await;
    let cookie = fs::read_to_string(home.data().join("rpc.cookie")).unwrap();
    let log = home.data().join("logs/derouter.log");
    let mut text = fs::read_to_string(&log).unwrap();
    text.push_str(&format!(
        "a line with {} and s3cret-of-mine\n",
        cookie.trim()
    ));
    fs::write(&log, text).unwrap();
    home.run(&["doctor", "--bundle", "bundle.json"]).await;
    let path = home.path().join("bundle.json");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let text = fs::read_to_string(&path).unwrap();
    let bundle = super::checked(&text, &["doctor", "--bundle"]);
    assert!(
        !text.contains("s3cret-of-mine") && !text.contains(cookie.trim()),
        "{text}"
    );
    assert!(bundle["network"]["peer_id"].is_string(), "{text}");
    assert!(
        bundle["log"]
            .as_array()
            .unwrap()
            .iter()
            .any(|line| line.as_str().unwrap().contains("the node is up"))
    );
    assert_eq!(
        bundle["config"]["openai"]["provider"]["offers"]["a"]["model_id"],
        "test-model"
    );
    let exit = home.run(&["doctor", "--bundle", "bundle.json"]).await;
    assert_eq!(exit.code, Some(3), "never over another file: {exit:?}");
    home.good(&["down"]).await;
}
