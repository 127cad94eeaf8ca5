//! What looks after files: the configuration, the identity, the service, completions and manual pages.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::Home;

const SECRET: [(&str, &str); 1] = [("DEROUTER_KEY_PASSPHRASE", "correct horse")];

#[tokio::test]
async fn a_flag_goes_before_the_environment_that_before_the_file_and_that_before_the_default() {
    let home = Home::new();
    let directory = async |arguments: &[&str], variables: &[(&str, &str)]| {
        let exit = home
            .run_with(
                &[&["config", "show", "--json"], arguments].concat(),
                variables,
            )
            .await;
        assert_eq!(exit.code, Some(0), "{exit:?}");
        let told: Value = serde_json::from_str(&exit.stdout).unwrap();
        let settings = told["settings"].as_array().unwrap().clone();
        let setting = settings
            .into_iter()
            .find(|setting| setting["path"] == "data_dir")
            .unwrap();
        let value = setting["value"].as_str().unwrap().to_owned();
        (value, setting["origin"].as_str().unwrap().to_owned())
    };
    let default = home.data().to_str().unwrap().to_owned();
    assert_eq!(directory(&[], &[]).await, (default, "default".into()));
    home.configure("{ data_dir: '/usual' }");
    assert_eq!(directory(&[], &[]).await, ("/usual".into(), "file".into()));
    let other = home.path().join("other.json");
    fs::write(&other, "{ data_dir: '/other' }").unwrap();
    let named = [("DEROUTER_CONFIG", other.to_str().unwrap())];
    assert_eq!(
        directory(&[], &named).await,
        ("/other".into(), "file".into())
    );
    let flag = home.config().to_str().unwrap().to_owned();
    assert_eq!(
        directory(&["-c", &flag], &named).await,
        ("/usual".into(), "file".into())
    );
    let variable = [("DEROUTER_DATA_DIR", "/variable")];
    assert_eq!(
        directory(&[], &variable).await,
        ("/variable".into(), "environment".into())
    );
    // Empty is as good as none.
    let empty = [("DEROUTER_DATA_DIR", ""), ("DEROUTER_CONFIG", "")];
    assert_eq!(
        directory(&[], &empty).await,
        ("/usual".into(), "file".into())
    );
    let exit = home
        .run_with(&["key", "show", "--data-dir", "/flag"], &variable)
        .await;
    assert!(exit.stderr.contains("/flag/keypair.bin"), "{exit:?}");
}

#[tokio::test]
async fn the_configuration_is_changed_without_losing_a_comment() {
    let home = Home::new();
    home.configure("// mine\n{\n  server: { port: 0 }, // free\n  openai: {\n    provider: {\n      openai_base_url: 'http://127.0.0.1:1/v1',\n      discover: { input_token_price: {$pol: '1'}, output_token_price: {$pol: '1'} },\n    },\n  },\n}\n");
    fs::set_permissions(home.config(), fs::Permissions::from_mode(0o640)).unwrap();
    for (path, value) in [
        ("server.port", "4300"),
        ("openai.consumer.limits.daily", "2.5"),
        ("openai.provider.discover.input_token_price", "0.25"),
        ("provider.name", "12"),
        (
            "openai.consumer.server.models.\"llama3.2\".maxInputPrice",
            "0.2",
        ),
    ] {
        let told = home.document(&["config", "set", path, value]).await;
        assert_eq!(told["path"], path);
    }
    let text = fs::read_to_string(home.config()).unwrap();
    assert!(
        text.starts_with("// mine\n") && text.contains("// free"),
        "{text}"
    );
    let mode = fs::metadata(home.config()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640, "it stays as it was");
    let get = async |path: &str| home.document(&["config", "get", path]).await["value"].clone();
    assert_eq!(get("server.port").await, 4300);
    assert_eq!(
        get("openai.consumer.limits.daily").await,
        json!({"$pol": "2.5"})
    );
    assert_eq!(
        get("provider.name").await,
        "12",
        "a name is a text, whatever it looks like"
    );
    assert_eq!(get("drain_seconds").await, 30, "a default");
    let price = get("openai.consumer.server.models.\"llama3.2\".maxInputPrice").await;
    assert_eq!(price, json!({"$pol": "0.2"}));
    home.document(&["config", "set", "web.token", "not-to-be-seen-by-others"])
        .await;
    for shown in [
        home.good(&["config", "get", "web.token"]).await,
        home.good(&["config", "get", "web"]).await,
        home.good(&["config", "get", "web.token", "--json"]).await,
    ] {
        assert!(
            !shown.contains("not-to-be") && shown.contains("(hidden)"),
            "{shown}"
        );
    }
    let secret = home
        .document(&["config", "get", "web.token", "--secrets"])
        .await;
    assert_eq!(secret["value"], "not-to-be-seen-by-others");
    home.document(&["config", "unset", "web.token"]).await;
    home.document(&["config", "unset", "server.port"]).await;
    assert_eq!(get("server.port").await, 4269);

    let before = fs::read(home.config()).unwrap();
    for (path, value, code, said) in [
        ("server.prt", "1", 2, "no key"),
        ("server.port", "99999", 3, "not a port"),
        ("drain_seconds", "-1", 3, "drain_seconds"),
        ("openai.provider.openai_base_url", "ftp://x", 3, "base URL"),
        ("openai.consumer.limits.daily", "much", 3, "amount"),
        ("server..port", "1", 2, "no path"),
    ] {
        let told = home.bad(&["config", "set", path, value], code).await;
        assert!(told.contains(said), "{path}: {told}");
        assert_eq!(fs::read(home.config()).unwrap(), before, "{path}");
    }
    home.document(&["config", "validate"]).await;
    home.bad(&["config", "validate", "--kind", "relay"], 3)
        .await;
    home.bad(&["config", "get", "openai.consumer.limits.total"], 1)
        .await;
    let schema: Value = serde_json::from_str(&home.good(&["config", "schema"]).await).unwrap();
    let written: Value = json5_of(&fs::read_to_string(home.config()).unwrap(), &home).await;
    assert_eq!(derouter_testkit::schema::check(&schema, &written), Ok(()));
}

/// The configuration as JSON, through the command itself.
async fn json5_of(text: &str, home: &Home) -> Value {
    assert!(!text.is_empty());
    let mut whole = json!({});
    let told = home.document(&["config", "show"]).await;
    for setting in told["settings"].as_array().unwrap() {
        let path = setting["path"].as_str().unwrap();
        if setting["origin"] == "file" && !path.contains('"') {
            let mut at = &mut whole;
            for key in path.split('.') {
                at = &mut at[key];
            }
            *at = setting["value"].clone();
        }
    }
    whole
}

#[tokio::test]
async fn a_servers_key_is_set_from_a_pipe_and_never_shown() {
    let home = Home::new();
    home.configure("{ openai: { provider: { openai_base_url: 'http://127.0.0.1:1/v1', discover: { input_token_price: {$pol: '1'}, output_token_price: {$pol: '1'} } } } }");
    let secret = home.path().join("secret");
    fs::write(&secret, "12345678\n").unwrap();
    let mut command = home.command(
        "sh",
        &[
            "-c",
            "\"$0\" config set openai.provider.openai_api_key - < secret",
            crate::DEROUTER,
        ],
    );
    assert!(command.status().await.unwrap().success());
    assert!(
        fs::read_to_string(home.config())
            .unwrap()
            .contains("\"12345678\"")
    );
    let shown = home.good(&["config", "show"]).await;
    assert!(
        !shown.contains("12345678") && shown.contains("(hidden)"),
        "{shown}"
    );
    let shown = home.good(&["config", "show", "--secrets"]).await;
    assert!(shown.contains("12345678"), "{shown}");
}

#[tokio::test]
async fn an_identity_is_backed_up_and_comes_back_with_its_passphrase_alone() {
    let (home, other) = (Home::new(), Home::new());
    let told = home.bad(&["key", "show"], 3).await;
    assert!(told.contains("first start"), "{told}");
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/vectors");
    let key = |home: &Home| home.data().join("keypair.bin");
    for (home, side) in [(&home, "provider"), (&other, "consumer")] {
        fs::create_dir_all(home.data()).unwrap();
        fs::copy(format!("{vectors}/0.1-data/{side}/keypair.bin"), key(home)).unwrap();
    }
    let backup = home.path().join("identity.backup");
    let file = backup.to_str().unwrap();
    let told = home.bad(&["key", "backup", file], 2).await;
    assert!(told.contains("--passphrase-file"), "{told}");
    let short = home
        .run_with(
            &["key", "backup", file],
            &[("DEROUTER_KEY_PASSPHRASE", "short")],
        )
        .await;
    assert_eq!(short.code, Some(2), "{short:?}");
    let exit = home
        .run_with(&["key", "backup", file, "--json"], &SECRET)
        .await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let told = super::checked(&exit.stdout, &["key", "backup"]);
    assert_eq!(
        fs::metadata(&backup).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let written: Value = serde_json::from_str(&fs::read_to_string(&backup).unwrap()).unwrap();
    derouter_testkit::schema::check_document(&written).unwrap();
    assert_eq!(written["peer_id"], told["peer_id"]);
    let again = home.run_with(&["key", "backup", file], &SECRET).await;
    assert_eq!(again.code, Some(3), "{again:?}");

    // Elsewhere there is another key, which stays unless it is forced.
    let restore = ["key", "restore", file];
    let wrong = [("DEROUTER_KEY_PASSPHRASE", "correct horsf")];
    let exit = other.run_with(&restore, &wrong).await;
    assert_eq!(exit.code, Some(5), "{exit:?}");
    let before = fs::read(key(&other)).unwrap();
    let exit = other.run_with(&restore, &SECRET).await;
    assert_eq!(exit.code, Some(3), "{exit:?}");
    assert!(exit.stderr.contains("--force"), "{exit:?}");
    assert_eq!(fs::read(key(&other)).unwrap(), before);
    let forced = [&restore[..], &["--force", "--json"]].concat();
    let exit = other.run_with(&forced, &SECRET).await;
    let told = super::checked(&exit.stdout, &forced);
    assert_eq!(
        fs::read(key(&other)).unwrap(),
        fs::read(key(&home)).unwrap()
    );
    let kept = told["kept"].as_str().unwrap();
    assert_eq!(fs::read(kept).unwrap(), before, "the other one is kept");
    let shown = other.document(&["key", "show"]).await;
    assert_eq!(shown["peer_id"], written["peer_id"]);
    // In an empty place, and where it is already.
    fs::remove_file(key(&other)).unwrap();
    for _ in 0..2 {
        let exit = other.run_with(&restore, &SECRET).await;
        assert_eq!(exit.code, Some(0), "{exit:?}");
    }
    let mode = fs::metadata(key(&other)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_service_is_printed_without_touching_anything() {
    let home = Home::new();
    home.configure("{}");
    let user = home
        .good(&["service", "install", "--user", "--print"])
        .await;
    assert!(user.contains("WantedBy=default.target"), "{user}");
    assert!(user.contains(home.config().to_str().unwrap()), "{user}");
    let system = home
        .good(&["service", "install", "--system", "--print"])
        .await;
    assert!(
        system.contains("DynamicUser=yes") && system.contains("/etc/derouter/config.json"),
        "{system}"
    );
    assert!(!home.path().join("config/systemd").exists());
    let (exit, documents) = home.documents(&["service", "status", "--user"]).await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert_eq!(documents[0]["installed"], false);
}

#[tokio::test]
async fn documents_are_written_from_the_command_line_itself() {
    let home = Home::new();
    for (shell, part) in [
        ("bash", "complete"),
        ("zsh", "#compdef derouter"),
        ("fish", "complete -c derouter"),
    ] {
        let script = home.good(&["completion", shell]).await;
        assert!(
            script.contains(part) && script.contains("netcheck"),
            "{shell}"
        );
    }
    // What a shell is given, it must read.
    let script = home.path().join("completion.bash");
    fs::write(&script, home.good(&["completion", "bash"]).await).unwrap();
    let read = home
        .command("bash", &["-n", "completion.bash"])
        .status()
        .await
        .unwrap();
    assert!(read.success());
    let page = home.good(&["man"]).await;
    assert!(page.contains(".TH derouter 1"), "{page}");
    let told = home.document(&["man", "pages"]).await;
    let pages = told["pages"].as_array().unwrap();
    assert!(pages.len() > 30, "{pages:?}");
    assert!(home.path().join("pages/derouter-token-create.1").exists());
    let version = home.document(&["version"]).await;
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn all_that_was_there_before_names_its_shape_too() {
    let home = Home::new();
    home.configure("{ server: { port: 0 }, listen: ['/ip4/127.0.0.1/tcp/0'], mdns: false, port_mapping: false }");
    let created = home
        .document(&["token", "create", "laptop", "--daily", "1"])
        .await;
    assert_eq!(created["first"], true);
    home.document(&["token", "set", "laptop", "--models", "a*"])
        .await;
    home.document(&["token", "list"]).await;
    home.document(&["token", "revoke", "laptop"]).await;
    home.good(&["up"]).await;
    home.good(&["down"]).await;
    home.document(&["db", "check"]).await;
    home.document(&["db", "backup", "copy.sqlite"]).await;
    home.document(&["db", "vacuum"]).await;
    let (exit, _) = home.documents(&["db", "backup", "copy.sqlite"]).await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    // Where nothing is asked for, nothing but the answer is said.
    let exit = home.run(&["token", "create", "x", "-q"]).await;
    assert!(
        exit.stderr.is_empty() && exit.stdout.starts_with("dr-"),
        "{exit:?}"
    );
}
