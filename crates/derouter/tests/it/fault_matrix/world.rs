//! Four nodes: one that buys, an honest one with a bad backend, one whose module lies, and a good one.

use std::sync::Arc;

use derouter_openai::protocol::v0_2;
use derouter_openai::protocol::{self, OfferPayload, PolAmount};
use derouter_openai::provider::{
    BackendCheck, BackendConfig, BackendOptions as ProviderBackend, OfferConfig, ProviderConfig,
    RunningProvider, start,
};
use derouter_sdk::{JobRecord, Node, OfferId, OfferSpec, ProvideOptions, Provision, TcpNode, Wei};
use derouter_testkit::home::{offer, openai_consumer, openai_provider};
use derouter_testkit::ledger::node;
use derouter_testkit::pair::{free_port, models};
use derouter_testkit::{
    Backend, BackendOptions, Behaviour, NodeConfig, NodeHome, NodeProcess, eventually,
};
use serde_json::{Value, json};

use super::liar::{Liar, Scripts, TOKEN_WEI};
use super::{Case, Over, Who};
use crate::DEROUTER;
use crate::fault_matrix::rows::Cause;
use crate::old_only::OldOnly;

/// The most that all cases together may cost, in POL. A request that does not limit its answer may cost more.
pub(super) const TOTAL_POL: &str = "0.2";

/// All that a run needs.
pub(super) struct World {
    pub(super) consumer: NodeProcess,
    /// The honest one, the liar's, the good one.
    pub(super) providers: [NodeProcess; 3],
    pub(super) bad_backend: Backend,
    pub(super) good_backend: Backend,
    _provision: Provision,
    _old: RunningProvider,
    _homes: Vec<NodeHome>,
}

async fn node_of(name: &str, config: &NodeConfig, homes: &mut Vec<NodeHome>) -> NodeProcess {
    let home = NodeHome::new(name, config);
    let process = home.start(DEROUTER).await;
    homes.push(home);
    process
}

fn offers<'a>(cases: impl Iterator<Item = &'a Case>) -> Value {
    let offers = cases.map(|case| (case.model.clone(), offer(&case.model)));
    Value::Object(offers.collect())
}

/// An honest provider's sections. Its backends are not looked at: they would leave the market.
fn honest(backend: &str, cases: &[Case]) -> Value {
    let section = |url: &str, wanted: fn(&Cause) -> bool| {
        let own = cases
            .iter()
            .filter(|case| case.over == Over::New && wanted(&case.row.cause));
        let mut section = openai_provider(url, &[]);
        section["check_backend"] = "off".into();
        section["offers"] = offers(own);
        section
    };
    let nowhere = format!("http://127.0.0.1:{}/v1", free_port());
    let bad = |cause: &Cause| matches!(cause, Cause::Backend(_) | Cause::BackendAtFirst(_));
    json!([
        section(backend, bad),
        section(&nowhere, |cause| matches!(cause, Cause::NoBackend)),
    ])
}

fn liar_offers(cases: &[Case]) -> (Scripts, Vec<OfferSpec>) {
    let (mut scripts, mut specs) = (Scripts::new(), Vec::new());
    for case in cases {
        let Cause::Provider(accept, steps) = case.row.cause else {
            continue;
        };
        scripts.insert(case.model.clone(), (accept, steps));
        let (protocol_id, protocol_payload) = match case.over {
            Over::New => (v0_2::protocol_id(), payload_0_2(&case.model)),
            Over::Old => (protocol::protocol_id(), payload_0_1(&case.model)),
        };
        specs.push(OfferSpec {
            protocol_id,
            offer_id: OfferId::new(&case.model).unwrap(),
            protocol_payload,
        });
    }
    (scripts, specs)
}

fn payload_0_2(model: &str) -> String {
    let (input, output) = TOKEN_WEI;
    json!({"models": [model], "endpoints": ["chat/completions"], "context": 131_072, "max_concurrency": 64,
        "prices": {"input": input.to_string(), "output": output.to_string()}})
    .to_string()
}

fn million(token: u128) -> Wei {
    Wei::from_wei(token * 1_000_000)
}

fn payload_0_1(model: &str) -> String {
    let (input, output) = TOKEN_WEI;
    let payload = OfferPayload {
        model_id: model.to_owned(),
        context_size: 131_072,
        input_token_price: PolAmount {
            wei: million(input),
        },
        output_token_price: PolAmount {
            wei: million(output),
        },
        trial: None,
        description: None,
    };
    payload.to_json()
}

/// The same honest provider module as the node's, with offers of `openai:0.1` alone.
async fn old_provider(at: TcpNode, backend: &str, cases: &[Case]) -> RunningProvider {
    let nowhere = format!("http://127.0.0.1:{}/v1", free_port());
    let (input, output) = TOKEN_WEI;
    let section = |url: &str, wanted: fn(&Cause) -> bool| {
        let own = cases
            .iter()
            .filter(|case| case.over == Over::Old && wanted(&case.row.cause));
        let offers = own.map(|case| {
            let config = OfferConfig {
                model_id: case.model.clone(),
                context_size: 131_072,
                description: None,
                input_token_price: million(input),
                output_token_price: million(output),
                max_concurrency: Some(64),
                backend_model: None,
                terms: Default::default(),
            };
            (case.model.clone(), config)
        });
        BackendConfig {
            base_url: url.parse().unwrap(),
            api_key: None,
            offers: offers.collect(),
            options: ProviderBackend {
                check: BackendCheck::Off,
                ..ProviderBackend::default()
            },
        }
    };
    let config = ProviderConfig {
        backends: vec![
            section(backend, |cause| {
                matches!(cause, Cause::Backend(_) | Cause::BackendAtFirst(_))
            }),
            section(&nowhere, |cause| matches!(cause, Cause::NoBackend)),
        ],
        ..ProviderConfig::default()
    };
    start(Arc::new(OldOnly(at)), config).await.unwrap()
}

impl World {
    pub(super) async fn start(cases: &[Case]) -> Self {
        let bad_backend = Backend::start().await;
        let good_backend = Backend::start_with(BackendOptions {
            behaviour: Behaviour {
                obeys: false,
                ..Behaviour::default()
            },
            ..BackendOptions::default()
        })
        .await;
        let mut homes = Vec::new();
        let selling = json!({"provider": honest(&bad_backend.url(), cases)});
        let selling = NodeConfig::default().with("openai", selling);
        let honest = node_of("honest", &selling, &mut homes).await;
        let liar = node_of("liar", &NodeConfig::default(), &mut homes).await;
        let mut section = openai_provider(&good_backend.url(), &[]);
        section["offers"] = offers(cases.iter().filter(|case| case.other));
        let selling = NodeConfig::default().with("openai", json!({"provider": section}));
        let good = node_of("good", &selling, &mut homes).await;
        let providers = [honest, liar, good];

        let mut buying = openai_consumer();
        buying["limits"] = json!({"daily": {"$pol": "1000"}, "total": {"$pol": TOTAL_POL}});
        // Long for what answers, on a busy machine; short for what does not.
        buying["timeouts"] =
            json!({"connect": 4, "first_token": 4, "plain_answer": 4, "between_chunks": 4});
        let mut config = NodeConfig::default().with("openai", json!({"consumer": buying}));
        for provider in &providers {
            config = config.bootstrap(provider.ready.bootstrap());
        }
        let consumer = node_of("consumer", &config, &mut homes).await;

        let at = node(&providers[1].ready);
        let (scripts, specs) = liar_offers(cases);
        let liar = Arc::new(Liar::new(scripts));
        let provision = at.provide(specs, ProvideOptions::default(), liar).await;
        let old = old_provider(at, &bad_backend.url(), cases).await;
        let url = consumer.ready.openai_url().to_owned();
        eventually("all offers at the gateway", async || {
            let known = models(&url).await?;
            let all = cases.iter().all(|case| known.contains(&case.model));
            all.then_some(())
        })
        .await;
        wait_second_offers(&url, cases).await;
        Self {
            consumer,
            providers,
            bad_backend,
            good_backend,
            _provision: provision.unwrap(),
            _old: old,
            _homes: homes,
        }
    }

    pub(super) fn url(&self) -> &str {
        self.consumer.ready.openai_url()
    }

    pub(super) fn peer(&self, who: Who) -> &str {
        let [honest, liar, good] = &self.providers;
        let node = match who {
            Who::Honest => honest,
            Who::Liar => liar,
            Who::Good => good,
        };
        &node.ready.peer_id
    }

    /// All jobs, as each node has them: of the consumer, and of the providers.
    pub(super) async fn jobs(&self) -> (Vec<JobRecord>, Vec<JobRecord>) {
        let mut sold = Vec::new();
        for provider in &self.providers {
            sold.extend(derouter_testkit::ledger::jobs(&node(&provider.ready)).await);
        }
        let bought = derouter_testkit::ledger::jobs(&node(&self.consumer.ready)).await;
        (bought, sold)
    }
}

/// The models that two sell are there twice.
async fn wait_second_offers(url: &str, cases: &[Case]) {
    eventually("the good provider's offers at the gateway", async || {
        let answer = derouter_testkit::http::get(&format!("{url}/models"))
            .await
            .ok()?;
        let list = answer.json();
        let twice = list["data"]
            .as_array()?
            .iter()
            .filter(|model| model["providers"] == 2)
            .count();
        (twice == cases.iter().filter(|case| case.other).count()).then_some(())
    })
    .await;
}
