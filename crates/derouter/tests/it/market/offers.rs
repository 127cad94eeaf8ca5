//! `derouter offers` and `derouter models`.

use serde_json::json;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn offers_are_listed_with_what_was_measured_and_without_a_gateway_as_the_node_tells_them() {
    let pair = pair().await;
    let home = &pair.consumer_home;
    let before = json(home, &["offers", "list"]).await;
    assert_eq!(before["total"], 1);
    assert!(
        before["gateway"]
            .as_str()
            .unwrap()
            .starts_with("http://127.0.0.1:")
    );
    let offer = &before["offers"][0];
    assert_eq!(offer["models"], json!([MODEL]));
    assert_eq!(offer["protocol"], "openai:0.2");
    assert_eq!(offer["buyable"], true);
    assert_eq!(offer["observed"]["tried"], 0.0);
    assert_eq!(offer["observed"]["first_token_seconds"], json!(null));

    chat(&pair).await;
    let after = json(home, &["offers", "list", "test-*", "--sort", "latency"]).await;
    let observed = &after["offers"][0]["observed"];
    assert!(observed["tried"].as_f64().unwrap() > 0.0, "{observed}");
    assert_eq!(observed["first_token_seconds"]["samples"], 1, "{observed}");

    // The provider's node has no endpoint.
    let plain = json(&pair.provider_home, &["offers", "list"]).await;
    assert_eq!(plain["gateway"], json!(null));
    assert_eq!(plain["offers"][0]["observed"], json!(null));
    assert_eq!(plain["offers"][0]["prices"], offer["prices"]);
    let exit = run(&pair.provider_home, &["offers", "list"]).await;
    expect(&exit, 0, "no OpenAI endpoint answers");
    assert!(exit.stdout.lines().all(|line| line.chars().count() <= 80));
    assert!(exit.stdout.contains(MODEL), "{}", exit.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_are_filtered_and_one_is_told_in_full() {
    let pair = pair().await;
    let home = &pair.consumer_home;
    for (arguments, expected) in [
        (&["other*"][..], 0),
        (&["--max-price", "0.0000001"], 0),
        (&["--max-price", "1000"], 1),
        (&["--min-context", "1000000000"], 0),
        (&["--feature", "telepathy"], 0),
        (&["--provider", "nobody00"], 0),
        (&["--buyable"], 1),
    ] {
        let all: Vec<&str> = ["offers", "list"]
            .iter()
            .chain(arguments)
            .copied()
            .collect();
        assert_eq!(json(home, &all).await["total"], expected, "{arguments:?}");
    }
    let shown = json(home, &["offers", "show", MODEL]).await;
    let offer = &shown["offer"];
    let (provider, id) = (
        offer["provider"].as_str().unwrap(),
        offer["offer"].as_str().unwrap(),
    );
    let end = provider.get(provider.len() - 8..).unwrap();
    let named = format!("{end}/{id}");
    let exit = run(home, &["offers", "show", &named]).await;
    expect(&exit, 0, provider);
    expect(&exit, 0, "May be bought   yes");
    expect(
        &run(home, &["offers", "show", "none"]).await,
        6,
        "no offer none",
    );

    let models = json(home, &["models"]).await;
    assert_eq!(models["models"][0]["model"], MODEL);
    assert_eq!(models["models"][0]["buyable"], 1);
    expect(&run(home, &["models", "test*"]).await, 0, MODEL);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_what_comes_and_goes() {
    let pair = pair().await;
    let mut watch = begin(&pair.consumer_home, &["offers", "watch", "--json"], &[]);
    let event = |name: &'static str| {
        move |line: &str| {
            let value: Value = serde_json::from_str(line).ok()?;
            (value["event"] == name).then(|| checked(line))
        }
    };
    let there = watch.wait_line("the offer", event("there")).await;
    let id = there["offer"]["offer"].as_str().unwrap();
    expect(
        &run(&pair.provider_home, &["provide", "pause", id]).await,
        0,
        "paused",
    );
    let removed = watch.wait_line("that it is gone", event("removed")).await;
    assert_eq!(removed["offer"]["offer"], id);
    expect(
        &run(&pair.provider_home, &["provide", "resume", id]).await,
        0,
        "resumed",
    );
    watch.wait_line("that it is back", event("added")).await;
    watch.interrupt();
    assert_eq!(watch.exit().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_node_the_exit_code_says_so() {
    let home = NodeHome::new("nobody", &derouter_testkit::NodeConfig::default());
    for arguments in [
        &["offers", "list"][..],
        &["models"],
        &["status"],
        &["provide", "list"],
        &["jobs", "watch"],
        &["rpc", "call", "QueryNetwork"],
        &["chat", "m", "words", "--url", "http://127.0.0.1:9/v1"],
    ] {
        let exit = run(&home, arguments).await;
        // A port that the system chooses is known by the node alone: configuration.
        assert!(matches!(exit.code, Some(3 | 4)), "{arguments:?}: {exit:?}");
    }
}
