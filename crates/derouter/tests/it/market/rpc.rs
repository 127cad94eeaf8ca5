//! `derouter rpc call`.

use serde_json::json;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn any_request_of_the_rpc_can_be_sent_with_json_in_and_out() {
    let pair = pair().await;
    let home = &pair.consumer_home;
    let provider = pair.provider.ready.peer_id.to_string();
    let network = json(home, &["rpc", "call", "QueryNetwork"]).await;
    assert_eq!(
        network["answer"]["peer_id"],
        pair.consumer.ready.peer_id.to_string()
    );
    let offers = json(home, &["rpc", "call", "ListOffers", r#"{"limit": 1}"#]).await;
    let page = &offers["answer"];
    assert_eq!(page["items"][0]["provider_peer_id"], provider);
    let next = json!({"after": page["next"]}).to_string();
    json(home, &["rpc", "call", "ListOffers", &next]).await;
    let ping = json!({"peer_id": provider, "timeout_ms": 5000}).to_string();
    let pong = json(home, &["rpc", "call", "PingPeer", &ping]).await;
    assert!(pong["answer"]["rtt_us"].as_u64().unwrap() > 0);
    let modules = json(home, &["rpc", "call", "QueryModules", r#"{"state": true}"#]).await;
    let states: Vec<&str> = modules["answer"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|module| module["state"].as_str())
        .collect();
    assert_eq!(states.len(), 1, "{modules}");
    checked(states[0]);

    expect(
        &run(home, &["rpc", "call", "Nonsense", "--yes"]).await,
        2,
        "UnknownRequest",
    );
    expect(
        &run(home, &["rpc", "call", "ListOffers", "{"]).await,
        2,
        "no JSON",
    );
    expect(
        &run(home, &["rpc", "call", "ListOffers", r#"{"after":"x"}"#]).await,
        1,
        "InvalidCursor",
    );
    // What may spend asks; nobody can be asked here.
    let create = run(
        home,
        &[
            "rpc",
            "call",
            "ConsumerCreateJob",
            r#"{"offer_snapshot_id":1}"#,
        ],
    )
    .await;
    expect(&create, 2, "--yes");
}
