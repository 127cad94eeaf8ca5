//! `derouter chat`, and who may see what was spent.

use derouter_testkit::backend::answer::{self, Kind};
use derouter_testkit::fault::Fault;
use derouter_testkit::http;
use serde_json::json;

use super::*;

/// Content chunks that the testkit's backend answers by default.
const CHUNKS: usize = 8;

fn body() -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": "Say some words"}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_streams_the_answer_and_tells_what_it_took_and_cost() {
    let pair = pair().await;
    let home = &pair.consumer_home;
    let expected = answer::text(Kind::Chat, &body(), CHUNKS);
    let told = chat(&pair).await;
    assert_eq!(told["text"], expected);
    assert_eq!(told["complete"], true);
    assert_eq!(told["provider"], pair.provider.ready.peer_id.to_string());
    // As the ledger has it: 1e12 and 2e12 wei a token.
    let usage = &told["usage"];
    let tokens = |key: &str| usage[key].as_u64().unwrap();
    let micro = tokens("prompt_tokens") + 2 * tokens("completion_tokens");
    let cost: f64 = told["cost"].as_str().unwrap().parse().unwrap();
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let right = micro as f64 / 1e6;
    assert!((cost - right).abs() < 1e-12, "{told}");

    let exit = run(home, &["chat", MODEL, "Say some words"]).await;
    expect(&exit, 0, "");
    assert_eq!(exit.stdout.trim_end(), expected.trim_end());
    for part in ["tokens", "first after", "POL", "from "] {
        assert!(exit.stderr.contains(part), "{part}: {}", exit.stderr);
    }
    let quiet = run(home, &["chat", MODEL, "Say some words", "-q"]).await;
    assert!(quiet.stderr.is_empty(), "{}", quiet.stderr);
    // The cheapest model, and nothing on the standard input.
    let none = run(home, &["chat"]).await;
    expect(&none, 2, "there is no prompt");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_says_what_kept_a_chat_from_its_answer() {
    let pair = pair().await;
    let home = &pair.consumer_home;
    let exit = run(home, &["chat", "absent-model", "x", "--json"]).await;
    assert_eq!(exit.code, Some(6), "{exit:?}");
    let error: Value = serde_json::from_str(&exit.stderr).unwrap();
    assert_eq!(error["kind"], "no_offer");
    let cheap = run(home, &["chat", MODEL, "x", "--max-price", "0.000001"]).await;
    expect(&cheap, 6, "max_price");

    pair.backend.set_fault(Some(Fault::ServerError));
    expect(&run(home, &["chat", MODEL, "x"]).await, 8, "");
    pair.backend.set_fault(None);

    let made = run(
        home,
        &["token", "create", "small", "--per-request", "0.0000001"],
    )
    .await;
    let key = made.stdout.trim().to_owned();
    let with_key = [("DEROUTER_API_KEY", key.as_str())];
    // It counts within a second.
    let limited = derouter_testkit::eventually("the first key", async || {
        let exit = run_with(home, &["chat", MODEL, "x"], &with_key).await;
        (exit.code != Some(0)).then_some(exit)
    })
    .await;
    expect(&limited, 7, "one request of this key");
    let wrong = run_with(
        home,
        &["chat", MODEL, "x"],
        &[("DEROUTER_API_KEY", "dr-wrong")],
    )
    .await;
    expect(&wrong, 5, "");
    // The user that runs the node needs no key.
    expect(&run(home, &["chat", MODEL, "x"]).await, 0, "");
}

async fn get(url: &str, key: &str) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.get(url);
    if !key.is_empty() {
        request = request.bearer_auth(key);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.bytes().await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_sees_what_it_spent_and_the_owner_sees_all() {
    let pair = pair().await;
    let home = &pair.consumer_home;
    let base = pair.url().trim_end_matches("/v1").to_owned();
    let spending = format!("{base}/derouter/spending");
    chat(&pair).await;
    // Without keys, whoever may spend may see. A job is signed behind its answer's last byte.
    let all = derouter_testkit::eventually("what the chat cost", async || {
        let (status, all) = get(&spending, "").await;
        assert_eq!(status, 200);
        (all["total"] != "0").then_some(all)
    })
    .await;
    assert_eq!(all["providers"].as_array().unwrap().len(), 1);

    let made = run(home, &["token", "create", "one", "--daily", "5"]).await;
    let one = made.stdout.trim().to_owned();
    run(home, &["token", "create", "two", "--models", "other*"]).await;
    let (status, _) = derouter_testkit::eventually("the keys", async || {
        let seen = get(&spending, "").await;
        (seen.0 == 401).then_some(seen)
    })
    .await;
    assert_eq!(status, 401);
    let (_, own) = get(&spending, &one).await;
    assert_eq!(own["total"], "0");
    assert_eq!(own["providers"], json!([]));
    assert_eq!(own["counts"], json!(null));
    let names: Vec<&str> = own["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["one"]);
    assert_eq!(own["limits"][0]["left"], "5");

    let cookie = std::fs::read_to_string(home.data_dir().join("openai.cookie")).unwrap();
    let (_, owners) = get(&spending, cookie.trim()).await;
    assert_eq!(owners["total"], all["total"]);
    assert_eq!(owners["keys"].as_array().unwrap().len(), 2);
    let (status, _) = get(&spending, "dro-0000").await;
    assert_eq!(status, 401);
    // What others may not buy they don't see.
    let made = run(home, &["token", "create", "three", "--models", "nothing"]).await;
    let three = made.stdout.trim().to_owned();
    let (_, offers) = derouter_testkit::eventually("the third key", async || {
        let seen = get(&format!("{base}/derouter/offers"), &three).await;
        (seen.0 == 200).then_some(seen)
    })
    .await;
    assert_eq!(offers["total"], 0);
    let answer = http::get(&format!("{base}/derouter/offers?limit=x"))
        .await
        .unwrap();
    assert_eq!(answer.status, 401);
}
