use super::*;

const NOW: UnixSeconds = UnixSeconds(1_000);

fn store() -> (tempfile::TempDir, KeyStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = KeyStore::new(directory.path().join("data"));
    (directory, store)
}

async fn later() {
    tokio::time::sleep(RELOAD + Duration::from_millis(10)).await;
}

#[test]
fn a_star_stands_for_anything() {
    for (pattern, name) in [
        ("*", ""),
        ("*", "a"),
        ("gpt-*", "gpt-4"),
        ("*/llama", "org/llama"),
        ("a*b*c", "a-b-b-c"),
        ("a*a", "aa"),
        ("m", "m"),
        ("**", "x"),
    ] {
        assert!(matches(pattern, name), "{pattern} {name}");
    }
    for (pattern, name) in [
        ("m", "mm"),
        ("gpt-*", "gpt"),
        ("*b", "ba"),
        ("a*a", "a"),
        ("", "m"),
        ("a*b*c", "acb"),
    ] {
        assert!(!matches(pattern, name), "{pattern} {name}");
    }
}

#[test]
fn a_key_is_nowhere_on_disk() {
    let (_directory, store) = store();
    assert_eq!(store.list().unwrap(), None);
    let key = store.create("laptop", KeyRules::default(), NOW).unwrap();
    assert_eq!((key.len(), key.starts_with("dr-")), (67, true));
    let text = fs::read_to_string(store.path()).unwrap();
    assert!(!text.contains(&key) && !text.contains(key.trim_start_matches("dr-")));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(store.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn names_are_unique_and_plain() {
    let (_directory, store) = store();
    let create = |name: &str| store.create(name, KeyRules::default(), NOW);
    create("a.b-c_1").unwrap();
    assert!(matches!(create("a.b-c_1"), Err(KeyError::NameTaken(_))));
    for name in ["", "a b", "ä", "a\n", &"x".repeat(65)] {
        assert!(
            matches!(create(name), Err(KeyError::BadName(_))),
            "{name:?}"
        );
    }
    assert!(matches!(store.revoke("other"), Err(KeyError::NoSuchKey(_))));
    assert_eq!(store.revoke("a.b-c_1").unwrap(), 0);
    assert_eq!(store.list().unwrap(), Some(vec![]));
}

#[test]
fn keys_made_at_once_are_all_there() {
    let (_directory, store) = store();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let store = &store;
            scope.spawn(move || {
                store
                    .create(&format!("k{n}"), KeyRules::default(), NOW)
                    .unwrap()
            });
        }
    });
    assert_eq!(store.list().unwrap().unwrap().len(), 8);
}

#[test]
fn a_changed_limit_keeps_the_key_and_its_identity() {
    let (_directory, store) = store();
    store.create("a", KeyRules::default(), NOW).unwrap();
    let before = store.list().unwrap().unwrap().remove(0);
    let daily = Some(Wei::from_wei(5));
    let after = store.set("a", |rules| rules.daily = daily).unwrap();
    assert_eq!(
        (after.id.clone(), after.sha256.clone()),
        (before.id, before.sha256)
    );
    assert_eq!(after.limits().daily, daily);
    assert_eq!(store.list().unwrap().unwrap(), [after]);
}

#[tokio::test]
async fn keys_that_are_made_and_revoked_count_while_the_gateway_runs() {
    let (directory, store) = store();
    let data = directory.path().join("data");
    let keys = Keys::load(Some(&data), true).unwrap();
    assert_eq!(keys.identify(Some("anything"), NOW).await, Ok(None));
    let key = store.create("a", KeyRules::default(), NOW).unwrap();
    let other = store.create("b", KeyRules::default(), NOW).unwrap();
    later().await;
    let found = keys.identify(Some(&key), NOW).await.unwrap().unwrap();
    assert_eq!(found.name, "a");
    assert_eq!(keys.identify(None, NOW).await, Err(Refusal::Missing));
    assert_eq!(
        keys.identify(Some("dr-x"), NOW).await,
        Err(Refusal::Unknown)
    );
    store.revoke("a").unwrap();
    later().await;
    assert_eq!(keys.identify(Some(&key), NOW).await, Err(Refusal::Unknown));
    // The last one gone opens nothing.
    store.revoke("b").unwrap();
    later().await;
    assert_eq!(
        keys.identify(Some(&other), NOW).await,
        Err(Refusal::Unknown)
    );
    assert_eq!(keys.identify(None, NOW).await, Err(Refusal::Missing));
}

#[tokio::test]
async fn a_key_is_refused_once_it_expired() {
    let (directory, store) = store();
    let rules = KeyRules {
        expires: Some(UnixSeconds(2_000)),
        ..KeyRules::default()
    };
    let key = store.create("a", rules, NOW).unwrap();
    let keys = Keys::load(Some(&directory.path().join("data")), true).unwrap();
    assert!(keys.identify(Some(&key), UnixSeconds(1_999)).await.is_ok());
    let expired = Refusal::Expired {
        name: "a".into(),
        at: UnixSeconds(2_000),
    };
    assert_eq!(
        keys.identify(Some(&key), UnixSeconds(2_000)).await,
        Err(expired)
    );
}

#[tokio::test]
async fn a_file_that_is_damaged_opens_nothing() {
    let (directory, store) = store();
    let key = store.create("a", KeyRules::default(), NOW).unwrap();
    let data = directory.path().join("data");
    let keys = Keys::load(Some(&data), true).unwrap();
    fs::write(store.path(), "{").unwrap();
    later().await;
    assert!(keys.identify(Some(&key), NOW).await.is_ok());
    assert_eq!(keys.identify(None, NOW).await, Err(Refusal::Missing));
    assert!(matches!(
        Keys::load(Some(&data), true),
        Err(KeyError::Damaged { .. })
    ));
}

#[tokio::test]
async fn without_a_file_only_an_open_gateway_serves_anybody() {
    let (directory, _) = store();
    let keys = Keys::load(Some(directory.path()), false).unwrap();
    assert_eq!(keys.identify(Some("x"), NOW).await, Err(Refusal::Unknown));
    let keys = Keys::load(None, true).unwrap();
    assert_eq!(keys.identify(None, NOW).await, Ok(None));
}
