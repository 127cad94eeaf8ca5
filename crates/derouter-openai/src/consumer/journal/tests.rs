use super::*;
use proptest::prelude::*;

fn job(name: &str) -> JobKey {
    // One provider for all, as the id's text.
    let provider = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
    JobKey {
        provider: provider.parse().unwrap(),
        job_id: JobId::new(name).unwrap(),
    }
}

fn wei(amount: u64) -> Wei {
    Wei::from_wei(amount.into())
}

const NOON: UnixSeconds = UnixSeconds(20_000 * 86_400 + 43_200);

async fn journal(directory: &Path) -> Journal {
    Journal::open(directory).await.unwrap()
}

fn total(journal: &Journal, key: &str) -> Wei {
    let sums = journal.settle_past();
    let found = sums.into_iter().find(|(id, _)| id == key);
    found.map_or(Wei::ZERO, |(_, sum)| sum.total)
}

#[tokio::test]
async fn the_record_decides_about_what_a_crash_left_open() {
    let directory = tempfile::tempdir().unwrap();
    let before = journal(directory.path()).await;
    for (name, amount) in [("signed", 1), ("not", 2), ("unknown", 4)] {
        let job = job(name);
        before.signing("k", &job, wei(amount), NOON).await.unwrap();
    }
    drop(before);
    let after = journal(directory.path()).await;
    assert!(after.has_open());
    after.was_not_signed(&job("not"));
    assert_eq!(total(&after, "k"), wei(5));
    // Nothing was written yet: the same is decided again.
    drop(after);
    let again = journal(directory.path()).await;
    again.was_not_signed(&job("not"));
    assert_eq!(total(&again, "k"), wei(5));
    again.used("other", NOON).await.unwrap();
    drop(again);
    assert_eq!(total(&journal(directory.path()).await, "k"), wei(5));
}

#[tokio::test]
async fn the_file_is_replaced_by_its_sums_when_it_is_long() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path()).await;
    let name = "x".repeat(200);
    for n in 0..4000 {
        let job = job(&format!("{name}{n}"));
        journal.signing("k", &job, wei(1), NOON).await.unwrap();
        journal.signed(&job);
    }
    let bytes = std::fs::metadata(directory.path().join(JOURNAL_FILE))
        .unwrap()
        .len();
    assert!(bytes < COMPACT_BYTES + 10_000, "{bytes}");
    let spent = spent_by_key(directory.path()).unwrap();
    assert_eq!(spent["k"].total(), wei(4000));
    assert_eq!(spent["k"].today(NOON), wei(4000));
    assert_eq!(spent["k"].today(UnixSeconds(NOON.0 + 86_400)), Wei::ZERO);
    assert_eq!(spent["k"].last_used(), Some(UnixSeconds(20_000 * 86_400)));
}

#[tokio::test]
async fn those_who_write_at_once_are_all_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Arc::new(journal(directory.path()).await);
    let writes = (0..100).map(|n| {
        let journal = Arc::clone(&journal);
        tokio::spawn(async move {
            let job = job(&n.to_string());
            journal.signing("k", &job, wei(1), NOON).await.unwrap();
            let text = std::fs::read_to_string(&journal.path).unwrap();
            assert!(text.contains(&format!("\"job\":\"{n}\"")));
        })
    });
    for write in futures::future::join_all(writes).await {
        write.unwrap();
    }
    assert_eq!(
        spent_by_key(directory.path()).unwrap()["k"].total(),
        wei(100)
    );
}

#[tokio::test]
async fn what_could_not_be_written_is_written_once_the_disk_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let journal = journal(&data).await;
    std::fs::rename(&data, directory.path().join("gone")).unwrap();
    let signing = journal.signing("k", &job("a"), wei(7), NOON).await;
    assert!(signing.is_err() && journal.recover().await.is_err());
    std::fs::rename(directory.path().join("gone"), &data).unwrap();
    journal.recover().await.unwrap();
    assert_eq!(spent_by_key(&data).unwrap()["k"].total(), wei(7));
}

#[tokio::test(start_paused = true)]
async fn one_gateway_alone_has_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let first = journal(directory.path()).await;
    let second = Journal::open(directory.path()).await;
    assert!(matches!(second, Err(JournalError::InUse(_))));
    let (second, ()) = tokio::join!(Journal::open(directory.path()), async {
        tokio::time::sleep(LOCK_RETRY).await;
        drop(first);
    });
    assert!(second.is_ok());
}

#[test]
fn damage_is_not_taken_for_a_torn_end() {
    let path = Path::new("spending.jsonl");
    let head = text_of(&Line::Version { version: VERSION });
    let line = text_of(&Line::Used {
        key: "k".into(),
        day: 3,
    });
    let whole = format!("{head}{line}");
    assert_eq!(parse(path, whole.as_bytes()).unwrap().sums["k"].used, 3);
    for torn in ["{\"is\":\"used\"", "\0\0\0\n", "\u{fffd}{}\n"] {
        let text = format!("{whole}{torn}");
        assert_eq!(parse(path, text.as_bytes()).unwrap().sums.len(), 1);
    }
    let long = line.repeat(2 * TORN_BYTES / line.len());
    let text = format!("{head}garbage\n{long}");
    assert!(matches!(
        parse(path, text.as_bytes()),
        Err(JournalError::Damaged { line: 2, .. })
    ));
    for text in ["garbage\n", "{\"is\":\"version\",\"version\":2}\n"] {
        assert!(parse(path, text.as_bytes()).is_err(), "{text}");
    }
    assert_eq!(parse(path, b"").unwrap(), Model::default());
}

/// What becomes of one job of a key.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Signed,
    NotSigned,
    /// The process ends before the outcome is known; the record says whether it was signed.
    Crash {
        signed: bool,
    },
    /// The same, and the last line is torn: it was not synced, so nothing was signed.
    Torn,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Signed),
        2 => Just(Fate::NotSigned),
        2 => any::<bool>().prop_map(|signed| Fate::Crash { signed }),
        1 => Just(Fate::Torn),
    ]
}

/// Plays a history, with all records of jobs that were not signed. Returns the key's sum.
async fn play(directory: &Path, fates: &[(Fate, u64)]) -> Wei {
    let mut not_signed = Vec::new();
    let mut journal = journal(directory).await;
    journal.settle_past();
    for (n, (fate, amount)) in fates.iter().enumerate() {
        let job = job(&n.to_string());
        let path = directory.join(JOURNAL_FILE);
        let before = std::fs::read(&path).unwrap_or_default();
        journal
            .signing("k", &job, wei(*amount), NOON)
            .await
            .unwrap();
        match fate {
            Fate::Signed => {
                journal.signed(&job);
                continue;
            }
            Fate::NotSigned => {
                not_signed.push(job.clone());
                journal.not_signed(&job).await.unwrap();
                continue;
            }
            Fate::Crash { signed: true } => {}
            Fate::Crash { signed: false } => not_signed.push(job),
            Fate::Torn => {
                let after = std::fs::read(&path).unwrap();
                // One that was replaced is whole: it is there, or the one before it.
                let torn = if after.starts_with(&before) && !before.is_empty() {
                    &after[..before.len().max(after.len() - 5)]
                } else {
                    &before
                };
                std::fs::write(&path, torn).unwrap();
            }
        }
        drop(journal);
        journal = Journal::open(directory).await.unwrap();
        for job in &not_signed {
            journal.was_not_signed(job);
        }
        journal.settle_past();
    }
    total(&journal, "k")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_crash_anywhere_loses_nothing_that_was_signed_and_counts_nothing_else(
        fates in proptest::collection::vec((fate(), 1_u64..100), 1..24),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let counted = runtime.unwrap().block_on(play(directory.path(), &fates));
        let signed = fates.iter().filter(|(fate, _)| {
            matches!(fate, Fate::Signed | Fate::Crash { signed: true })
        });
        prop_assert_eq!(counted, wei(signed.map(|(_, amount)| *amount).sum()));
    }
}

proptest! {
    /// What is read is what was written up to some line, wherever the file is cut.
    #[test]
    fn a_file_cut_anywhere_reads_as_one_of_its_beginnings(
        lines in proptest::collection::vec((0_u8..4, 0_u8..6, 0_u64..100), 1..30),
        cut in 0.0_f64..1.0,
    ) {
        let mut text = text_of(&Line::Version { version: VERSION });
        let mut model = Model::default();
        let mut models = vec![model.clone()];
        for (kind, name, amount) in lines {
            let JobKey { provider, job_id } = job(&name.to_string());
            let line = match kind {
                0 => Line::NotSigned { provider, job: job_id },
                1 => Line::Used { key: "k".into(), day: amount },
                _ => Line::Signing { key: "k".into(), provider, job: job_id, wei: wei(amount), at: NOON },
            };
            text.push_str(&text_of(&line));
            model.take(line);
            models.push(model.clone());
        }
        let head = text.find('\n').unwrap() + 1;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let cut = head + ((text.len() - head) as f64 * cut) as usize;
        let read = parse(Path::new("x"), &text.as_bytes()[..cut]).unwrap();
        prop_assert!(models.contains(&read));
        prop_assert_eq!(parse(Path::new("x"), model.text().as_bytes()).unwrap(), model);
    }
}
