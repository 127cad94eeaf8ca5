//! `derouter status`.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn one_screen_says_how_both_nodes_are() {
    let pair = pair().await;
    let told = chat(&pair).await;
    let buyer = derouter_testkit::eventually("the spending", async || {
        let status = json(&pair.consumer_home, &["status"]).await;
        let total = status["gateways"][0]["spending"]["total"].clone();
        (total == told["cost"]).then_some(status)
    })
    .await;
    assert_eq!(buyer["gateways"][0]["spending"]["counts"]["requests"], 1);
    assert_eq!(buyer["jobs"]["bought"], 1);
    assert_eq!(buyer["modules"][0]["name"], "openai gateway");
    let seller = json(&pair.provider_home, &["status"]).await;
    assert_eq!(seller["providers"][0]["income_today"], told["cost"]);
    assert_eq!(seller["providers"][0]["offers"][0]["state"], "announced");
    assert_eq!(seller["network"]["peers"], 1);
    for (home, said) in [
        (&pair.consumer_home, "Buying"),
        (&pair.provider_home, "Selling"),
    ] {
        let exit = run(home, &["status"]).await;
        expect(&exit, 0, said);
        expect(&exit, 0, "Network   1 peer");
        let lines: Vec<&str> = exit.stdout.lines().collect();
        assert!(lines.len() <= 24, "{}", exit.stdout);
        assert!(
            lines.iter().all(|line| line.chars().count() <= 80),
            "{}",
            exit.stdout
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_prints_one_object_a_line_and_warnings_name_the_remedy() {
    let pair = pair().await;
    std::fs::write(
        pair.provider_home.data_dir().join("openai-offers.json"),
        "{",
    )
    .unwrap();
    let arguments = ["status", "--watch", "--json", "--interval", "0.2"];
    let mut watch = begin(&pair.provider_home, &arguments, &[]);
    let status = watch
        .wait_line("the warning", |line| {
            let status: Value = serde_json::from_str(line).ok()?;
            let warnings = status["warnings"].as_array()?.clone();
            warnings
                .iter()
                .any(|it| it["code"] == "offers_file")
                .then(|| checked(line))
        })
        .await;
    // What held goes on to hold.
    assert_eq!(status["providers"][0]["offers"][0]["state"], "announced");
    watch.interrupt();
    assert_eq!(watch.exit().await.code, Some(0));
    let exit = run(&pair.provider_home, &["status"]).await;
    expect(&exit, 0, "correct or remove the file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_list_of_blocked_providers_is_told_and_holds_as_it_was() {
    let pair = pair().await;
    let file = pair.consumer_home.data_dir().join("openai-providers.json");
    std::fs::write(&file, "{").unwrap();
    let status = derouter_testkit::eventually("the warning", async || {
        let status = json(&pair.consumer_home, &["status"]).await;
        let warnings = status["warnings"].as_array()?;
        let told = warnings.iter().any(|it| it["code"] == "providers_file");
        told.then_some(status)
    })
    .await;
    let problem = status["gateways"][0]["problem"].as_str().unwrap();
    assert!(problem.contains(file.to_str().unwrap()), "{problem}");
    // It was read at the start: nobody was blocked.
    chat(&pair).await;
}
