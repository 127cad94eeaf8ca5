//! The dashboard of a real node, attacked as web pages, other programs of the machine and peers would.

use std::time::Duration;

use derouter_testkit::home::{openai_consumer, openai_provider};
use derouter_testkit::{Backend, NodeConfig, NodeHome, Pair, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::DEROUTER;

/// The longest that an answer may take: it detects hangs alone.
const PATIENCE: Duration = Duration::from_secs(60);

/// What peers put into every field that they control.
const EVIL: &str = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg/onload=alert(3)>";

/// Bytes of an answer that are kept.
const MOST: usize = 4 * 1024 * 1024;

const PAGES: [&str; 12] = [
    "/",
    "/offers",
    "/model?model=test-model",
    "/chat",
    "/jobs",
    "/money",
    "/network",
    "/provide",
    "/modules",
    "/settings",
    "/logs",
    "/jobs.csv",
];

const CHANGES: [&str; 9] = [
    "/offers/standing",
    "/keys",
    "/keys/revoke",
    "/provide/save",
    "/provide/pause",
    "/provide/remove",
    "/provide/test",
    "/chat",
    "/logout",
];

/// An answer: its status, its head, its body.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }
}

/// A browser, or what pretends to be one: it sends exactly what it is told.
#[derive(Clone)]
struct Browser {
    address: String,
    cookie: String,
    csrf: String,
}

async fn exchange(address: &str, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    answer_of(&mut stream).await
}

async fn answer_of(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let read = stream.take(u64::try_from(MOST).unwrap());
    let mut read = Box::pin(read);
    let ended = timeout(PATIENCE, read.read_to_end(&mut bytes)).await;
    // A server that stops reading may reset the connection behind its answer.
    let _ = ended.expect("an answer comes");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    Answer {
        status: status.unwrap_or(0),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

impl Browser {
    /// Opens a session as `derouter open` does.
    async fn open(url: &str, home: &NodeHome) -> Self {
        let address = url.strip_prefix("http://").unwrap().to_owned();
        let link = launch(&address, home).await;
        let entered = exchange(&address, &plain("GET", &address, &link, "")).await;
        assert_eq!(entered.status, 303, "{entered:?}");
        let cookie = entered.header("set-cookie").unwrap();
        for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        let cookie = cookie.split(';').next().unwrap().to_owned();
        let mut browser = Self {
            address,
            cookie,
            csrf: String::new(),
        };
        let page = browser.get("/").await;
        let (_, rest) = page.body.split_once("data-csrf=\"").unwrap();
        browser.csrf = rest.split('"').next().unwrap().to_owned();
        browser
    }

    async fn get(&self, path: &str) -> Answer {
        let cookie = format!("Cookie: {}\r\nAccept: text/html\r\n", self.cookie);
        exchange(&self.address, &plain("GET", &self.address, path, &cookie)).await
    }

    /// Posts a form with its token, as a page of the dashboard does.
    async fn post(&self, path: &str, form: &str) -> Answer {
        let headers = format!(
            "Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\n",
            self.address
        );
        let body = format!("csrf={}&{form}", self.csrf);
        self.post_as(path, &headers, &body).await
    }

    async fn post_as(&self, path: &str, headers: &str, body: &str) -> Answer {
        let headers = format!(
            "Cookie: {}\r\n{headers}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n",
            self.cookie,
            body.len()
        );
        let request = plain("POST", &self.address, path, &headers) + body;
        exchange(&self.address, &request).await
    }
}

impl Browser {
    /// Posts a form, and returns the page to which that leads.
    async fn submit(&self, path: &str, form: &str) -> String {
        let answer = self.post(path, form).await;
        assert_eq!(answer.status, 303, "{answer:?}");
        self.get(answer.header("location").unwrap()).await.body
    }
}

fn plain(method: &str, host: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n")
}

fn secret(home: &NodeHome) -> String {
    let text = std::fs::read_to_string(home.data_dir().join("web.json")).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    value["secret"].as_str().unwrap().to_owned()
}

async fn launch(address: &str, home: &NodeHome) -> String {
    let bearer = format!(
        "Authorization: Bearer {}\r\nContent-Length: 0\r\n",
        secret(home)
    );
    let answer = exchange(address, &plain("POST", address, "/launch", &bearer)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let value: Value = serde_json::from_str(&answer.body).unwrap();
    value["path"].as_str().unwrap().to_owned()
}

/// A node that buys and sells, and its dashboard.
struct Stage {
    pair: Pair,
    browser: Browser,
}

impl Stage {
    /// A seller whose every text is hostile, and a buyer whose dashboard is looked at.
    async fn start() -> Self {
        let backend = Backend::start().await;
        let mut provider = openai_provider(&backend.url(), &["test-model"]);
        let mut evil = provider["offers"]["test-model"].clone();
        evil["model_id"] = EVIL.into();
        evil["description"] = EVIL.into();
        evil["backend_model"] = "test-model".into();
        evil["announce"] = json!({
            "features": [EVIL], "quantization": EVIL, "aliases": [format!("{EVIL}2")],
        });
        provider["offers"][EVIL] = evil;
        let mut selling = NodeConfig::default();
        selling.0["openai"]["provider"] = provider;
        selling.0["provider"] = json!({"name": EVIL, "teaser": EVIL, "description": EVIL});
        let mut buying = NodeConfig::default();
        buying.0["openai"]["consumer"] = openai_consumer();
        let pair = Pair::of_nodes(DEROUTER, backend, &selling, buying).await;
        let url = pair.consumer.ready.dashboard.clone().unwrap();
        let browser = Browser::open(&url, &pair.consumer_home).await;
        let seen = async || {
            let page = browser.get("/offers").await;
            page.body.contains("&lt;script&gt;").then_some(())
        };
        eventually("the hostile offer on the market", seen).await;
        Self { pair, browser }
    }

    /// One node alone.
    async fn alone() -> (NodeHome, derouter_testkit::NodeProcess, Browser) {
        let mut config = NodeConfig::default();
        config.0["openai"]["consumer"] = openai_consumer();
        let home = NodeHome::new("dashboard", &config);
        let node = home.start(DEROUTER).await;
        let browser = Browser::open(node.ready.dashboard.as_deref().unwrap(), &home).await;
        (home, node, browser)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_peers_say_is_text_on_every_page() {
    let stage = Stage::start().await;
    let browser = &stage.browser;
    // A chat with the hostile offer makes a job of it, which pages show too.
    let provider = &stage.pair.provider.ready.peer_id;
    let chat = json!({"model": EVIL, "messages": [{"role": "user", "content": EVIL}]});
    let chat = chat.to_string();
    let headers = format!(
        "Cookie: {}\r\nOrigin: http://{}\r\nX-Csrf-Token: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        browser.cookie,
        browser.address,
        browser.csrf,
        chat.len()
    );
    let request = plain("POST", &browser.address, "/chat", &headers) + &chat;
    let answer = exchange(&browser.address, &request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let escaped: String = EVIL.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let mut pages: Vec<String> = PAGES.iter().map(|page| (*page).to_owned()).collect();
    pages.push(format!("/model?model={escaped}"));
    pages.push(format!("/offer?q={provider}%2F{escaped}"));
    pages.push(format!(
        "/offers?q={escaped}&only={escaped}&sort={escaped}&compare={escaped}"
    ));
    pages.push(format!("/offers?compare={provider}%2F{escaped}"));
    pages.push(format!("/money?said={escaped}"));
    pages.push("/jobs/1".to_owned());
    let mut shown = 0;
    for page in &pages {
        let answer = browser.get(page).await;
        assert_eq!(answer.status, 200, "{page}: {}", answer.head);
        if page == "/jobs.csv" {
            continue;
        }
        let body = &answer.body;
        for raw in ["<script>", "<img src=x", "<svg/onload", "\"'>"] {
            assert!(!body.contains(raw), "{page} has {raw}");
        }
        shown += usize::from(body.contains("&lt;script&gt;"));
        check_markup(page, body);
    }
    assert!(shown >= 7, "the texts are shown, escaped, on {shown} pages");
}

/// No inline script or style, no handler, nothing from elsewhere.
fn check_markup(page: &str, body: &str) {
    let lower = body.to_lowercase();
    for script in lower.split("<script").skip(1) {
        let (tag, rest) = script.split_once('>').unwrap();
        assert!(tag.contains("src=\"/assets/"), "{page}: {tag}");
        assert!(
            rest.starts_with("</script>"),
            "{page}: a script inside the page"
        );
    }
    assert!(!lower.contains("<style"), "{page}");
    for tag in lower
        .split('<')
        .skip(1)
        .filter_map(|it| it.split('>').next())
    {
        // What is between quotes is a value, and text.
        let names: String = tag.split('"').step_by(2).collect();
        for name in [" on", " style=", " hx-on"] {
            assert!(!names.contains(name), "{page}: {tag}");
        }
        for link in [" src=\"http", " src=\"//", " href=\"http", " action=\"http"] {
            assert!(!tag.contains(link), "{page}: {tag}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_sites_and_strangers_are_refused() {
    let (home, node, browser) = Stage::alone().await;
    let address = &browser.address;
    let port = address.rsplit(':').next().unwrap();
    let cookie = format!("Cookie: {}\r\n", browser.cookie);
    let all = PAGES.iter().chain(&[
        "/healthz",
        "/readyz",
        "/metrics",
        "/login",
        "/events?topic=jobs",
        "/assets/x",
        "/nowhere",
    ]);
    for page in all {
        for host in [
            format!("evil.example:{port}"),
            "localhost".to_owned(),
            format!("127.0.0.1.evil.example:{port}"),
            format!("localhost:{port}.evil.example"),
        ] {
            let answer = exchange(address, &plain("GET", &host, page, &cookie)).await;
            assert_eq!(answer.status, 421, "{host} {page}");
        }
        let twice = format!(
            "GET {page} HTTP/1.1\r\nHost: {address}\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        );
        assert!(matches!(exchange(address, &twice).await.status, 400 | 421));
        let whole = format!(
            "GET http://evil.example{page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        );
        assert!(matches!(exchange(address, &whole).await.status, 400 | 421));
    }
    for page in PAGES {
        let answer = exchange(
            address,
            &plain("GET", address, page, "Accept: text/html\r\n"),
        )
        .await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (303, Some("/login")),
            "{page}"
        );
        let part = exchange(address, &plain("GET", address, page, "")).await;
        assert_eq!(part.status, 401, "{page}");
        let other = format!("{cookie}Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n");
        assert_eq!(
            exchange(address, &plain("GET", address, page, &other))
                .await
                .status,
            403,
            "{page}"
        );
    }
    let stolen = "Cookie: derouter_1=0000\r\nAccept: text/html\r\n";
    assert_eq!(
        exchange(address, &plain("GET", address, "/", stolen))
            .await
            .status,
        303
    );
    for header in [
        "Authorization: Bearer wrong\r\n",
        "",
        "Authorization: Bearer \r\n",
    ] {
        let headers = format!("{header}Content-Length: 0\r\n");
        assert_eq!(
            exchange(address, &plain("POST", address, "/launch", &headers))
                .await
                .status,
            401
        );
    }
    // A page that knew the secret could not use it either.
    let page = format!(
        "Authorization: Bearer {}\r\nOrigin: https://evil.example\r\nContent-Length: 0\r\n",
        secret(&home)
    );
    assert_eq!(
        exchange(address, &plain("POST", address, "/launch", &page))
            .await
            .status,
        403
    );
    drop(node);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_come_from_own_pages_with_their_token_alone() {
    let (home, node, browser) = Stage::alone().await;
    let own = format!("Origin: http://{}\r\n", browser.address);
    let other = Browser::open(node.ready.dashboard.as_deref().unwrap(), &home).await;
    assert_ne!(other.csrf, browser.csrf);
    let good = format!("csrf={}&name=forged", browser.csrf);
    for path in CHANGES {
        for (headers, body) in [
            ("Origin: https://evil.example\r\n", good.as_str()),
            ("Origin: null\r\n", good.as_str()),
            ("Sec-Fetch-Site: cross-site\r\n", good.as_str()),
            (
                "Origin: null\r\nSec-Fetch-Site: cross-site\r\n",
                good.as_str(),
            ),
            (
                "Origin: https://evil.example\r\nSec-Fetch-Site: same-origin\r\n",
                good.as_str(),
            ),
            ("Sec-Fetch-Site: same-site\r\n", good.as_str()),
            ("", good.as_str()),
            (own.as_str(), "name=forged"),
            (own.as_str(), "csrf=&name=forged"),
            (own.as_str(), &format!("csrf={}&name=forged", other.csrf)),
            (own.as_str(), &format!("xcsrf={}&name=forged", browser.csrf)),
        ] {
            let answer = browser.post_as(path, headers, body).await;
            assert_eq!(answer.status, 403, "{path} {headers} {body}");
        }
        let mut stranger = browser.clone();
        stranger.cookie = "a=b".to_owned();
        assert_eq!(
            stranger.post_as(path, &own, &good).await.status,
            401,
            "{path}"
        );
    }
    assert!(
        !home.data_dir().join("keys.json").exists(),
        "nothing was changed"
    );
    let made = browser.post("/keys", "name=mine&daily=0.5").await;
    assert_eq!(made.status, 200, "{made:?}");
    assert!(home.data_dir().join("keys.json").exists());
    assert_eq!(browser.post("/logout", "").await.status, 303);
    assert_eq!(browser.get("/").await.status, 303, "the session is over");
    assert_eq!(other.get("/").await.status, 200, "the other one is not");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_is_served_from_a_configured_server_and_from_the_one_that_was_chosen() {
    let (first, second) = (Backend::start().await, Backend::start().await);
    let selling = json!([
        openai_provider(&first.url(), &["test-model"]),
        openai_provider(&second.url(), &["other-model"]),
    ]);
    let config = NodeConfig::default().with("openai", json!({"provider": selling}));
    let home = NodeHome::new("servers", &config);
    let node = home.start(DEROUTER).await;
    let browser = Browser::open(node.ready.dashboard.as_deref().unwrap(), &home).await;
    let save = async |id: &str, is_new: bool, server: &str, places: u32| {
        let form = format!(
            "id={id}&is_new={is_new}&backend={server}&model=m&context=100&input_price=1&output_price=2&places={places}"
        );
        browser.submit("/provide/save", &form).await
    };
    let entries = || {
        let text = std::fs::read_to_string(home.data_dir().join("openai-offers.json"));
        let text = text.unwrap_or_else(|_| r#"{"offers":{}}"#.to_owned());
        let value: Value = serde_json::from_str(&text).unwrap();
        value["offers"].clone()
    };
    let shown = async |text: &str| {
        let page = async || {
            browser
                .get("/provide")
                .await
                .body
                .contains(text)
                .then_some(())
        };
        eventually(text, page).await;
    };
    for elsewhere in [
        "http://169.254.169.254/v1",
        "http://127.0.0.1:9/v1",
        "file:///etc/passwd",
        "",
    ] {
        let page = save("added", true, elsewhere, 1).await;
        assert!(page.contains("has no such server"), "{elsewhere}");
    }
    assert_eq!(entries(), json!({}), "nothing was added");
    assert!(
        save("added", true, &second.url(), 1)
            .await
            .contains("Saved.")
    );
    assert_eq!(entries()["added"]["backend"], second.url());
    shown("value=\"added\"").await;
    assert!(
        save("added", true, &first.url(), 1)
            .await
            .contains("of that id already")
    );
    assert!(
        save("none", false, &first.url(), 1)
            .await
            .contains("no such offer")
    );
    // The server that is chosen in the editor is the one that answers from then on.
    assert!(
        save("added", false, &first.url(), 2)
            .await
            .contains("Saved.")
    );
    assert_eq!(entries()["added"]["backend"], first.url());
    let page = save("added", false, "http://127.0.0.1:9/v1", 3).await;
    assert!(page.contains("has no such server"));
    assert_eq!(
        entries()["added"]["edit"]["max_concurrency"],
        2,
        "all or nothing"
    );
    // That of a configured offer is the configuration's to say.
    let page = save("test-model", false, &second.url(), 3).await;
    assert!(page.contains("the configuration says which server"));
    assert_eq!(entries()["test-model"], Value::Null);
    assert!(
        save("test-model", false, &first.url(), 3)
            .await
            .contains("Saved.")
    );
    assert_eq!(entries()["test-model"]["backend"], Value::Null);
    // All that the command can change; what is as it was is left to the configuration.
    let kept = "id=other-model&is_new=false&model=other-model&context=131072&input_price=1&output_price=2&places=64";
    let kept = format!(
        "{kept}&backend={}&aliases=&trial=&queue=&description=",
        second.url()
    );
    let changed =
        format!("{kept}&schedule=sat%20x0.50%0D%0A22:00-06:00%200.1/-&region=DE&max_output=50");
    assert!(
        browser
            .submit("/provide/save", &changed)
            .await
            .contains("Saved.")
    );
    assert_eq!(
        entries()["other-model"]["edit"],
        json!({"schedule": ["sat x0.5", "22:00-06:00 0.1/-"], "region": "DE", "max_output": 50})
    );
    let editor = async || {
        let page = browser.get("/provide?q=other-model").await.body;
        page.contains("22:00-06:00 0.1/-</textarea>").then_some(())
    };
    eventually("the schedule in the editor", editor).await;
    let wrong = format!("{kept}&schedule=noon");
    assert!(
        browser
            .submit("/provide/save", &wrong)
            .await
            .contains("no window of prices")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_keys_says_who_is_served() {
    let (_home, _node, browser) = Stage::alone().await;
    let page = browser.get("/money").await.body;
    assert!(page.contains("every program of this machine may spend"));
    assert_eq!(browser.post("/keys", "name=only").await.status, 200);
    let page = browser.submit("/keys/revoke", "name=only").await;
    assert!(!page.contains("every program of this machine may spend"));
    assert!(page.contains("no program is served"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_opens_once_and_the_file_is_its_owners_until_the_end() {
    let (home, node, browser) = Stage::alone().await;
    let address = &browser.address;
    let link = launch(address, &home).await;
    assert_eq!(
        exchange(address, &plain("GET", address, &link, ""))
            .await
            .status,
        303
    );
    let again = exchange(address, &plain("GET", address, &link, "")).await;
    assert_eq!(again.status, 403);
    assert!(again.header("set-cookie").is_none());
    let file = home.data_dir().join("web.json");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    // The command prints such a link.
    let data_dir = home.data_dir();
    let mut command = tokio::process::Command::new(DEROUTER);
    command
        .args(["open", "--print", "--data-dir"])
        .arg(&data_dir);
    let told = command.output().await.unwrap();
    assert!(told.status.success(), "{told:?}");
    let url = String::from_utf8(told.stdout).unwrap();
    let path = url
        .trim()
        .strip_prefix(&format!("http://{address}"))
        .unwrap();
    assert_eq!(
        exchange(address, &plain("GET", address, path, ""))
            .await
            .status,
        303
    );
    let exit = node.terminate().await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(!file.exists(), "the file goes with the node");
    let told = command.output().await.unwrap();
    assert_eq!(told.status.code(), Some(4), "no node runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_forbids_what_pages_do_not_need() {
    let (_home, _node, browser) = Stage::alone().await;
    for page in PAGES
        .iter()
        .chain(&["/login", "/nowhere", "/healthz", "/metrics", "/assets/none"])
    {
        let answer = browser.get(page).await;
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{page}");
        assert!(
            !policy.contains("unsafe") && !policy.contains('*'),
            "{page}"
        );
        assert!(policy.contains("frame-ancestors 'none'"), "{page}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{page} {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_leads_out_of_the_assets() {
    let (_home, _node, browser) = Stage::alone().await;
    for path in [
        "/assets/../Cargo.toml",
        "/assets/../../../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2fetc%2fpasswd",
        "/assets/%00",
        "/assets//etc/passwd",
        "/assets/style.css",
        "/assets/....//etc/passwd",
        "/jobs/..%2f..%2fetc",
        "/jobs/-1",
        "/jobs/99999999999999999999",
        "/jobs/1/../../etc/passwd",
        "/jobs/0",
        "/jobs/7/proof",
    ] {
        let answer = browser.get(path).await;
        assert!(
            matches!(answer.status, 400 | 404),
            "{path}: {}",
            answer.head
        );
        assert!(!answer.body.contains("root:"), "{path}");
    }
    let page = browser.get("/").await;
    let (_, rest) = page.body.split_once("href=\"/assets/style.").unwrap();
    let style = format!("/assets/style.{}", rest.split('"').next().unwrap());
    let whole = browser.get(&style).await;
    assert_eq!(whole.status, 200);
    let tag = format!(
        "Cookie: {}\r\nIf-None-Match: {}\r\n",
        browser.cookie,
        whole.header("etag").unwrap()
    );
    let again = exchange(
        &browser.address,
        &plain("GET", &browser.address, &style, &tag),
    )
    .await;
    assert_eq!(again.status, 304);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_too_large_or_too_slow_are_cut_off() {
    let (_home, _node, browser) = Stage::alone().await;
    let address = &browser.address;
    let own = format!(
        "Cookie: {}\r\nOrigin: http://{address}\r\nX-Csrf-Token: {}\r\n",
        browser.cookie, browser.csrf
    );
    // A body that is too large, said and unsaid.
    let big = "x".repeat(200 * 1024);
    let request = plain(
        "POST",
        address,
        "/keys",
        &format!("{own}Content-Length: {}\r\n", big.len()),
    ) + &big;
    assert_eq!(exchange(address, &request).await.status, 413);
    let chunk = format!("{:x}\r\n{big}\r\n", big.len());
    let request = plain(
        "POST",
        address,
        "/keys",
        &format!("{own}Transfer-Encoding: chunked\r\n"),
    ) + &chunk;
    assert_eq!(exchange(address, &request).await.status, 413);
    // A head that is too large, and one with too many lines.
    let head = plain(
        "GET",
        address,
        "/",
        &format!("X-Big: {}\r\n", "y".repeat(64 * 1024)),
    );
    assert!(matches!(
        exchange(address, &head).await.status,
        0 | 400 | 431
    ));
    let many: String = (0..200)
        .map(|number| format!("X-{number}: 1\r\n"))
        .collect();
    assert!(matches!(
        exchange(address, &plain("GET", address, "/", &many))
            .await
            .status,
        0 | 400 | 431
    ));
    let long = format!("/?q={}", "z".repeat(8000));
    assert!(matches!(
        exchange(address, &plain("GET", address, &long, &own))
            .await
            .status,
        414 | 431
    ));
    // Bodies and heads that never end, so many that they hold every place there is.
    let slow_body = plain(
        "POST",
        address,
        "/keys",
        &format!("{own}Content-Length: 100\r\n"),
    ) + "csrf";
    let mut slow = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let text = if number % 10 == 0 {
            slow_body.as_str()
        } else {
            "GET / HTTP/1.1\r\nHost: "
        };
        stream.write_all(text.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let page = browser.get("/").await;
    assert_eq!(
        page.status, 200,
        "it answers once the slow ones are cut off"
    );
    for stream in &mut slow[..20] {
        let answer = answer_of(stream).await;
        assert!(matches!(answer.status, 0 | 408), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_of_events_leave_room_for_pages() {
    let (_home, _node, browser) = Stage::alone().await;
    let request = format!(
        "GET /events?topic=jobs HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\n\r\n",
        browser.address, browser.cookie
    );
    let open = (0..1000).map(|_| async {
        let mut stream = TcpStream::connect(&browser.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut head))
            .await
            .unwrap()
            .unwrap();
        (stream, head[9..12].to_vec())
    });
    let streams = futures::future::join_all(open).await;
    let served = streams
        .iter()
        .filter(|(_, status)| status == b"200")
        .count();
    let refused = streams
        .iter()
        .filter(|(_, status)| status == b"503")
        .count();
    assert_eq!((served, refused), (64, 936));
    assert_eq!(browser.get("/").await.status, 200);
    let metrics = browser.get("/metrics").await;
    assert!(
        metrics.body.contains("derouter_web_streams 64"),
        "{}",
        metrics.body
    );
    drop(streams);
    let free = async || {
        let metrics = browser.get("/metrics").await;
        metrics
            .body
            .contains("derouter_web_streams 0")
            .then_some(())
    };
    eventually("the places given back", free).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_health_are_told_with_bounded_labels() {
    let stage = Stage::start().await;
    let browser = &stage.browser;
    assert_eq!(browser.get("/healthz").await.body, "ok\n");
    assert_eq!(browser.get("/readyz").await.body, "ready\n");
    let metrics = browser.get("/metrics").await;
    let documented = include_str!("../../../../docs/metrics.md");
    for line in metrics
        .body
        .lines()
        .filter(|line| line.starts_with("# HELP"))
    {
        let name = line.split(' ').nth(2).unwrap();
        assert!(
            documented.contains(&format!("`{name}`")),
            "{name} is not documented"
        );
    }
    for name in [
        "derouter_peers 1",
        "derouter_offers 2",
        "derouter_jobs_running{role=\"consumer\"}",
    ] {
        assert!(metrics.body.contains(name), "{name}: {}", metrics.body);
    }
    assert!(
        !metrics.body.contains("alert("),
        "no text of a peer is in a label"
    );
    let series = metrics
        .body
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count();
    assert!(series < 100, "{series}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_machines_are_served_only_when_that_is_said_and_with_a_token() {
    for web in [
        json!({"host": "0.0.0.0"}),
        json!({"host": "0.0.0.0", "allow_remote": true}),
        json!({"host": "0.0.0.0", "token": "0123456789abcdef"}),
        json!({"host": "0.0.0.0", "allow_remote": true, "token": "short"}),
    ] {
        let home = NodeHome::new("remote", &NodeConfig::default().with("web", web.clone()));
        let exit = home.spawn(DEROUTER.as_ref()).exit().await;
        assert_eq!(exit.code, Some(3), "{web}: {}", exit.stderr);
        assert!(exit.stderr.contains("web."), "{}", exit.stderr);
    }
    // A token also lets people in here, and can't be tried without end.
    let web = json!({"port": 0, "token": "correct-horse-battery"});
    let home = NodeHome::new("token", &NodeConfig::default().with("web", web));
    let node = home.start(DEROUTER).await;
    let browser = Browser::open(node.ready.dashboard.as_deref().unwrap(), &home).await;
    let own = format!("Origin: http://{}\r\n", browser.address);
    let good = browser
        .post_as("/login", &own, "token=correct-horse-battery")
        .await;
    assert_eq!(good.status, 303);
    assert_eq!(
        browser
            .post_as(
                "/login",
                "Origin: https://evil.example\r\n",
                "token=correct-horse-battery"
            )
            .await
            .status,
        403
    );
    let mut last = 0;
    for _ in 0..12 {
        last = browser.post_as("/login", &own, "token=wrong").await.status;
    }
    assert_eq!(last, 429);
    let late = browser
        .post_as("/login", &own, "token=correct-horse-battery")
        .await;
    assert_eq!(late.status, 429);
    // Who did not guess is let in.
    let body = "token=correct-horse-battery";
    let headers = format!(
        "{own}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n",
        body.len()
    );
    let request = plain("POST", &browser.address, "/login", &headers) + body;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let address = browser.address.parse().unwrap();
    let mut elsewhere = socket.connect(address).await.unwrap();
    elsewhere.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(answer_of(&mut elsewhere).await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_can_be_switched_off_and_takes_another_port_when_its_own_is_taken() {
    let off = NodeConfig::default().with("web", json!({"enabled": false}));
    let home = NodeHome::new("off", &off);
    let node = home.start(DEROUTER).await;
    assert_eq!(node.ready.dashboard, None);
    assert!(!home.data_dir().join("web.json").exists());
    let (_home, _node, browser) = Stage::alone().await;
    let port: u16 = browser.address.rsplit(':').next().unwrap().parse().unwrap();
    let taken = NodeConfig::default().with("web", json!({"port": port}));
    let home = NodeHome::new("taken", &taken);
    let exit = home.spawn(DEROUTER.as_ref()).exit().await;
    assert_eq!(exit.code, Some(3), "{}", exit.stderr);
    assert!(exit.stderr.contains("web.port"), "{}", exit.stderr);
}
