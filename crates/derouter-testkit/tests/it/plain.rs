//! The nodes of 0.1.0 that the simulation of discovery compares ours with.

use derouter_testkit::sim::frames::{self, HEARTBEAT_GOSSIP};
use derouter_testkit::sim::plain::PlainNode;
use derouter_testkit::sim::providers::Providers;
use derouter_testkit::sim::raw_peer::{RawPeer, write};
use derouter_testkit::wait::eventually;

#[tokio::test]
async fn a_node_of_0_1_0_hears_of_all_providers_through_others() {
    let one = PlainNode::start(&[]).await;
    let other = PlainNode::start(std::slice::from_ref(&one.address)).await;
    let last = PlainNode::start(std::slice::from_ref(&other.address)).await;
    let mut source = RawPeer::connect(&one.address, &[HEARTBEAT_GOSSIP])
        .await
        .unwrap();
    source.drain(HEARTBEAT_GOSSIP);
    let mut gossip = source.open(HEARTBEAT_GOSSIP).await.unwrap();
    let providers = Providers::new(20, 5);
    eventually("it holds all", async || {
        // What was sent before they knew each other's topics does not come again.
        let messages: Vec<_> = (0..20).map(|place| providers.heartbeat(place)).collect();
        write(&mut gossip, &frames::frame(&messages)).await.unwrap();
        (last.status().providers == 20).then_some(())
    })
    .await;
    let status = last.status();
    assert_eq!(status.peers, 1);
    assert!(status.bytes_in > 20 * 1000, "{status:?}");
    assert!(status.bytes_out < 10_000, "{status:?}");
    let status = other.status();
    assert_eq!(status.peers, 2);
    assert!(status.bytes_out > 20 * 1000, "{status:?}");
}
