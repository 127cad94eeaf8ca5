use std::time::{Duration, Instant};

use derouter_testkit::bench::load::{self, Shape};
use derouter_testkit::bench::proxy;
use derouter_testkit::{Backend, Behaviour};

async fn chain(backend: &Backend) -> String {
    let (inner, serve_inner) = proxy::bind(backend.address()).await;
    let (outer, serve_outer) = proxy::bind(inner).await;
    tokio::spawn(serve_inner);
    tokio::spawn(serve_outer);
    format!("http://{outer}/v1")
}

#[tokio::test]
async fn the_proxy_chain_forwards_each_chunk_as_it_comes() {
    let backend = Backend::start().await;
    backend.set_behaviour(Behaviour {
        pace: Duration::from_millis(50),
        ..Behaviour::default()
    });
    let url = format!("{}/chat/completions", chain(&backend).await);
    let body = r#"{"model": "m", "stream": true, "messages": []}"#;
    let begin = Instant::now();
    let request = reqwest::Client::new().post(url).body(body);
    let mut response = request.send().await.unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    let first = begin.elapsed();
    while response.chunk().await.unwrap().is_some() {}
    assert!(
        begin.elapsed() > first * 3,
        "first {first:?} of {:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn the_load_finds_good_answers_good_and_broken_ones_failed() {
    let backend = Backend::start().await;
    let client = proxy::client();
    let url = chain(&backend).await;
    for shape in [Shape::Plain, Shape::Streamed] {
        let batch = load::run(&client, &url, shape, 4, 10).await;
        assert_eq!(
            (batch.times.len(), batch.failed),
            (10, 0),
            "{:?}",
            batch.failures
        );
        for fault in ["close-early", "end-early", "500"] {
            backend.set_fault(derouter_testkit::Fault::named(fault));
            let batch = load::run(&client, &url, shape, 2, 3).await;
            assert_eq!((batch.times.len(), batch.failed), (0, 3), "{fault}");
        }
        backend.set_fault(None);
    }
}
