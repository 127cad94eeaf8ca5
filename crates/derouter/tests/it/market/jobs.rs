//! `derouter jobs`.

use derouter_testkit::fault::Fault;
use serde_json::json as value;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_list_and_tell_the_story_of_a_job() {
    let pair = pair().await;
    let told = chat(&pair).await;
    let id = told["job"].as_str().unwrap();
    for (home, role) in [
        (&pair.consumer_home, "consumer"),
        (&pair.provider_home, "provider"),
    ] {
        let list = derouter_testkit::eventually("the signature on both sides", async || {
            let list = json(home, &["jobs", "list"]).await;
            (list["jobs"][0]["state"] == "confirmed").then_some(list)
        })
        .await;
        assert_eq!(list["jobs"].as_array().unwrap().len(), 1);
        assert_eq!(list["more"], false);
        let job = &list["jobs"][0];
        assert_eq!(job["role"], role);
        assert_eq!(job["job_id"], id);
        assert_eq!(job["amount"], told["cost"]);

        let shown = json(home, &["jobs", "show", id.get(..8).unwrap()]).await;
        let job = &shown["job"];
        assert!(
            job["signature"].as_str().is_some_and(|it| it.len() == 128),
            "{job}"
        );
        assert!(job["provider_signature"].is_string(), "{job}");
        let steps = shown["timeline"].as_array().unwrap();
        assert!(steps.len() >= 4, "{steps:?}");
        let exit = run(home, &["jobs", "show", id]).await;
        expect(&exit, 0, "Signed by       both sides");
        let exit = run(home, &["jobs", "list"]).await;
        expect(&exit, 0, "confirmed");
        assert!(exit.stdout.lines().all(|line| line.chars().count() <= 80));
    }
    let home = &pair.consumer_home;
    for (arguments, expected) in [
        (&["--role", "provider"][..], 0),
        (&["--state", "confirmed"], 1),
        (&["--state", "completed", "--state", "failed"], 1),
        (&["--state", "failed"], 0),
        (&["--since", "4000000000"], 0),
        (&["--provider", "nobody00"], 0),
    ] {
        let all: Vec<&str> = ["jobs", "list"].iter().chain(arguments).copied().collect();
        let list = json(home, &all).await;
        assert_eq!(
            list["jobs"].as_array().unwrap().len(),
            expected,
            "{arguments:?}"
        );
    }
    // The newest first, on either side.
    let second = chat(&pair).await["job"].clone();
    for home in [&pair.consumer_home, &pair.provider_home] {
        let newest = json(home, &["jobs", "list", "--limit", "1"]).await;
        assert_eq!(newest["jobs"].as_array().unwrap().len(), 1);
        assert_eq!(
            (&newest["jobs"][0]["job_id"], &newest["more"]),
            (&second, &value!(true))
        );
        let both = json(home, &["jobs", "list", "--limit", "2"]).await;
        assert_eq!(
            (&both["jobs"][1]["job_id"], &both["more"]),
            (&value!(id), &value!(false))
        );
    }
    let csv = run(home, &["jobs", "export", "--format", "csv"]).await;
    expect(&csv, 0, "row,created");
    assert_eq!(csv.stdout.lines().count(), 3);
    let lines = run(home, &["jobs", "export", "--state", "failed"]).await;
    assert_eq!((lines.code, lines.stdout.as_str()), (Some(0), ""));
    expect(&run(home, &["jobs", "show", "nope"]).await, 1, "no job");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_says_why_and_whose_doing_it_was() {
    let pair = pair().await;
    pair.backend.set_fault(Some(Fault::ServerError));
    expect(
        &run(&pair.consumer_home, &["chat", MODEL, "x"]).await,
        8,
        "",
    );
    let home = &pair.provider_home;
    let list = derouter_testkit::eventually("the failure", async || {
        let list = json(home, &["jobs", "list", "--state", "failed"]).await;
        list["jobs"].get(0).is_some().then_some(list)
    })
    .await;
    let job = &list["jobs"][0];
    let id = job["job_id"].as_str().unwrap();
    let shown = json(home, &["jobs", "show", id]).await;
    assert!(
        ["provider", "consumer"].contains(&shown["caused_by"].as_str().unwrap()),
        "{shown}"
    );
    let exit = run(home, &["jobs", "show", id]).await;
    expect(&exit, 0, "Caused by");
    expect(&exit, 0, "nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_where_an_earlier_one_ended() {
    let pair = pair().await;
    let home = &pair.consumer_home;
    let first = chat(&pair).await;
    let mut watch = begin(
        home,
        &["jobs", "watch", "--json", "--since-cursor", "start"],
        &[],
    );
    let of = |id: &Value| {
        let id = id.clone();
        move |line: &str| {
            let value: Value = serde_json::from_str(line).ok()?;
            (value["job_id"] == id && value["state"] == "confirmed").then(|| checked(line))
        }
    };
    let event = watch.wait_line("the first job", of(&first["job"])).await;
    watch.interrupt();
    assert_eq!(watch.exit().await.code, Some(0));
    let cursor = event["cursor"].as_str().unwrap();

    let second = chat(&pair).await;
    let arguments = ["jobs", "watch", "--json", "--since-cursor", cursor];
    let mut again = begin(home, &arguments, &[]);
    again.wait_line("the second job", of(&second["job"])).await;
    let told = again.stdout().join("\n");
    assert!(!told.contains(first["job"].as_str().unwrap()), "{told}");
    again.interrupt();
    assert_eq!(again.exit().await.code, Some(0));
    expect(
        &run(home, &["jobs", "watch", "--since-cursor", ""]).await,
        2,
        "cursor",
    );
}
