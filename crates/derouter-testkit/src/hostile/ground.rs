//! Where the nodes and their attackers are: machines on the internet of a network lab, or all of them
//! this one where no lab can be made.

use std::future::Future;
use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::json;
use tokio::process::Command;

use crate::backend::Backend;
use crate::home::{NodeConfig, NodeHome};
use crate::lab::{Lab, Nat, Site};
use crate::pair::models;
use crate::process::{NodeProcess, Process};
use crate::wait::eventually;

/// Where nodes in a lab listen.
const PORT: u16 = 4001;
/// Addresses of an attacker's machine: those of a /24 but for the network, its gateway and the
/// broadcast.
const ADDRESSES: std::ops::RangeInclusive<u8> = 2..=254;

/// A machine that programs run on.
#[derive(Debug)]
pub enum Machine {
    /// This one.
    Here,
    /// A public host of a lab.
    Site(Box<Site>),
}

impl Machine {
    /// The command that runs `program` there.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        match self {
            Machine::Here => Command::new(program.as_ref()),
            Machine::Site(site) => site.host.command(program),
        }
    }

    /// Runs a future there: its sockets are that machine's.
    pub async fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> T {
        match self {
            Machine::Here => future.await,
            Machine::Site(site) => site.host.run(future).await,
        }
    }

    fn public_address(&self) -> Option<Ipv4Addr> {
        match self {
            Machine::Here => None,
            Machine::Site(site) => Some(site.public_address()),
        }
    }

    fn configure(&self, config: NodeConfig) -> NodeConfig {
        match self {
            Machine::Here => config,
            Machine::Site(_) => config.with("listen", json!([format!("/ip4/0.0.0.0/tcp/{PORT}")])),
        }
    }
}

/// A node on a machine.
#[derive(Debug)]
pub struct Placed {
    /// The node.
    pub node: NodeProcess,
    /// Where others reach it.
    pub address: String,
    _home: NodeHome,
    /// The last to go.
    pub machine: Machine,
}

impl Placed {
    async fn start(binary: &Path, name: &str, machine: Machine, config: NodeConfig) -> Self {
        let home = NodeHome::new(name, &machine.configure(config));
        let mut command = machine.command(binary);
        home.arguments(&mut command);
        // It logs what a node logs whose operator says nothing.
        command.env_remove("RUST_LOG");
        let node = NodeProcess::of_process(Process::spawn(name, command)).await;
        let address = match machine.public_address() {
            None => node.ready.bootstrap(),
            Some(ip) => format!("/ip4/{ip}/tcp/{PORT}/p2p/{}", node.ready.peer_id),
        };
        Self {
            node,
            address,
            _home: home,
            machine,
        }
    }

    /// The process id of the node.
    pub fn pid(&self) -> u32 {
        self.node.process().pid()
    }
}

/// A provider and a consumer that trade, and room for attackers.
#[derive(Debug)]
pub struct Ground {
    /// Sells what the backend answers.
    pub provider: Placed,
    /// Buys it.
    pub consumer: Placed,
    _backend: Backend,
    /// The last to go, after all that is attached to it.
    lab: Option<Lab>,
    attackers: usize,
}

impl Ground {
    /// Starts both nodes, in a lab where one can be made, and waits until the model can be bought.
    pub async fn start(binary: &Path, model: &str) -> Self {
        let mut lab = match Lab::unavailable() {
            None => Some(Lab::new()),
            Some(reason) => {
                eprintln!("all on 127.0.0.1, where no limit by network holds: {reason}");
                None
            }
        };
        let mut machine = |name: &str| site(lab.as_mut(), name);
        let (seller, buyer) = (machine("provider"), machine("consumer"));
        let backend = seller.run(Backend::start()).await;
        let selling = NodeConfig::default().provides(&backend.url(), &[model]);
        let provider = Placed::start(binary, "provider", seller, selling).await;
        let buying = NodeConfig::default().consumes();
        let buying = buying.bootstrap(provider.address.clone());
        let consumer = Placed::start(binary, "consumer", buyer, buying).await;
        let ground = Self {
            provider,
            consumer,
            _backend: backend,
            lab,
            attackers: 0,
        };
        ground.wait_model(model).await;
        ground
    }

    async fn wait_model(&self, model: &str) {
        eventually("the model at the consumer", async || {
            let url = self.url();
            let asked = self.consumer.machine.run(async move { models(&url).await });
            asked
                .await?
                .iter()
                .any(|known| known == model)
                .then_some(())
        })
        .await;
    }

    /// Both nodes.
    pub fn nodes(&self) -> [&Placed; 2] {
        [&self.provider, &self.consumer]
    }

    /// The consumer's OpenAI endpoint, for its own machine.
    pub fn url(&self) -> String {
        self.consumer.node.ready.openai_url().to_owned()
    }

    /// A machine in a network that no attack came from yet: nothing is held against it. Its connections
    /// come from all addresses of a /24 in turn.
    pub fn attackers(&mut self) -> Machine {
        self.attackers += 1;
        let machine = site(self.lab.as_mut(), &format!("attackers{}", self.attackers));
        if let Machine::Site(site) = &machine {
            take_turns(site);
        }
        machine
    }
}

fn site(lab: Option<&mut Lab>, name: &str) -> Machine {
    lab.map_or(Machine::Here, |lab| {
        Machine::Site(Box::new(lab.site(name, Nat::Public)))
    })
}

/// Gives a host all addresses of its /24, and each of its connections another of them.
fn take_turns(site: &Site) {
    let [a, b, c, own] = site.public_address().octets();
    let others = ADDRESSES.filter(|last| *last != own);
    let steps = others.map(|last| format!("addr add {a}.{b}.{c}.{last}/24 dev wan"));
    site.host.ip(&steps.collect::<Vec<_>>());
    let places = ADDRESSES.enumerate();
    let map = places.map(|(place, last)| format!("{place} : {a}.{b}.{c}.{last}"));
    let map: Vec<_> = map.collect();
    site.host.nft(&format!(
        r#"
table ip turns {{
    chain postrouting {{
        type nat hook postrouting priority srcnat
        oifname "wan" snat to numgen inc mod {} map {{ {} }}
    }}
}}
"#,
        map.len(),
        map.join(", ")
    ));
}
