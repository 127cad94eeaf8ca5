//! A process that is killed.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use derouter_market::Role;
use derouter_store::{Durability, JobPage, Store};
use derouter_wire::{Currency, JobKey, PeerId, UnixSeconds};

use crate::support::offer;

/// Set for the process that is to be killed: its database.
const DATABASE: &str = "DEROUTER_STORE_TEST_DATABASE";

/// Not a test by itself: what the killed process does.
#[tokio::test]
async fn process_that_stores_jobs_until_it_is_killed() {
    let Some(path) = std::env::var_os(DATABASE) else {
        return;
    };
    let store = Store::open(&PathBuf::from(path)).unwrap();
    let provider = PeerId::random();
    let snapshot_id = offer(&store, provider, "openai:0.1").await;
    for number in 0_u64.. {
        let new = derouter_store::NewJob {
            wire: derouter_wire::job::JobWire::V0_2,
            stage: derouter_market::job::Stage::Accepted,
            role: Role::Consumer,
            key: JobKey {
                provider,
                job_id: derouter_wire::JobId::new(number.to_string()).unwrap(),
            },
            consumer: provider,
            snapshot_id,
            currency: Currency::Pol,
            job_args: Some("x".repeat(2000)),
            created_at_sync: UnixSeconds(number),
            created_at_local: UnixSeconds(number),
        };
        let durability = if number % 2 == 0 {
            Durability::Fsync
        } else {
            Durability::Wal
        };
        store.insert_job(new, durability).await.unwrap();
        println!("\nstored {number}");
    }
}

#[tokio::test]
async fn what_was_answered_outlives_a_killed_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("derouter.sqlite");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "crash::process_that_stores_jobs_until_it_is_killed",
            "--exact",
            "--nocapture",
        ])
        .env(DATABASE, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let stored = lines
        .filter_map(|line| line.strip_prefix("stored ")?.parse::<u64>().ok())
        .find(|number| *number >= 300);
    child.kill().unwrap();
    child.wait().unwrap();
    let stored = stored.expect("the process ended by itself");

    // A killed process leaves no lock.
    let store = Store::open(&path).unwrap();
    let mut page = JobPage {
        limit: 100,
        ..JobPage::default()
    };
    let mut found = Vec::new();
    loop {
        let jobs = store.jobs_page(page.clone()).await.unwrap();
        let Some(last) = jobs.last() else { break };
        page.after = Some(last.row_id);
        found.extend(jobs.iter().map(|job| job.created_at_sync.0));
    }
    assert!(found.len() as u64 > stored, "{} of {stored}", found.len());
    assert!(found.iter().copied().eq(0..found.len() as u64), "no gaps");
    store.close().await.unwrap();
}
