//! The dashboards of a buyer and a seller in a real browser (tests/browser).

use std::path::{Path, PathBuf};
use std::time::Duration;

use derouter_testkit::home::{offer, openai_consumer};
use derouter_testkit::{Backend, BackendOptions, Behaviour, NodeConfig, NodeHome, Pair, Process};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::DEROUTER;

/// The longest that all of it may take: it detects hangs alone.
const DEADLINE: Duration = Duration::from_secs(600);

/// The prices of the first are the tests' own.
const MODELS: [&str; 3] = [
    "llama-3.2-3b",
    "qwen3-8b",
    "Mistral-Small-3.2-24B-Instruct-2506",
];

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/browser")
}

/// Where Debian and others have it.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("DEROUTER_TEST_CHROMIUM").map(PathBuf::from);
    let usual = [
        "/usr/bin/chromium",
        "/usr/bin/chromium-browser",
        "/usr/bin/google-chrome",
    ];
    let mut all = named.into_iter().chain(usual.map(PathBuf::from));
    all.find(|path| path.exists())
}

/// What there is to run; `None` says so and skips. Where all is to be checked that is a failure.
fn installed() -> Option<PathBuf> {
    let chromium = chromium();
    let packages = scripts().join("node_modules/playwright-core").exists();
    if let Some(chromium) = chromium.filter(|_| packages) {
        return Some(chromium);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "chromium or tests/browser/node_modules is missing: run the tests with `cargo xtask test`"
    );
    eprintln!(
        "skipped: chromium or tests/browser/node_modules is missing; `cargo xtask test` installs both"
    );
    None
}

fn selling(backend: &Backend) -> NodeConfig {
    let mut offers = serde_json::Map::new();
    for (place, model) in MODELS.iter().enumerate() {
        let mut offer = offer(model);
        offer["description"] = "Served from a small machine under a desk.".into();
        offer["announce"] =
            json!({"features": ["tools", "json_schema"], "quantization": "q4_k_m", "region": "DE"});
        if place > 0 {
            offer["input_token_price"] = json!({"$pol": format!("0.{place}5")});
            offer["output_token_price"] = json!({"$pol": format!("0.{}", place * 4)});
            offer["context_size"] = json!(16_384 * place);
        }
        offers.insert((*model).to_owned(), offer);
    }
    let provider = json!({
        "check_backend": "alive",
        "openai_base_url": backend.url(),
        "offers": Value::Object(offers),
    });
    let mut config = NodeConfig::default().with(
        "provider",
        json!({"name": "Ada's house of small models", "teaser": "Small and quick"}),
    );
    config.0["openai"] = json!({"provider": provider, "consumer": openai_consumer()});
    config
}

fn door(url: &str, home: &NodeHome) -> Value {
    let text = std::fs::read_to_string(home.data_dir().join("web.json")).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    json!({"url": url, "secret": value["secret"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn people_buy_sell_and_look_around_in_a_browser() {
    let Some(chromium) = installed() else {
        return;
    };
    // As fast as a model on a small machine.
    let behaviour = Behaviour {
        chunks: 24,
        pace: Duration::from_millis(25),
        ..Behaviour::default()
    };
    let backend = Backend::start_with(BackendOptions {
        behaviour,
        ..BackendOptions::default()
    })
    .await;
    let selling = selling(&backend);
    let mut buying = NodeConfig::default();
    buying.0["openai"]["consumer"] = openai_consumer();
    buying.0["openai"]["consumer"]["limits"] =
        json!({"daily": {"$pol": "2"}, "request": {"$pol": "0.5"}});
    let pair = Pair::of_nodes(DEROUTER, backend, &selling, buying).await;
    let web = |ready: &derouter_testkit::Ready| ready.dashboard.clone().unwrap();
    let told = json!({
        "buyer": door(&web(&pair.consumer.ready), &pair.consumer_home),
        "seller": door(&web(&pair.provider.ready), &pair.provider_home),
        "gateway": pair.url(),
        "models": MODELS,
        "chromium": chromium,
        // `DEROUTER_SCREENSHOTS=docs/screenshots` renews those of the documentation.
        "shots": std::env::var("DEROUTER_SCREENSHOTS").ok(),
    });
    let mut command = Command::new("node");
    command
        .arg("dashboard.mjs")
        .arg(told.to_string())
        .current_dir(scripts());
    let exit = Process::spawn("browser", command)
        .exit_within(DEADLINE)
        .await;
    assert_eq!(exit.code, Some(0), "{}\n{}", exit.stdout, exit.stderr);
    assert!(exit.stdout.contains("all held"), "{}", exit.stdout);
}
