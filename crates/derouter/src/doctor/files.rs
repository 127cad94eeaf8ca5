//! The files: the configuration, the data directory and what is in it.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::path::{Path, PathBuf};

use derouter_node::identity;
use derouter_openai::consumer::{KeyStore, check_standings, check_tokenizer};
use derouter_sdk::tcp::{COOKIE_FILE, SOCKET_FILE};
use derouter_store::{OpenError, Reader};

use super::{Check, Fix, Patient};
use crate::config::node::RunConfig;
use crate::config::schema::{FileKind, schema, secret_keys};
use crate::config::{self};
use crate::text;

/// What a node needs free at the least to keep its promises, and when it is time to look after it.
const LEAST_FREE: u64 = 100 * 1000 * 1000;
const LOW_FREE: u64 = 1000 * 1000 * 1000;

pub(super) fn check(patient: &Patient, checks: &mut Vec<Check>) {
    configuration(patient, checks);
    let Some(data_dir) = &patient.data_dir else {
        checks.push(Check::skip("data-dir", "not known without a configuration"));
        return;
    };
    data_directory(data_dir, checks);
    disk(data_dir, checks);
    if let Ok(config) = &patient.config {
        key(&config.node.keypair_path, checks);
        database(&config.node.database_path, checks);
    }
    cookie(data_dir, checks);
    socket(data_dir, patient.running, checks);
    endpoint_keys(data_dir, checks);
    blocked_providers(data_dir, checks);
    if let Ok(config) = &patient.config {
        tokenizers(config, checks);
    }
}

fn configuration(patient: &Patient, checks: &mut Vec<Check>) {
    const ID: &str = "config";
    let Some(path) = &patient.file else {
        checks.push(match &patient.config {
            Ok(_) => Check::warn(
                ID,
                "there is no file: a node has the defaults, and neither sells nor buys",
                "`derouter init` writes one; or name yours with `-c FILE`",
            ),
            Err(error) => Check::fail(ID, error.to_string(), "`derouter init` writes a file"),
        });
        return;
    };
    match &patient.config {
        Ok(_) => checks.push(Check::ok(ID, path.display().to_string())),
        Err(error) => {
            let remedy = match path.exists() {
                true => {
                    "mend what it names; docs/config.md and `derouter config schema` have every key"
                }
                false => "`derouter init` writes it; or name another one with `-c FILE`",
            };
            checks.push(Check::fail(ID, error.to_string(), remedy));
        }
    }
    let secret = config::read_value(path).is_ok_and(|written| holds_secret(&written));
    if let Some(mode) = mode(path) {
        const ID: &str = "config-mode";
        let readable = mode & 0o077 != 0;
        checks.push(match readable && secret {
            false => Check::ok(ID, format!("{mode:04o}")),
            true => Check::warn(
                ID,
                format!(
                    "{} holds a server's key, and other users may read it ({mode:04o})",
                    path.display()
                ),
                format!("chmod 600 {}", path.display()),
            )
            .fix(Fix::Mode(path.clone(), 0o600)),
        });
    }
}

fn holds_secret(written: &serde_json::Value) -> bool {
    fn walk(value: &serde_json::Value, names: &std::collections::BTreeSet<String>) -> bool {
        match value {
            serde_json::Value::Object(fields) => fields.iter().any(|(name, value)| {
                let own =
                    names.contains(name) && value.as_str().is_some_and(|text| !text.is_empty());
                own || walk(value, names)
            }),
            serde_json::Value::Array(items) => items.iter().any(|item| walk(item, names)),
            _ => false,
        }
    }
    walk(written, &secret_keys(&schema(FileKind::Node)))
}

fn data_directory(data_dir: &Path, checks: &mut Vec<Check>) {
    const ID: &str = "data-dir";
    let shown = data_dir.display();
    let metadata = match std::fs::metadata(data_dir) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            checks.push(Check::ok(ID, format!("the first start makes {shown}")));
            return;
        }
        Err(error) => {
            let remedy =
                "make its path readable for the user that runs the node, or set another `data_dir`";
            checks.push(Check::fail(ID, format!("{shown}: {error}"), remedy));
            return;
        }
    };
    if !metadata.is_dir() {
        let remedy = "move that away, or set another `data_dir`";
        checks.push(Check::fail(
            ID,
            format!("{shown} is not a directory"),
            remedy,
        ));
        return;
    }
    checks.push(match tempfile::tempfile_in(data_dir) {
        Ok(_) => Check::ok(ID, shown.to_string()),
        Err(error) => Check::fail(
            ID,
            format!("nothing can be written to {shown}: {error}"),
            "make it this user's (chown), mount its file system for writing, or set another `data_dir`",
        ),
    });
    private(&metadata, data_dir, "data-dir-mode", 0o700, checks);
}

/// Warns when other users may read something.
fn private(
    metadata: &Metadata,
    path: &Path,
    id: &'static str,
    wanted: u32,
    checks: &mut Vec<Check>,
) {
    let Some(mode) = mode_of(metadata) else {
        return;
    };
    checks.push(match mode & 0o077 {
        0 => Check::ok(id, format!("{mode:04o}")),
        _ => Check::warn(
            id,
            format!("other users may look into {} ({mode:04o})", path.display()),
            format!("chmod {wanted:o} {}", path.display()),
        )
        .fix(Fix::Mode(path.to_owned(), wanted)),
    });
}

#[cfg(unix)]
#[allow(clippy::unnecessary_wraps)]
fn mode_of(metadata: &Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    Some(metadata.permissions().mode() & 0o7777)
}

#[cfg(not(unix))]
fn mode_of(_: &Metadata) -> Option<u32> {
    None
}

fn mode(path: &Path) -> Option<u32> {
    mode_of(&std::fs::metadata(path).ok()?)
}

fn disk(data_dir: &Path, checks: &mut Vec<Check>) {
    const ID: &str = "disk";
    // Of what is there of the path.
    let there = data_dir.ancestors().find(|path| path.exists());
    let Some(free) = there.and_then(free_space) else {
        checks.push(Check::skip(ID, "how much is free can't be told here"));
        return;
    };
    checks.push(free_verdict(free));
}

fn free_verdict(free: u64) -> Check {
    const ID: &str = "disk";
    let found = format!("{} free", text::bytes(free));
    let remedy = "make room: a node whose disk is full takes no jobs. `derouter db vacuum` gives back what the \
                  database does not use, `ledger` in the configuration bounds what is kept";
    match free {
        0..LEAST_FREE => Check::fail(ID, found, remedy),
        LEAST_FREE..LOW_FREE => Check::warn(ID, found, remedy),
        _ => Check::ok(ID, found),
    }
}

#[cfg(unix)]
fn free_space(path: &Path) -> Option<u64> {
    let told = rustix::fs::statvfs(path).ok()?;
    Some(told.f_bavail.saturating_mul(told.f_frsize))
}

#[cfg(not(unix))]
fn free_space(_: &Path) -> Option<u64> {
    None
}

fn key(path: &PathBuf, checks: &mut Vec<Check>) {
    const ID: &str = "key";
    match identity::load(path) {
        Ok(None) => checks.push(Check::ok(ID, "the first start makes one")),
        Ok(Some(key)) => {
            let peer = key.public().to_peer_id();
            checks.push(Check::ok(ID, format!("{} of {peer}", path.display())));
            if let Ok(metadata) = std::fs::metadata(path) {
                private(&metadata, path, "key-mode", 0o600, checks);
            }
        }
        Err(error) => checks.push(Check::fail(
            ID,
            error.to_string(),
            "restore it: `derouter key restore FILE --force`. A node with another key is another node: nobody \
             owes it anything",
        )),
    }
}

fn database(path: &Path, checks: &mut Vec<Check>) {
    const ID: &str = "database";
    if !path.exists() {
        checks.push(Check::ok(ID, "the first start makes one"));
        return;
    }
    let opened = Reader::open(path).and_then(|reader| reader.expect_current().map(|()| reader));
    let reader = match opened {
        Ok(reader) => reader,
        Err(error @ OpenError::OlderSchema { .. }) => {
            let remedy = "nothing need be done: the next start brings it up to date";
            checks.push(Check::warn(ID, error.to_string(), remedy));
            return;
        }
        Err(error @ OpenError::NewerSchema { .. }) => {
            let remedy = "update derouter, or set another `data_dir`";
            checks.push(Check::fail(ID, error.to_string(), remedy));
            return;
        }
        Err(error) => {
            let remedy = "restore a backup of it (docs/ledger.md)";
            checks.push(Check::fail(ID, error.to_string(), remedy));
            return;
        }
    };
    checks.push(match reader.check(true, |_| ()) {
        Ok(report) if report.found == 0 => {
            let jobs = text::counted(u32::try_from(report.jobs).unwrap_or(u32::MAX), "job");
            Check::ok(ID, format!("{}: {jobs}", path.display()))
        }
        Ok(report) => Check::fail(
            ID,
            format!("{}: {} findings", path.display(), report.found),
            "`derouter db check` lists them, and says what to do",
        ),
        Err(error) => Check::fail(
            ID,
            format!("{}: {error}", path.display()),
            "`derouter db check` says more; restore a backup of it (docs/ledger.md)",
        ),
    });
}

fn cookie(data_dir: &Path, checks: &mut Vec<Check>) {
    let path = data_dir.join(COOKIE_FILE);
    match std::fs::metadata(&path) {
        Ok(metadata) => private(&metadata, &path, "rpc-cookie", 0o600, checks),
        Err(_) => checks.push(Check::skip("rpc-cookie", "a start makes it")),
    }
}

/// A socket that nobody listens to is left by a crash. A start replaces it, but commands try it first.
fn socket(data_dir: &Path, running: bool, checks: &mut Vec<Check>) {
    const ID: &str = "rpc-socket";
    let path = data_dir.join(SOCKET_FILE);
    #[cfg(unix)]
    if path.exists() {
        let answers = std::os::unix::net::UnixStream::connect(&path).is_ok();
        checks.push(match answers {
            true => Check::ok(ID, path.display().to_string()),
            false if running => Check::fail(
                ID,
                format!("a node runs, but nobody answers at {}", path.display()),
                "start it anew: derouter restart",
            ),
            false => Check::warn(
                ID,
                format!(
                    "nobody listens at {}: an earlier node was ended hard",
                    path.display()
                ),
                "remove it; the next start makes it anew",
            )
            .fix(Fix::Remove(path)),
        });
        return;
    }
    let _ = (path, running);
    checks.push(Check::skip(ID, "a start makes it"));
}

fn endpoint_keys(data_dir: &Path, checks: &mut Vec<Check>) {
    const ID: &str = "endpoint-keys";
    checks.push(match KeyStore::new(data_dir).list() {
        Ok(None) => Check::ok(ID, "none: all programs of this machine are served"),
        Ok(Some(keys)) if keys.is_empty() => Check::fail(
            ID,
            "the last key was revoked: the OpenAI endpoint serves nobody",
            format!(
                "`derouter token create NAME` makes one; or remove {} to serve all programs of this machine",
                KeyStore::new(data_dir).path().display()
            ),
        ),
        Ok(Some(keys)) => {
            let ended = |key: &&derouter_openai::consumer::KeyRecord| {
                key.rules.expires.is_some_and(|at| at <= text::now())
            };
            let number = keys.iter().filter(ended).count();
            match number {
                0 => Check::ok(ID, format!("{} of them", keys.len())),
                number => Check::warn(
                    ID,
                    format!("{number} of {} have ended: programs that send them get 401", keys.len()),
                    "`derouter token set NAME --expires 30d` renews one, `derouter token revoke NAME` removes it",
                ),
            }
        }
        Err(error) => Check::fail(
            ID,
            error.to_string(),
            "restore the file, or move it away and make new keys: derouter token create NAME",
        ),
    });
}

/// Those by which bills are checked.
fn tokenizers(config: &RunConfig, checks: &mut Vec<Check>) {
    const ID: &str = "tokenizers";
    let named = config
        .openai
        .consumer
        .iter()
        .flat_map(|it| it.tokenizers.values());
    let files: BTreeSet<&PathBuf> = named.collect();
    checks.extend(files.into_iter().map(|path| match check_tokenizer(path) {
        Ok(()) => Check::ok(ID, path.display().to_string()),
        Err(error) => Check::fail(
            ID,
            error.to_string(),
            "name the `tokenizer.json` of the model's repository, or take it out of `tokenizers`",
        ),
    }));
}

fn blocked_providers(data_dir: &Path, checks: &mut Vec<Check>) {
    const ID: &str = "blocked-providers";
    checks.push(match check_standings(data_dir) {
        Ok(number) => Check::ok(ID, format!("{number} pinned or blocked")),
        Err(error) => Check::fail(
            ID,
            error,
            "mend or remove the file. Nothing is bought while it can't be read at all",
        ),
    });
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn a_disk_that_is_nearly_full_is_told_before_it_is_full() {
        assert_eq!(free_verdict(50 * 1000 * 1000).status, Status::Fail);
        assert_eq!(free_verdict(500 * 1000 * 1000).status, Status::Warn);
        assert_eq!(free_verdict(5000 * 1000 * 1000).status, Status::Ok);
    }
}
