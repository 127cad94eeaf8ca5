use std::path::PathBuf;

use derouter_openai::provider::start_echo_backend;

use super::*;
use crate::cli::OutputArgs;

fn args(backend: String, port: u16) -> DemoArgs {
    DemoArgs {
        backend: Some(backend),
        model: None,
        port,
        prompt: "hello".to_owned(),
        once: true,
        output: OutputArgs {
            ready_json: false,
            log_format: None,
        },
    }
}

fn all_gone(directories: &[PathBuf]) -> bool {
    directories.len() == 2 && directories.iter().all(|directory| !directory.exists())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_ends_with_a_job_signed_on_both_sides_and_leaves_nothing_behind() {
    let echo = start_echo_backend().await.unwrap();
    let mut stage = Stage::default();
    let stop = CancellationToken::new();
    let args = args(echo.base_url(), 0);
    play(&args, &Screen::stderr(Output::default()), &mut stage, &stop)
        .await
        .unwrap();
    let actors = stage.actors().await.unwrap();
    let receipt = receipt::Watched::begin(&actors)
        .await
        .unwrap()
        .wait()
        .await
        .unwrap();
    receipt.show(&Screen::stderr(Output::default())).unwrap();
    let directories = stage.directories();
    assert!(
        directories
            .iter()
            .all(|directory| directory.join("keypair.bin").exists())
    );
    stage.shutdown().await;
    assert!(all_gone(&directories));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_before_the_chat_leaves_nothing_behind() {
    let echo = start_echo_backend().await.unwrap();
    let mut stage = Stage::default();
    let backend = backend::choose(&args(echo.base_url(), 0)).await.unwrap();
    stage
        .raise(backend, 0, &Screen::stderr(Output::default()))
        .await
        .unwrap();
    let directories = stage.directories();
    stage.shutdown().await;
    assert!(all_gone(&directories));
}

#[tokio::test]
async fn a_port_in_use_is_told_before_anything_starts() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let mut stage = Stage::default();
    let args = args("http://127.0.0.1:1/v1".to_owned(), port);
    let outcome = play(
        &args,
        &Screen::stderr(Output::default()),
        &mut stage,
        &CancellationToken::new(),
    )
    .await;
    let message = format!("{:?}", outcome.unwrap_err());
    assert!(
        message.contains("is in use") && message.contains("--port"),
        "{message}"
    );
    assert!(stage.directories().is_empty());
}

#[tokio::test]
async fn a_backend_that_is_not_there_is_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", free.local_addr().unwrap());
    drop(free);
    let outcome = backend::choose(&args(url.clone(), 0)).await;
    let message = format!("{:?}", outcome.err().unwrap());
    assert!(
        message.contains(&url) && message.contains("--backend"),
        "{message}"
    );
}
