//! Two nodes that know nothing of each other find each other on a network of their own.

use std::path::Path;
use std::process::{Command, Stdio};

use derouter_testkit::home::openai_provider;
use derouter_testkit::{NodeConfig, NodeHome, NodeProcess, Process, eventually};
use serde_json::json;

use crate::DEROUTER;

const MODEL: &str = "test-model";

/// Whether namespaces must be there: the one who checks everything as root can make them.
fn must_work() -> bool {
    let id = Command::new("id")
        .arg("-u")
        .output()
        .map(|output| output.stdout);
    std::env::var_os("CI").is_some() && id.is_ok_and(|id| id.trim_ascii() == b"0")
}

/// Two network namespaces with a cable between them; gone when dropped.
struct Lab {
    names: [String; 2],
}

const ADDRESSES: [&str; 2] = ["10.99.7.1", "10.99.7.2"];

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Lab {
    /// `None` where namespaces can't be made.
    fn new() -> Option<Self> {
        let id = std::process::id();
        let names = [format!("derouter-{id}-a"), format!("derouter-{id}-b")];
        if !ip(&format!("netns add {}", names[0])) {
            assert!(!must_work(), "network namespaces can't be made; see above");
            return None;
        }
        let lab = Self { names };
        let [a, b] = &lab.names;
        let mut steps = vec![
            format!("netns add {b}"),
            format!("link add eth0 netns {a} type veth peer name eth0 netns {b}"),
        ];
        for (name, address) in lab.names.iter().zip(ADDRESSES) {
            steps.push(format!("-n {name} addr add {address}/24 dev eth0"));
            steps.push(format!("-n {name} link set lo up"));
            steps.push(format!("-n {name} link set eth0 up"));
            steps.push(format!("-n {name} route add 224.0.0.0/4 dev eth0"));
        }
        for step in steps {
            assert!(ip(&step), "ip {step}");
        }
        Some(lab)
    }

    fn wrap(&self, side: usize, program: &Path) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("ip");
        command
            .args(["netns", "exec", &self.names[side]])
            .arg(program);
        command
    }

    async fn start(&self, side: usize, home: &NodeHome) -> NodeProcess {
        let mut command = self.wrap(side, Path::new(DEROUTER));
        home.arguments(&mut command);
        NodeProcess::of_process(Process::spawn("node in a namespace", command)).await
    }

    /// What `curl` gets inside of a namespace.
    async fn curl(&self, side: usize, url: &str) -> String {
        let mut command = self.wrap(side, Path::new("curl"));
        command.args(["-s", "--max-time", "20", url]);
        let output = command.output().await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&format!("netns del {name}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_find_each_other_by_mdns() {
    let Some(lab) = Lab::new() else {
        eprintln!("skipped: network namespaces need root and iproute2");
        return;
    };
    let config = |side: usize| {
        let listen = json!([format!("/ip4/{}/tcp/0", ADDRESSES[side])]);
        NodeConfig::default()
            .with("mdns", true)
            .with("listen", listen)
    };
    // The backend is never asked: the offer alone has to arrive.
    let mut provider = openai_provider("http://127.0.0.1:9/v1", &[MODEL]);
    provider["check_backend"] = json!("off");
    let selling = config(0).with("openai", json!({"provider": provider}));
    let (provider_home, consumer_home) = (
        NodeHome::new("provider", &selling),
        NodeHome::new("consumer", &config(1).consumes()),
    );
    let _provider = lab.start(0, &provider_home).await;
    let consumer = lab.start(1, &consumer_home).await;
    let url = format!("{}/models", consumer.ready.openai_url());
    eventually("the offer found by mDNS", async || {
        lab.curl(1, &url).await.contains(MODEL).then_some(())
    })
    .await;
}
