//! How connections begin: who is let in, and who is told why not.

use std::time::Duration;

use derouter_node::rpc::{BindError, RpcOptions, RpcServer};
use derouter_sdk::tcp::{COOKIE_FILE, SOCKET_FILE};
use derouter_sdk::wire::cbor;
use derouter_sdk::wire::rpc::hello::{Capability, Hello, Name, RpcLimits, SPOKEN, VersionRange};
use derouter_sdk::wire::rpc::list::ListOffers;
use derouter_sdk::wire::rpc::request::*;
use derouter_sdk::wire::rpc::{Call, Frame, FrameKind, encode_cancel, encode_frame};
use derouter_sdk::*;
use tokio::io::AsyncReadExt;

use crate::rpc_raw::*;
use crate::rpc_support::*;

#[tokio::test]
async fn a_module_that_says_hello_learns_who_the_node_is_and_what_it_bounds() {
    let served = serve().await;
    let mut raw = Raw::connect(&served).await;
    let welcome = raw.welcome(&hello(Some(&served.token()))).await;
    assert_eq!((welcome.version, welcome.peer_id), (SPOKEN.max, peer()));
    assert_eq!(welcome.limits, RpcLimits::default());
    assert_eq!(welcome.capabilities, Capability::ALL);
    assert_eq!(welcome.instance.len(), 32);
    let token = served.token();
    let served = served.restart().await;
    let mut raw = Raw::connect(&served).await;
    let again = raw.welcome(&hello(Some(&served.token()))).await;
    assert_ne!(again.instance, welcome.instance);
    assert_ne!(served.token(), token, "each start has its own");
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_the_connection_ends() {
    let served = serve().await;
    let right = served.token();
    let short: String = right.chars().skip(1).collect();
    let wrong = [None, Some(""), Some("0"), Some(short.as_str())];
    for token in wrong {
        let mut raw = Raw::connect(&served).await;
        let error = raw.ask(3, &hello(token)).await.unwrap_err();
        assert_eq!(error.code, "Unauthorized");
        // What it sends behind is not looked at.
        raw.send(4, &QueryOfferSnapshots::default(), 1000).await;
        soon(raw.closed.cancelled()).await;
    }
    assert!(!served.node.called("offer_snapshots"));
}

#[tokio::test]
async fn versions_that_do_not_meet_are_named() {
    let served = serve().await;
    let mut raw = Raw::connect(&served).await;
    let mut newer = hello(Some(&served.token()));
    newer.versions = VersionRange { min: 7, max: 9 };
    let error = raw.ask(0, &newer).await.unwrap_err();
    assert_eq!(error.code, "VersionMismatch");
    assert!(error.message.contains("2 to 2") && error.message.contains("7 to 9"));
    soon(raw.closed.cancelled()).await;
}

#[tokio::test]
async fn hello_comes_once_and_first() {
    let served = serve().await;
    let mut raw = Raw::greet(&served).await;
    let again = raw.ask(1, &hello(Some(&served.token()))).await;
    assert_eq!(again.unwrap_err().code, "HelloTooLate");
    let list = ListProvidersAll.ask(&mut raw, 2).await;
    assert!(list, "the connection goes on");
    // A connection of 0.1 stays one.
    let mut old = Raw::connect(&served).await;
    old.is_alive().await;
    old.request(1, Hello::TYPE, &hello(Some(&served.token())))
        .await;
    let body = old.read().await;
    let frame = Frame::decode(&body).unwrap();
    let refusal: Refusal = cbor::from_slice(frame.data).unwrap();
    assert_eq!((refusal.tag.as_str(), frame.id), ("HelloTooLate", 1));
    old.is_alive().await;
}

#[derive(serde::Deserialize)]
struct Refusal {
    tag: String,
    content: String,
}

struct ListProvidersAll;

impl ListProvidersAll {
    async fn ask(&self, raw: &mut Raw, id: u32) -> bool {
        let list = derouter_sdk::wire::rpc::list::ListProviders {
            after: None,
            limit: 100,
        };
        raw.ask(id, &list).await.is_ok()
    }
}

#[tokio::test]
async fn modules_of_0_1_are_let_in_only_while_that_is_allowed() {
    let served = serve_modern().await;
    let mut raw = Raw::connect(&served).await;
    raw.request(5, QueryActiveOffers::TYPE, &NULL).await;
    let refusal: Refusal = raw.response(5, QueryActiveOffers::TYPE).await;
    assert_eq!(refusal.tag, "HelloRequired");
    assert!(refusal.content.contains("Hello"));
    soon(raw.closed.cancelled()).await;
    assert!(!served.node.called("active_offers"));
    let refused = soon(served.old_module().peer_id()).await;
    match refused {
        Err(NodeError::Refused(why)) => assert!(why.contains(COOKIE_FILE), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(soon(served.module().peer_id()).await.unwrap(), peer());
}

#[tokio::test]
async fn who_must_say_hello_gets_little_room_for_it() {
    let served = serve_modern().await;
    let mut raw = Raw::connect(&served).await;
    let large = "x".repeat(64 * 1024);
    let frame = encode_frame(FrameKind::Request, 0, Hello::TYPE, &large);
    raw.write(&frame).await;
    soon(raw.closed.cancelled()).await;
    let mut raw = Raw::connect(&served).await;
    raw.cancel(3).await;
    soon(raw.closed.cancelled()).await;
}

#[tokio::test]
async fn a_0_1_module_that_cancels_breaks_its_connection_alone() {
    let served = serve().await;
    let mut other = Raw::connect(&served).await;
    let mut raw = Raw::connect(&served).await;
    raw.is_alive().await;
    raw.write(&encode_cancel(77)).await;
    soon(raw.closed.cancelled()).await;
    other.is_alive().await;
}

#[tokio::test]
async fn a_module_may_do_what_it_asked_for_and_nothing_else() {
    let served = serve().await;
    let mut raw = Raw::connect(&served).await;
    let mut modest = hello(Some(&served.token()));
    modest.capabilities = Some(vec![Name::cut("provide"), Name::cut("rule_the_world")]);
    let welcome = raw.welcome(&modest).await;
    assert_eq!(welcome.capabilities, [Capability::Provide]);
    let create = ConsumerCreateJob {
        offer_snapshot_id: SnapshotId(1),
        currency: Currency::Pol,
        job_args: None,
    };
    assert_eq!(raw.ask(1, &create).await.unwrap_err().code, "Forbidden");
    let provide = ProviderProvide {
        protocol_id: protocol(),
        offer_id: OfferId::new("a").unwrap(),
        protocol_payload: "{}".into(),
        max_unsigned: None,
    };
    assert_eq!(raw.ask(2, &provide).await.unwrap(), ProvideReply::Ok);
    assert!(!served.node.called("create_job"));
}

#[tokio::test]
async fn what_0_2_replaced_is_unknown_there() {
    let served = serve().await;
    let mut raw = Raw::greet(&served).await;
    let error = raw.ask(1, &QuerySystem {}).await.unwrap_err();
    assert_eq!(error.code, "UnknownRequest");
    let error = raw.ask(2, &QueryActiveOffers::default()).await.unwrap_err();
    assert!(error.message.contains(ListOffers::TYPE));
}

#[tokio::test]
async fn two_modules_of_one_name_are_two_connections() {
    let served = serve().await;
    let (mut one, mut two) = (Raw::greet(&served).await, Raw::greet(&served).await);
    assert!(ListProvidersAll.ask(&mut one, 1).await);
    drop(one);
    assert!(ListProvidersAll.ask(&mut two, 1).await);
}

#[cfg(unix)]
#[tokio::test]
async fn the_unix_socket_needs_no_token_and_takes_no_0_1_modules() {
    let served = serve().await;
    let found = TcpNode::find(
        served.directory.path(),
        "127.0.0.1:1",
        TcpOptions::default(),
    );
    assert_eq!(soon(found.peer_id()).await.unwrap(), peer());
    let path = served.directory.path().join(SOCKET_FILE);
    let socket = tokio::net::UnixStream::connect(&path).await.unwrap();
    let mut raw = Raw::over(socket).await;
    raw.request(0, QuerySystem::TYPE, &NULL).await;
    let refusal: Refusal = raw.response(0, QuerySystem::TYPE).await;
    assert_eq!(refusal.tag, "HelloRequired");
    drop((raw, found));
    let directory = std::sync::Arc::clone(&served.directory);
    served.stop().await;
    assert!(!path.exists());
    assert!(!directory.path().join(COOKIE_FILE).exists());
}

#[cfg(unix)]
#[tokio::test]
async fn a_second_node_in_a_data_directory_does_not_start_and_harms_nothing() {
    let served = serve().await;
    let options = RpcOptions {
        port: 0,
        directory: Some(served.directory.path().to_path_buf()),
        allow_legacy: true,
    };
    let second = RpcServer::bind(options).await;
    assert!(matches!(second, Err(BindError::Living(_))));
    assert_eq!(soon(served.module().peer_id()).await.unwrap(), peer());
}

#[cfg(unix)]
#[tokio::test]
async fn a_cookie_that_others_can_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let served = serve().await;
    let cookie = served.directory.path().join(COOKIE_FILE);
    std::fs::set_permissions(&cookie, std::fs::Permissions::from_mode(0o644)).unwrap();
    match soon(served.module().peer_id()).await {
        Err(NodeError::Refused(why)) => assert!(why.contains("other users"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn who_must_say_hello_and_does_not_is_dropped() {
    let served = serve_modern().await;
    let mut socket = tokio::net::TcpStream::connect(served.address)
        .await
        .unwrap();
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(120), socket.read_to_end(&mut rest));
    assert!(end.await.is_ok());
}
