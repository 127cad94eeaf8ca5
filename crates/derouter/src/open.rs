//! `derouter open`: opens the dashboard of a running node in a browser, by a link that works once.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::cli::open::OpenArgs;
use crate::config::web::launch_file;
use crate::daemon::control;
use crate::failure::Failure;
use crate::output::Output;

/// How long the node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of the file, which has some two hundred.
const FILE_BYTES: u64 = 4096;

/// What a dashboard wrote at its start.
#[derive(Debug, Deserialize)]
struct Launch {
    url: String,
    secret: String,
}

#[derive(Debug, Deserialize)]
struct Link {
    path: String,
}

/// Does it.
pub(crate) async fn open(args: OpenArgs, output: Output) -> Result<(), Failure> {
    let data_dir = control::data_dir(&args.place)?;
    let launch = read(&launch_file(&data_dir))?;
    let url = link(&launch).await?;
    let told = json!({"url": url});
    output.show("derouter.open/1", &told, |_| url.clone());
    if !args.print && !output.is_json() && !start_browser(&url) {
        output.note("No browser could be started: open the address above yourself. It works once, within two minutes.");
    }
    Ok(())
}

fn read(path: &Path) -> Result<Launch, Failure> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Failure::not_running(format_args!(
            "no dashboard runs here ({} is not there). Start the node with `derouter up`, and leave `web.enabled` \
             as it is",
            path.display()
        )),
        io::ErrorKind::PermissionDenied => Failure::environment(format_args!(
            "{} is for the user that runs the node: become that one",
            path.display()
        )),
        _ => Failure::environment(format_args!("{} can't be read: {error}", path.display())),
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::environment(format_args!(
            "{} is not as a node writes it: {error}",
            path.display()
        ))
    })
}

async fn link(launch: &Launch) -> Result<String, Failure> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .build();
    let client = client.map_err(Failure::failed)?;
    let silent = |error: reqwest::Error| {
        Failure::not_running(format_args!(
            "no dashboard answers at {}: {error}",
            launch.url
        ))
    };
    let asked = client
        .post(format!("{}/launch", launch.url))
        .bearer_auth(&launch.secret);
    let answer = asked.send().await.map_err(silent)?;
    if !answer.status().is_success() {
        return Err(Failure::failed(format_args!(
            "the dashboard at {} refuses ({}): another node may have taken its port",
            launch.url,
            answer.status()
        )));
    }
    let text = answer.text().await.map_err(silent)?;
    let link: Link = serde_json::from_str(&text).map_err(|error| {
        Failure::failed(format_args!(
            "what answers at {} is no dashboard: {error}",
            launch.url
        ))
    })?;
    Ok(format!("{}{}", launch.url, link.path))
}

/// Starts the browser of this machine; the link is its only argument.
fn start_browser(url: &str) -> bool {
    let programs: &[&str] = match std::env::consts::OS {
        "macos" => &["open"],
        "windows" => &["explorer"],
        _ => &["xdg-open", "gio"],
    };
    // Without a screen these programs fail late, or start a text browser in the terminal.
    if cfg!(target_os = "linux")
        && std::env::var_os("DISPLAY").is_none()
        && std::env::var_os("WAYLAND_DISPLAY").is_none()
    {
        return false;
    }
    programs.iter().any(|program| {
        let mut command = Command::new(program);
        if *program == "gio" {
            command.arg("open");
        }
        command.arg(url).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().is_ok()
    })
}
