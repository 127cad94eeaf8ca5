//! A second provider beside a slow one: who begins first answers, and nobody is paid for nothing.

mod loser;

use std::sync::Arc;
use std::time::{Duration, Instant};

use derouter_openai::protocol::v0_2;
use derouter_sdk::{Node, OfferId, OfferSpec, ProvideOptions, Provision, Wei};
use derouter_testkit::home::{openai_consumer, openai_provider};
use derouter_testkit::ledger::{jobs, node};
use derouter_testkit::{
    Backend, Behaviour, Fault, NodeConfig, NodeHome, NodeProcess, Outcome, eventually, http,
};
use serde_json::{Value, json};

use crate::DEROUTER;
use loser::{Loser, PROMPT, TOKEN_WEI};

const MODEL: &str = "test-model";

/// As long as the timer for the first token.
const FIRST_TOKEN: Duration = Duration::from_secs(4);

/// The most that a request may cost, in POL.
const LIMIT: &str = "0.05";

/// Two of the first fit into that, and one of the second.
const FEW: u64 = 100;
const MANY: u64 = 18_000;

struct World {
    consumer: NodeProcess,
    slow: NodeProcess,
    other: NodeProcess,
    slow_backend: Backend,
    other_backend: Backend,
    _provision: Option<Provision>,
    _homes: Vec<NodeHome>,
}

async fn start(name: &str, config: &NodeConfig, homes: &mut Vec<NodeHome>) -> NodeProcess {
    let home = NodeHome::new(name, config);
    let node = home.start(DEROUTER).await;
    homes.push(home);
    node
}

/// Sells what this module answers.
async fn sell(node: &NodeProcess, module: Loser) -> Provision {
    let token = TOKEN_WEI.to_string();
    let payload = json!({"models": [MODEL], "endpoints": ["chat/completions"], "context": 131_072,
        "prices": {"input": token, "output": token}});
    let offer = OfferSpec {
        protocol_id: v0_2::protocol_id(),
        offer_id: OfferId::new("o").unwrap(),
        protocol_payload: payload.to_string(),
    };
    let at = derouter_testkit::ledger::node(&node.ready);
    let provided = at.provide(vec![offer], ProvideOptions::default(), Arc::new(module));
    provided.await.unwrap()
}

impl World {
    /// The slow one is this module, or has a backend that can be made slow.
    async fn start(module: Option<Loser>) -> Self {
        let mut homes = Vec::new();
        let (slow_backend, other_backend) = (Backend::start().await, Backend::start().await);
        let selling = |backend: &Backend| {
            let provider = openai_provider(&backend.url(), &[MODEL]);
            NodeConfig::default().with("openai", json!({"provider": provider}))
        };
        let slow = match module {
            Some(_) => NodeConfig::default(),
            None => selling(&slow_backend),
        };
        let slow = start("slow", &slow, &mut homes).await;
        let other = start("other", &selling(&other_backend), &mut homes).await;
        let mut buying = openai_consumer();
        buying["limits"]["request"] = json!({"$pol": LIMIT});
        buying["timeouts"] = json!({"first_token": FIRST_TOKEN.as_secs()});
        let config = NodeConfig::default()
            .with("openai", json!({"consumer": buying}))
            .bootstrap(slow.ready.bootstrap())
            .bootstrap(other.ready.bootstrap());
        let consumer = start("consumer", &config, &mut homes).await;
        let provision = match module {
            Some(module) => Some(sell(&slow, module).await),
            None => None,
        };
        let url = format!("{}/models", consumer.ready.openai_url());
        eventually("both offers", async || {
            let list = http::get(&url).await.ok()?.json();
            (list["data"][0]["providers"] == 2).then_some(())
        })
        .await;
        Self {
            consumer,
            slow,
            other,
            slow_backend,
            other_backend,
            _provision: provision,
            _homes: homes,
        }
    }

    /// Asks the slow one first.
    async fn ask(&self, hedge: Value, max_tokens: u64) -> http::Answer {
        let body = json!({
            "model": MODEL, "stream": true, "max_tokens": max_tokens,
            "messages": [{"role": "user", "content": "Say some words"}],
            "derouter": {"order": [self.slow.ready.peer_id], "hedge": hedge},
        });
        let url = format!("{}/chat/completions", self.consumer.ready.openai_url());
        let answer = http::post_json(&url, &body).await.unwrap();
        let text = answer.text();
        assert_eq!(answer.status, 200, "{text}");
        assert_eq!(
            text.matches("\"assistant\"").count(),
            1,
            "one answer: {text}"
        );
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        answer
    }

    /// How often a second provider was asked.
    fn hedged(&self) -> usize {
        let log = self.consumer.process().stderr();
        let told = |line: &&String| line.contains("a second provider is asked");
        log.iter().filter(told).count()
    }

    /// The jobs that the consumer signed with each, once all have ended.
    async fn signed(&self) -> (usize, usize) {
        let consumer = node(&self.consumer.ready);
        let bought = eventually("all jobs to end", async || {
            let all = jobs(&consumer).await;
            let open = all
                .iter()
                .any(|job| job.reason.is_none() && job.signature_confirmed_at_local.is_none());
            (!open).then_some(all)
        })
        .await;
        let with = |peer: &str| {
            let own = bought.iter().filter(|job| {
                job.provider_peer_id.to_string() == peer
                    && job.signature_confirmed_at_local.is_some()
            });
            own.count()
        };
        (
            with(&self.slow.ready.peer_id),
            with(&self.other.ready.peer_id),
        )
    }

    fn is_from(answer: &http::Answer, node: &NodeProcess) -> bool {
        answer.header("x-derouter-provider") == Some(&node.ready.peer_id)
    }
}

async fn nothing_runs(backend: &Backend) {
    eventually("the backend to rest", async || {
        let running = |seen: &derouter_testkit::SeenRequest| seen.outcome == Outcome::Running;
        (!backend.seen().iter().any(running)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_first_token_is_hedged_within_the_limits_and_the_loser_is_not_paid() {
    let world = World::start(None).await;
    let usual = 10;
    for _ in 0..usual {
        let answer = world.ask(json!(false), FEW).await;
        assert!(World::is_from(&answer, &world.slow), "asked first");
    }
    assert_eq!(world.signed().await, (usual, 0));

    // Stuck: the other one answers long before the timer.
    world.slow_backend.set_fault(Some(Fault::StallFirst));
    let begin = Instant::now();
    let answer = world.ask(json!(95), FEW).await;
    assert!(World::is_from(&answer, &world.other));
    assert_eq!(answer.header("x-derouter-attempts"), Some("2"));
    assert!(begin.elapsed() < FIRST_TOKEN, "{:?}", begin.elapsed());
    assert_eq!(world.hedged(), 1);
    nothing_runs(&world.slow_backend).await;
    assert_eq!(world.signed().await, (usual, 1), "the loser is not paid");

    // Slow, and the other one stuck: the first answers after all, and the other one is not paid.
    world.other_backend.set_fault(Some(Fault::StallFirst));
    world.slow_backend.set_behaviour(Behaviour {
        pace: Duration::from_millis(150),
        chunks: 2,
        ..Behaviour::default()
    });
    // The budget: a tenth of the requests that may be hedged.
    for _ in 0..10 {
        world.ask(json!(50), FEW).await;
    }
    assert!(world.hedged() >= 2, "{}", world.hedged());
    nothing_runs(&world.other_backend).await;
    assert_eq!(world.signed().await, (usual + 10, 1));

    // Both worst cases together are over the limit: the other one is asked when the first has failed.
    world.other_backend.set_fault(None);
    world.slow_backend.set_behaviour(Behaviour {
        fault: Some(Fault::StallFirst),
        ..Behaviour::default()
    });
    let hedged = world.hedged();
    let begin = Instant::now();
    let answer = world.ask(json!(50), MANY).await;
    assert!(World::is_from(&answer, &world.other));
    assert!(begin.elapsed() >= FIRST_TOKEN, "{:?}", begin.elapsed());
    assert_eq!(world.hedged(), hedged, "not within the limits");
    assert_eq!(world.signed().await, (usual + 10, 2));
}

/// What is paid to a provider that sends so many words when it hears that another one was quicker.
async fn paid_to_a_loser(late: u64) -> Option<Wei> {
    let usual = 8;
    let world = World::start(Some(Loser::new(usual, late))).await;
    for _ in 0..usual {
        world.ask(json!(false), FEW).await;
    }
    let begin = Instant::now();
    // More words than the loser sends: a limit of the client's does not bound its bill.
    let answer = world.ask(json!(95), 2 * late).await;
    assert!(World::is_from(&answer, &world.other));
    assert!(begin.elapsed() < FIRST_TOKEN, "{:?}", begin.elapsed());
    assert_eq!(world.hedged(), 1);
    let (signed, with_other) = world.signed().await;
    assert_eq!(with_other, 1);
    let bought = jobs(&node(&world.consumer.ready)).await;
    let slow = bought
        .iter()
        .filter(|job| job.provider_peer_id.to_string() == world.slow.ready.peer_id);
    let last = slow.max_by_key(|job| job.job_rowid).unwrap();
    let paid = last.signature_confirmed_at_local.is_some();
    assert_eq!(signed, usual + usize::from(paid));
    let balance = last.balance_delta.as_deref().filter(|_| paid);
    balance.map(|balance| balance.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loser_is_paid_what_was_under_way_and_nothing_that_it_sends_because_it_lost() {
    let cost = |tokens: u64| Wei::from_wei(u128::from(TOKEN_WEI * tokens));
    assert_eq!(paid_to_a_loser(2).await, Some(cost(PROMPT + 2)));
    assert_eq!(paid_to_a_loser(1000).await, None);
}
