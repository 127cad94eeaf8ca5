//! `derouter provide`: what is sold is seen and changed while the node runs.

use derouter_testkit::backend::answer::{self, Kind};
use derouter_testkit::fault::Fault;
use derouter_testkit::pair::{wait_model, wait_no_model};
use serde_json::json;

use super::*;

/// The offer's id, as the testkit names it.
async fn offer_id(pair: &Pair) -> String {
    let list = json(&pair.provider_home, &["provide", "list"]).await;
    let offers = list["providers"][0]["offers"].as_array().unwrap().clone();
    assert_eq!(offers.len(), 1, "{list}");
    offers[0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_is_paused_and_resumed_and_answers_that_run_go_on() {
    let pair = pair().await;
    let home = &pair.provider_home;
    let id = offer_id(&pair).await;
    let change = json(home, &["provide", "pause", &id]).await;
    assert_eq!(change["followed"], true, "{change}");
    assert_eq!(change["now"]["state"], "paused");
    wait_no_model(pair.url(), MODEL).await;
    let list = json(home, &["provide", "list"]).await;
    let why = &list["providers"][0]["offers"][0]["why_nobody_buys"];
    assert_eq!(why[0]["code"], "paused", "{list}");
    expect(&run(home, &["provide", "resume", &id]).await, 0, "resumed");
    wait_model(pair.url(), MODEL).await;
    chat(&pair).await;
    expect(
        &run(home, &["provide", "pause", "none"]).await,
        2,
        "no offer",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_of_the_configuration_is_changed_removed_and_restored() {
    let pair = pair().await;
    let home = &pair.provider_home;
    let id = offer_id(&pair).await;
    let arguments = [
        "provide",
        "edit",
        &id,
        "--in-price",
        "3",
        "--max-concurrency",
        "2",
        "--feature",
        "tools",
        "--schedule",
        "x1",
        "--schedule",
        "sat,sun 22:00-06:00 0.1/-",
        "--region",
        "DE",
        "--max-output",
        "100",
    ];
    let change = json(home, &arguments).await;
    assert_eq!(change["now"]["own_price"]["input"], "3");
    assert_eq!(change["now"]["slots"], 2);
    assert_eq!(change["now"]["edited"], true);
    assert_eq!(change["now"]["schedule"][0]["now"], true);
    assert_eq!(
        change["now"]["schedule"][1]["text"],
        "sat,sun 22:00-06:00 0.1/-"
    );
    derouter_testkit::eventually("the new price at the consumer", async || {
        let offers = json(&pair.consumer_home, &["offers", "list"]).await;
        let offer = &offers["offers"][0];
        (offer["prices"]["input"] == "3" && offer["features"] == json!(["tools"])).then_some(())
    })
    .await;
    let told = chat(&pair).await;
    let tokens = |key: &str| told["usage"][key].as_f64().unwrap();
    let right = (3.0 * tokens("prompt_tokens") + 2.0 * tokens("completion_tokens")) / 1e6;
    let cost: f64 = told["cost"].as_str().unwrap().parse().unwrap();
    assert!((cost - right).abs() < 1e-12, "{told}");

    let out = json(
        home,
        &[
            "provide",
            "edit",
            &id,
            "--schedule",
            "",
            "--max-output",
            "0",
        ],
    )
    .await;
    assert_eq!(out["now"]["schedule"], json!([]));
    assert_eq!(
        (&out["now"]["max_output"], &out["now"]["region"]),
        (&json!(null), &json!("DE"))
    );
    let wrong = run(home, &["provide", "edit", &id, "--schedule", "noon"]).await;
    expect(&wrong, 2, "no window of prices");

    let change = json(home, &["provide", "remove", &id]).await;
    assert_eq!(change["now"], json!(null));
    wait_no_model(pair.url(), MODEL).await;
    let change = json(home, &["provide", "restore", &id]).await;
    assert_eq!(change["now"]["own_price"]["input"], "1");
    assert_eq!(change["now"]["edited"], false);
    wait_model(pair.url(), MODEL).await;
    expect(
        &run(home, &["provide", "restore", &id]).await,
        2,
        "nothing was changed",
    );
    expect(
        &run(home, &["provide", "edit", &id]).await,
        2,
        "nothing to change",
    );
    let none = run(home, &["provide", "edit", &id, "--max-concurrency", "0"]).await;
    expect(&none, 2, "at least 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_is_added_bought_and_outlasts_a_restart() {
    let mut pair = pair().await;
    let home = &pair.provider_home;
    let arguments = [
        "provide",
        "add",
        "second",
        "--model",
        "second-model",
        "--backend-model",
        MODEL,
        "--context",
        "4096",
        "--in-price",
        "2",
        "--out-price",
        "4",
    ];
    let change = json(home, &arguments).await;
    assert_eq!(change["now"]["origin"], "added", "{change}");
    wait_model(pair.url(), "second-model").await;
    let told = json(&pair.consumer_home, &["chat", "second-model", "words"]).await;
    assert_eq!(told["offer"], "second");
    let asked = pair.backend.seen().pop().unwrap();
    assert_eq!(asked.body["model"], MODEL, "by its name at the backend");
    expect(&run(home, &arguments).await, 2, "already");
    let elsewhere = [
        "provide",
        "edit",
        "second",
        "--backend",
        "http://127.0.0.1:9/v1",
    ];
    expect(&run(home, &elsewhere).await, 2, "has no backend");

    let provider = pair.provider.terminate().await;
    assert_eq!(provider.code, Some(0));
    // While no node runs, it counts from the next start.
    let edit = run(home, &["provide", "pause", "second"]).await;
    expect(&edit, 0, "next start");
    pair.provider = pair.provider_home.start(DEROUTER).await;
    let list = json(&pair.provider_home, &["provide", "list"]).await;
    let offers = list["providers"][0]["offers"].as_array().unwrap();
    let second = offers.iter().find(|offer| offer["id"] == "second").unwrap();
    assert_eq!(second["state"], "paused");
    assert_eq!(second["origin"], "added");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_says_what_kept_buyers_away() {
    let pair = pair().await;
    let home = &pair.provider_home;
    chat(&pair).await;
    let list = json(home, &["provide", "list"]).await;
    let offer = &list["providers"][0]["offers"][0];
    assert_eq!(offer["last_hour"]["taken"], 1, "{offer}");
    assert_eq!(offer["price_rank"], json!({"place": 1, "of": 1}));
    assert_ne!(offer["income_today"], "0");
    let exit = run(home, &["provide", "list"]).await;
    expect(&exit, 0, "1/1");
    pair.backend.set_fault(Some(Fault::ServerError));
    run(&pair.consumer_home, &["chat", MODEL, "x"]).await;
    let id = offer["id"].as_str().unwrap();
    let exit = run(home, &["provide", "list", id]).await;
    expect(&exit, 0, "failed at the backend");
    expect(&exit, 0, "own price");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_own_backend_is_tested_and_measured_without_a_sale() {
    let pair = pair().await;
    let home = &pair.provider_home;
    let tested = json(home, &["provide", "test"]).await;
    let checks = tested["offers"][0]["checks"].as_array().unwrap();
    let names: Vec<&str> = checks
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["answer", "metering", "streamed answer", "streamed metering"]
    );
    assert!(
        checks.iter().all(|check| check["state"] == "ok"),
        "{tested}"
    );
    let body = json!({"model": MODEL, "messages": [{"role": "user", "content": "x"}]});
    assert!(!answer::text(Kind::Chat, &body, 8).is_empty());

    let bench = json(
        home,
        &[
            "provide",
            "bench",
            "--parallel",
            "3",
            "--tokens",
            "16",
            "--rounds",
            "2",
        ],
    )
    .await;
    let measured = bench["measured"].as_array().unwrap();
    assert_eq!(measured.len(), 2, "{bench}");
    assert_eq!(measured[1]["at_once"], 3);
    assert!(measured.iter().all(|one| one["failed"] == 0));
    expect(
        &run(
            home,
            &["provide", "bench", "--rounds", "1", "--tokens", "16"],
        )
        .await,
        0,
        "AT ONCE",
    );

    pair.backend.set_fault(Some(Fault::ServerError));
    let exit = run(home, &["provide", "test"]).await;
    expect(&exit, 8, "fail");
    expect(&run(home, &["provide", "bench"]).await, 8, "");
    pair.backend.set_fault(None);
    // No job was made of any of that.
    assert_eq!(json(home, &["jobs", "list"]).await["jobs"], json!([]));
    expect(&run(home, &["provide", "test", "none"]).await, 2, "offer");
}
