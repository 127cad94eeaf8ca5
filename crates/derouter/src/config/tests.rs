use std::path::PathBuf;

use std::time::Duration;

use derouter_sdk::Wei;

use super::module::{read_consumer, read_provider};
use super::node::RunConfig;
use super::*;

struct File {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

fn file(text: &str) -> File {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    std::fs::write(&path, text).unwrap();
    File {
        path,
        _directory: directory,
    }
}

fn load(text: &str) -> Result<RunConfig, ConfigError> {
    RunConfig::load(Some(&file(text).path))
}

/// The message without the directory of the file.
fn error(text: &str) -> String {
    let message = load(text).unwrap_err().to_string();
    let (_, behind) = message
        .split_once("config.json")
        .expect("the message names the file");
    format!("config.json{behind}")
}

fn pol(text: &str) -> Wei {
    Wei::from_pol_text(text).unwrap()
}

const PROVIDER: &str = r#"{
    openai_base_url: "http://127.0.0.1:11434/v1/",
    openai_api_key: "",
    offers: {
        llama: {
            model_id: "llama3.2",
            context_size: 8192,
            input_token_price: {$pol: "0.1"},
            output_token_price: {$pol: "0.4"},
        },
    },
}"#;

#[test]
fn without_a_file_a_node_has_the_defaults_of_0_1_0() {
    let config = RunConfig::load(None).unwrap();
    let data_dir = paths::default_data_dir().unwrap();
    assert_eq!(config.node.keypair_path, data_dir.join("keypair.bin"));
    let rpc = config.node.rpc.unwrap();
    assert_eq!((rpc.port, rpc.allow_legacy), (4269, true));
    assert_eq!(rpc.directory, Some(data_dir));
    assert!(config.node.net.mdns);
    assert!(config.node.net.relay_server.is_none());
    assert!(!config.node.store_payloads);
    assert!(config.openai.providers.is_empty());
    assert!(config.openai.consumer.is_none());
}

#[test]
fn a_file_of_0_1_0_is_read_as_it_is() {
    let config = load(
        r#"{
            // A comment, as 0.1.0 allows.
            "bootstrap": ["/ip4/203.0.113.5/tcp/4001/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"],
            "data_dir": "/tmp/derouter-data",
            "database_path": "/tmp/derouter-data/elsewhere.sqlite",
            "keypair_path": "/tmp/derouter-data/key.bin",
            "provider": {"name": "me", "teaser": "good", "description": "very"},
            "server": {"port": 5000},
        }"#,
    )
    .unwrap();
    assert_eq!(config.node.net.bootstrap.len(), 1);
    assert_eq!(
        config.node.database_path,
        PathBuf::from("/tmp/derouter-data/elsewhere.sqlite")
    );
    assert_eq!(
        config.node.keypair_path,
        PathBuf::from("/tmp/derouter-data/key.bin")
    );
    assert_eq!(config.node.provider.name.as_deref(), Some("me"));
    let rpc = config.node.rpc.unwrap();
    assert_eq!((rpc.port, rpc.allow_legacy), (5000, true));
    assert_eq!(rpc.directory, Some(PathBuf::from("/tmp/derouter-data")));
}

#[test]
fn the_new_keys_are_read() {
    let config = load(
        r#"{data_dir: "/tmp/d", listen: ["/ip4/127.0.0.1/tcp/0"], mdns: false,
            relay_server: true, log: {format: "json"}, store_payloads: true,
            openai: {consumer: {server: {port: 9100}}}}"#,
    )
    .unwrap();
    assert_eq!(config.node.net.listen.len(), 1);
    assert!(!config.node.net.mdns);
    assert!(config.node.net.relay_server.is_some());
    assert_eq!(config.log, LogFormat::Json);
    assert!(config.node.store_payloads);
    assert!(config.openai.consumer.unwrap().store_payloads);
}

#[test]
fn payloads_are_kept_for_a_while_and_up_to_a_size() {
    let retention = |text: &str| load(text).map(|config| config.node.retention);
    let kept = |age: Option<u64>, bytes: Option<u64>| derouter_node::PayloadRetention {
        max_age: age.map(Duration::from_secs),
        max_bytes: bytes,
    };
    assert_eq!(
        retention("{}").unwrap(),
        kept(Some(90 * 86_400), Some(1 << 30))
    );
    let own = r#"{ledger: {keep_payloads_days: 7, keep_payloads_mb: "all"}}"#;
    assert_eq!(retention(own).unwrap(), kept(Some(7 * 86_400), None));
    for wrong in ["-1", "\"some\"", "1.5", "99999999"] {
        let text = format!("{{ledger: {{keep_payloads_mb: {wrong}}}}}");
        let error = retention(&text).unwrap_err().to_string();
        assert!(error.contains("keep_payloads_mb"), "{error}");
    }
}

#[test]
fn without_network_keys_a_node_finds_out_by_itself() {
    use derouter_node::KnownReachability;
    let net = load("{}").unwrap().node.net;
    assert_eq!(net.reachability, KnownReachability::Detect);
    assert!(net.external_addresses.is_empty());
    assert!(net.port_mapping);
    assert!(net.kademlia);
    assert_eq!(net.relays, 2);
}

#[test]
fn the_network_keys_are_read() {
    use derouter_node::{KnownReachability, RelayLimits};
    let net = load(
        r#"{external_addresses: ["/dns4/node.example.org/tcp/4001"], reachability: "private",
            private_network: true, port_mapping: false, relays: 4, kademlia: false,
            relay_server: {reservations: 9, circuit_minutes: 2, bytes_per_second: 100000}}"#,
    )
    .unwrap()
    .node
    .net;
    assert_eq!(net.external_addresses.len(), 1);
    assert_eq!(net.reachability, KnownReachability::Private);
    assert!(net.private_network && !net.port_mapping && !net.kademlia);
    assert_eq!(net.relays, 4);
    let limits = RelayLimits {
        reservations: 9,
        circuit_duration: std::time::Duration::from_secs(120),
        bytes_per_second: Some(100_000),
        ..RelayLimits::default()
    };
    assert_eq!(net.relay_server, Some(limits));
    let off = load("{relay_server: false}").unwrap().node.net;
    assert_eq!(off.relay_server, None);
}

#[test]
fn announcements_are_sharded_only_where_that_is_asked_for() {
    let shards = |text: &str| load(text).unwrap().node.net.discovery.shards;
    assert_eq!(shards("{}"), None);
    assert_eq!(shards("{discovery: {}}"), None);
    assert_eq!(shards("{discovery: {shards: 4}}"), Some(4));
    assert_eq!(shards(r#"{discovery: {shards: "all"}}"#), Some(16));
}

#[test]
fn lists_of_peers_hold_peer_ids_addresses_and_networks() {
    let peer = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
    let text =
        format!(r#"{{peers: {{allow: ["{peer}"], block: ["192.0.2.7", "2001:db8::/32"]}}}}"#);
    let net = load(&text).unwrap().node.net;
    let shown = |rules: &[derouter_node::PeerRule]| -> Vec<String> {
        rules.iter().map(ToString::to_string).collect()
    };
    assert_eq!(shown(&net.allow), [peer]);
    assert_eq!(shown(&net.block), ["192.0.2.7/32", "2001:db8::/32"]);
}

#[test]
fn network_keys_that_can_not_be_right_are_named() {
    for (text, names) in [
        (r#"{peers: {block: ["example.org"]}}"#, "peers.block[0]"),
        (r#"{peers: {blocked: []}}"#, "did you mean `block`"),
        (
            r#"{external_addresses: ["/ip4/0.0.0.0/tcp/1"]}"#,
            "external_addresses[0]",
        ),
        (
            r#"{external_addresses: ["/ip4/203.0.113.5/tcp/0"]}"#,
            "fixed",
        ),
        (
            r#"{external_addresses: ["/ip4/203.0.113.5/udp/4001"]}"#,
            "quic-v1",
        ),
        (
            r#"{external_addresses: ["/ip4/203.0.113.5/tcp/4001/ws"]}"#,
            "tcp and quic-v1 only",
        ),
        (r#"{reachability: "open"}"#, "detect"),
        (r#"{port_mapping: "yes"}"#, "true or false"),
        (r#"{relays: 5}"#, "from 0 to 4"),
        (r#"{discovery: {shards: 0}}"#, "from 1 to 16"),
        (r#"{discovery: {shards: 17}}"#, "from 1 to 16"),
        (r#"{discovery: {shards: "some"}}"#, "from 1 to 16"),
        (r#"{relay_server: "on"}"#, "relay_server"),
        (
            r#"{relay_server: {reservation: 1}}"#,
            "did you mean `reservations`",
        ),
        (r#"{relay_server: {circuits: 0}}"#, "at least 1"),
        (r#"{relay_server: {circuit_minutes: 100000}}"#, "minutes"),
    ] {
        let message = error(text);
        assert!(message.contains(names), "{text}: {message}");
    }
}

#[test]
fn a_provider_section_becomes_offers_in_wei() {
    let config = load(&format!("{{openai: {{provider: {PROVIDER}}}}}")).unwrap();
    let [provider] = config.openai.providers.as_slice() else {
        panic!("one provider");
    };
    assert_eq!(provider.max_unsigned, Some(pol("1")));
    assert!(!provider.store_payloads);
    let [backend] = provider.backends.as_slice() else {
        panic!("one backend");
    };
    assert_eq!(backend.base_url, "http://127.0.0.1:11434/v1");
    assert_eq!(backend.api_key, None, "an empty key is none");
    let offer = &backend.offers["llama"];
    assert_eq!(offer.input_token_price, pol("0.1"));
    assert_eq!(offer.output_token_price, pol("0.4"));
    assert_eq!(offer.context_size, 8192);
    assert_eq!(offer.max_concurrency, None);
}

#[test]
fn several_provider_sections_must_not_share_an_offers_name() {
    let other = PROVIDER.replace("llama:", "other:");
    let two = load(&format!("{{openai: {{provider: [{PROVIDER}, {other}]}}}}")).unwrap();
    assert_eq!(two.openai.providers.len(), 2);
    let message = error(&format!(
        "{{openai: {{provider: [{PROVIDER}, {PROVIDER}]}}}}"
    ));
    assert!(message.contains("`openai.provider[1].offers`"), "{message}");
    assert!(
        message.contains("\"llama\" is in `openai.provider[0]`"),
        "{message}"
    );
}

#[test]
fn a_consumer_section_keeps_its_limits_and_has_safe_defaults() {
    let consumer = |text: &str| load(text).unwrap().openai.consumer.unwrap();
    let default = consumer("{openai: {consumer: {}}}");
    assert_eq!(default.port, 9002);
    assert!(default.host.is_loopback());
    assert_eq!(default.limits.daily, Some(pol("10")));
    assert_eq!(default.limits.total, None);
    assert_eq!(default.models, None);
    assert_eq!(default.default_max_price.input, pol("50"));

    let own = consumer(
        r#"{openai: {consumer: {
            server: {host: "::1", port: 1, maxInputPrice: {$pol: "2"}, allowedHosts: ["box.lan"],
                models: {"llama3.2": {minContextSize: 4096, maxInputPrice: {$pol: "1"}}, any: {}}},
            limits: {daily: {$pol: "0.5"}, total: {$pol: "100"}},
        }}}"#,
    );
    assert_eq!(own.host.to_string(), "::1");
    assert_eq!(own.limits.daily, Some(pol("0.5")));
    assert_eq!(own.limits.total, Some(pol("100")));
    assert_eq!(own.default_max_price.input, pol("2"));
    assert_eq!(own.default_max_price.output, pol("50"));
    let models = own.models.unwrap();
    assert_eq!(models["llama3.2"].min_context_size, Some(4096));
    assert_eq!(models["llama3.2"].max_input_price, Some(pol("1")));
    assert_eq!(models["any"].max_input_price, None);
}

#[test]
fn how_long_providers_are_waited_for_is_read() {
    let read = |text: &str| load(&format!("{{openai: {{consumer: {{timeouts: {text}}}}}}}"));
    let deadlines = |text: &str| read(text).unwrap().openai.consumer.unwrap().deadlines;
    let defaults = derouter_openai::consumer::Deadlines::default();
    assert_eq!(deadlines("{}"), defaults);
    let own = deadlines(
        "{connect: 1, first_token: 2.5, between_chunks: 3, plain_answer: 4, all_attempts: 5, streamed_answer: 6, begin_stream: 7}",
    );
    let seconds = Duration::from_secs_f64;
    assert_eq!((own.create, own.open), (seconds(1.0), seconds(1.0)));
    assert_eq!(
        (own.first_value, own.next_value),
        (seconds(2.5), seconds(3.0))
    );
    assert_eq!(
        (own.plain_answer, own.all_attempts),
        (seconds(4.0), seconds(5.0))
    );
    assert_eq!(own.streamed_answer, seconds(6.0));
    assert_eq!(own.begin_stream, seconds(7.0));
    assert_eq!(own.prologue, seconds(4.0), "no later than the answer");
    assert_eq!(own.keep_alive, defaults.keep_alive);
    for wrong in ["{connect: 0}", "{first_token: 1e9}", "{total: 1}"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn how_providers_are_chosen_is_read() {
    let read = |routing: &str| load(&format!("{{openai: {{consumer: {{routing: {routing}}}}}}}"));
    let routing = |text: &str| read(text).unwrap().openai.consumer.unwrap().routing;
    assert_eq!(routing("{}"), derouter_openai::consumer::Routing::default());
    let peer = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
    let own = routing(&format!(
        r#"{{weights: {{latency: 3, path: 0}}, sort: "price", explore: 0.5, hedge: 95,
            allow_providers: ["{peer}"], deny_providers: ["{peer}"]}}"#
    ));
    assert_eq!(own.tuning.weights.latency, 3.0);
    assert_eq!(
        (own.tuning.weights.path, own.tuning.weights.price),
        (0.0, 1.0)
    );
    assert_eq!(own.tuning.explore, 0.5);
    assert_eq!(own.hedge, Some(95.0));
    assert!(read("{hedge: 100}").is_err() && read("{hedge: true}").is_err());
    assert_eq!(own.sort, Some(derouter_openai::consumer::Sort::Price));
    assert_eq!(own.allow_providers, own.deny_providers);
    assert_eq!(own.allow_providers.len(), 1);
    for (wrong, named) in [
        ("{weights: {latency: -1}}", "latency"),
        ("{weights: {luck: 1}}", "luck"),
        ("{explore: 2}", "explore"),
        (r#"{deny_providers: ["me"]}"#, "peer id"),
        (r#"{sort: "best"}"#, "sort"),
    ] {
        let message = read(wrong).unwrap_err().to_string();
        assert!(message.contains(named), "{wrong}: {message}");
    }
}

#[test]
fn module_files_are_those_of_0_1_0() {
    let text = PROVIDER.replacen(
        '{',
        r#"{rpc_host: "localhost", rpc_port: 5001, database_url: "file:provider.db","#,
        1,
    );
    let config = read_provider(&file(&text).path).unwrap();
    assert_eq!(config.rpc.to_string(), "localhost:5001");
    assert!(config.has_database_url);
    assert_eq!(config.module.backends[0].offers.len(), 1);

    let config = read_consumer(&file(r#"{rpc: {host: "::1"}, server: {port: 9003}}"#).path);
    let config = config.unwrap();
    assert_eq!(config.rpc.to_string(), "[::1]:4269");
    assert_eq!(config.module.port, 9003);

    let zero = read_consumer(&file("{rpc: {port: 0}}").path);
    assert!(zero.unwrap_err().to_string().contains("rpc.port"));
    let twice = read_consumer(&file(r#"{rpc: {port: 1}, rpc_port: 2}"#).path);
    assert!(twice.unwrap_err().to_string().contains("rpc_port"));
}

#[test]
fn keys_of_a_module_process_are_named_as_ignored_inside_the_node() {
    let text = PROVIDER.replacen('{', r#"{rpc_port: 5001, database_url: "x","#, 1);
    let config = load(&format!("{{openai: {{provider: {text}}}}}")).unwrap();
    assert_eq!(config.openai.ignored, ["rpc", "database_url"]);
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_one_that_is_meant() {
    let message = error("{\n  mdns: false,\n  bootstraps: [],\n}");
    assert!(
        message.starts_with("config.json:3: unknown key `bootstraps`"),
        "{message}"
    );
    assert!(message.contains("did you mean `bootstrap`?"), "{message}");
    assert!(message.contains("data_dir"), "{message}");

    let text = PROVIDER.replace("context_size", "contextSize");
    let message = error(&format!("{{openai: {{provider: {text}}}}}"));
    assert!(
        message.contains("unknown key `contextSize` in `openai.provider.offers.llama`"),
        "{message}"
    );
    assert!(
        message.contains("did you mean `context_size`?"),
        "{message}"
    );

    let message = error("{zebra: 1}");
    assert!(!message.contains("did you mean"), "{message}");
    assert!(
        message.contains("Keys allowed here: bootstrap, data_dir"),
        "{message}"
    );
}

#[test]
fn a_wrong_value_is_named_with_its_key_and_what_would_be_right() {
    let price = |value: &str| {
        let text = PROVIDER.replace(r#"{$pol: "0.4"}"#, value);
        error(&format!("{{openai: {{provider: {text}}}}}"))
    };
    let key = "openai.provider.offers.llama.output_token_price";
    for wrong in [
        r#"{$pol: "ten"}"#,
        "{$pol: 0.4}",
        "0.4",
        r#"{$usd: "1"}"#,
        r#"{$pol: "-1"}"#,
    ] {
        let message = price(wrong);
        assert!(message.contains(key), "{wrong}: {message}");
        assert!(
            message.contains("config.json:9") || message.contains("config.json:10"),
            "{wrong}: {message}"
        );
        assert!(
            message.contains("$pol") || message.contains("\"1.5\""),
            "{wrong}: {message}"
        );
    }
    for (text, key, hint) in [
        (
            r#"{bootstrap: ["/ip4/1.2.3/tcp/1"]}"#,
            "bootstrap[0]",
            "multiaddr looks like",
        ),
        (
            r#"{listen: ["0.0.0.0:4001"]}"#,
            "listen[0]",
            "multiaddr looks like",
        ),
        (r#"{mdns: "no"}"#, "mdns", "true or false"),
        (
            r#"{server: {port: 70000}}"#,
            "server.port",
            "a port from 0 to 65535",
        ),
        (
            r#"{log: {format: "xml"}}"#,
            "log.format",
            "`text` or `json`",
        ),
        (r#"{data_dir: "~/derouter"}"#, "data_dir", "not expanded"),
        (
            r#"{openai: {provider: {offers: {}}}}"#,
            "openai.provider",
            "openai_base_url",
        ),
        (
            r#"{openai: {consumer: {server: {host: "here"}}}}"#,
            "openai.consumer.server.host",
            "IP address",
        ),
    ] {
        let message = error(text);
        assert!(message.contains(&format!("`{key}`")), "{text}: {message}");
        assert!(message.contains(hint), "{text}: {message}");
    }
}

#[test]
fn offers_that_cant_be_sold_are_refused() {
    let provider = |from: &str, to: &str| {
        error(&format!(
            "{{openai: {{provider: {}}}}}",
            PROVIDER.replace(from, to)
        ))
    };
    assert!(provider(r#""llama3.2""#, r#"" ""#).contains("`model_id` is empty"));
    assert!(provider("8192", "0").contains("context_size"));
    assert!(provider("http://127.0.0.1:11434/v1/", "127.0.0.1:11434").contains("base URL"));
    let twice = PROVIDER.replacen("offers: {", "offers: { llama: 1,", 1);
    assert!(error(&format!("{{openai: {{provider: {twice}}}}}")).contains("llama"));
    let none = r#"{openai: {provider: {openai_base_url: "http://127.0.0.1:1/v1", offers: {}}}}"#;
    assert!(error(none).contains("there is no offer"));
}

#[test]
fn a_file_that_is_not_json5_is_an_error_with_its_line() {
    for (text, line) in [
        ("{\n  mdns: false\n  relay_server: true\n}", "config.json:3"),
        (
            "{\n  mdns: false,\n",
            "config.json:1: the file ends too early",
        ),
        ("{}\n{}", "config.json:2"),
        ("", "config.json:1"),
    ] {
        let message = error(text);
        assert!(message.starts_with(line), "{text:?}: {message}");
        assert!(message.contains("JSON5"), "{text:?}: {message}");
    }
}

#[test]
fn a_file_that_cant_be_read_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none.json");
    let message = RunConfig::load(Some(&missing)).unwrap_err().to_string();
    assert!(
        message.contains("none.json") && message.contains("-c"),
        "{message}"
    );
    assert!(RunConfig::load(Some(directory.path())).is_err());
    std::fs::write(&missing, [0xff, 0xfe]).unwrap();
    let message = RunConfig::load(Some(&missing)).unwrap_err().to_string();
    assert!(message.contains("UTF-8"), "{message}");
}

#[test]
fn a_key_is_never_printed() {
    let text = PROVIDER.replace(r#"openai_api_key: """#, r#"openai_api_key: "sk-secret""#);
    let config = load(&format!("{{openai: {{provider: {text}}}}}")).unwrap();
    assert!(!format!("{config:?}").contains("sk-secret"));
}

#[test]
fn every_example_in_the_documents_is_a_configuration_that_works() {
    let documents = [
        include_str!("../../../../README.md"),
        include_str!("../../../../docs/config.md"),
    ];
    let mut examples = 0;
    for document in documents {
        for block in document.split("```json5").skip(1) {
            let text = block.split("```").next().unwrap();
            let file = file(text);
            let outcome = if text.contains("// provider.json") {
                read_provider(&file.path).map(drop)
            } else if text.contains("// consumer.json") {
                read_consumer(&file.path).map(drop)
            } else {
                RunConfig::load(Some(&file.path)).map(drop)
            };
            outcome.unwrap_or_else(|error| panic!("{error}\n{text}"));
            examples += 1;
        }
    }
    assert!(examples >= 4, "only {examples} found");
}

#[test]
fn who_may_use_the_rpc_and_where_it_is() {
    let config = load("{server: {allow_legacy: false}}").unwrap();
    assert!(!config.node.rpc.unwrap().allow_legacy);
    let text = PROVIDER.replacen('{', r#"{rpc: {data_dir: "/srv/derouter"},"#, 1);
    let rpc = read_provider(&file(&text).path).unwrap().rpc;
    assert_eq!(rpc.data_dir, Some(PathBuf::from("/srv/derouter")));
    // A port alone may be that of any node: its cookie is not known.
    let text = PROVIDER.replacen('{', "{rpc: {port: 5001},", 1);
    assert_eq!(read_provider(&file(&text).path).unwrap().rpc.data_dir, None);
    let usual = read_provider(&file(PROVIDER).path).unwrap().rpc;
    assert_eq!(usual.data_dir, paths::default_data_dir());
}

#[test]
fn the_terms_of_a_provider_are_read() {
    use derouter_openai::provider::{BackendCheck, MediaLinks};
    let peer = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
    let text = PROVIDER
        .replacen(
            '{',
            &format!(
                r#"{{check_backend: "alive", allow_link_local: true, media_links: "none",
                    requests_per_minute: 60, tokens_per_minute: 100000,
                    allow_consumers: ["{peer}"], block_consumers: [],
                    discover: {{input_token_price: {{$pol: "1"}}, output_token_price: {{$pol: "2"}}, max_offers: 3}},"#
            ),
            1,
        )
        .replacen(
            "context_size",
            r#"max_queue: 16, queue_seconds: 5, max_concurrency_per_consumer: 2, trial: {$pol: "0.01"},
               schedule: [{days: ["sat", "sun"], factor: 0.5}, {from: "22:00", to: "06:00", output_token_price: {$pol: "0.2"}}],
               context_size"#,
            1,
        );
    let config = load(&format!("{{openai: {{provider: {text}}}}}")).unwrap();
    let provider = &config.openai.providers[0];
    assert_eq!(provider.consumers.allow, [peer.parse().unwrap()].into());
    assert!(provider.consumers.block.is_empty());
    assert_eq!(provider.rates.requests_per_minute, Some(60));
    assert_eq!(provider.rates.tokens_per_minute, Some(100_000));
    let options = &provider.backends[0].options;
    assert_eq!(options.check, BackendCheck::Alive);
    assert!(options.allow_link_local);
    let discover = options.discover.as_ref().unwrap();
    assert_eq!(
        (discover.max_offers, discover.context_size),
        (Some(3), None)
    );
    assert_eq!(discover.terms.media_links, MediaLinks::None);
    let terms = &provider.backends[0].offers["llama"].terms;
    assert_eq!(
        (terms.max_queue, terms.max_concurrency_per_consumer),
        (16, Some(2))
    );
    assert_eq!(terms.queue_time, Some(Duration::from_secs(5)));
    assert_eq!(terms.trial, Some(pol("0.01")));
    assert_eq!(terms.schedule.len(), 2);
    assert_eq!(terms.media_links, MediaLinks::None);
}

#[test]
fn a_provider_without_offers_sells_what_its_backend_names() {
    let text = r#"{openai: {provider: {openai_base_url: "http://127.0.0.1:1/v1",
        discover: {input_token_price: {$pol: "1"}, output_token_price: {$pol: "2"}}}}}"#;
    let config = load(text).unwrap();
    let backend = &config.openai.providers[0].backends[0];
    assert!(backend.offers.is_empty() && backend.options.discover.is_some());
}

#[test]
fn terms_that_can_not_be_right_are_named() {
    let provider = |keys: &str| {
        let text = PROVIDER.replacen('{', &format!("{{{keys},"), 1);
        error(&format!("{{openai: {{provider: {text}}}}}"))
    };
    let offer = |keys: &str| {
        let text = PROVIDER.replace("context_size", &format!("{keys}, context_size"));
        error(&format!("{{openai: {{provider: {text}}}}}"))
    };
    for (keys, hint) in [
        (r#"check_backend: "never""#, "check_backend"),
        (r#"block_consumers: ["me"]"#, "block_consumers[0]"),
        ("requests_per_minute: 0", "at least 1"),
        (r#"media_links: "some""#, "media_links"),
        ("discover: {}", "input_token_price"),
    ] {
        let message = provider(keys);
        assert!(message.contains(hint), "{keys}: {message}");
    }
    for (keys, hint) in [
        ("max_queue: 5000", "from 0 to 1000"),
        ("queue_seconds: 7", "from 1 to 6"),
        ("schedule: [{factor: -1}]", "from 0 to 1000"),
        ("schedule: [{}]", "either a `factor` or prices"),
        (
            r#"schedule: [{factor: 1, from: "25:00"}]"#,
            "time of the day",
        ),
        (
            r#"schedule: [{factor: 1, days: ["monday"]}]"#,
            "days are mon",
        ),
        (
            r#"schedule: [{factor: 1, day: ["mon"]}]"#,
            "did you mean `days`",
        ),
    ] {
        let message = offer(keys);
        assert!(message.contains(hint), "{keys}: {message}");
    }
    let text = PROVIDER.replace("http://", "http://me:hunter2@");
    let message = error(&format!("{{openai: {{provider: {text}}}}}"));
    assert!(message.contains("openai_api_key"), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn what_the_endpoint_may_spend_and_who_may_use_it_is_read() {
    let text = r#"{data_dir: "/tmp/d", openai: {consumer: {
        limits: {request: {$pol: "1"}, job: {$pol: "2"}, provider_daily: {$pol: "3"}, total: {$pol: "5"}},
        server: {allowedOrigins: ["https://Chat.example.org", "http://localhost:3000/"]},
    }}}"#;
    let consumer = load(text).unwrap().openai.consumer.unwrap();
    let limits = consumer.limits;
    assert_eq!(limits.request, Some(pol("1")));
    assert_eq!(limits.job, Some(pol("2")));
    assert_eq!(limits.provider_daily, Some(pol("3")));
    assert_eq!(limits.daily, Some(pol("10")), "the default");
    assert_eq!(limits.total, Some(pol("5")));
    assert_eq!(
        consumer.allowed_origins,
        ["https://chat.example.org", "http://localhost:3000"]
    );
    assert_eq!(consumer.data_dir, Some(PathBuf::from("/tmp/d")));
    for origin in [
        "*",
        "null",
        "chat.example.org",
        "https://a/b",
        "ftp://a",
        "https://u@a",
    ] {
        let text =
            format!(r#"{{openai: {{consumer: {{server: {{allowedOrigins: ["{origin}"]}}}}}}}}"#);
        let error = load(&text).unwrap_err().to_string();
        assert!(error.contains("allowedOrigins[0]"), "{error}");
    }
}

#[test]
fn a_consumer_process_has_its_keys_where_its_node_is() {
    let data_dir = |text: &str| read_consumer(&file(text).path).unwrap().module.data_dir;
    let named = r#"{rpc: {data_dir: "/srv/derouter"}}"#;
    assert_eq!(data_dir(named), Some(PathBuf::from("/srv/derouter")));
    assert_eq!(data_dir("{}"), paths::default_data_dir());
    assert_eq!(data_dir("{rpc: {port: 5001}}"), None, "of any node");
}
