//! `derouter key`: the node's identity. Others know a node by its key, and signed jobs are owed to it, so
//! it is never overwritten and never shown.

mod backup;
mod passphrase;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use derouter_net::Keypair;
use derouter_node::identity;
use serde_json::json;

use crate::cli::daemon::PlaceArgs;
use crate::cli::key::{BackupArgs, KeyCommand, RestoreArgs, ShowArgs};
use crate::config::node::RunConfig;
use crate::daemon::state::{Running, running};
use crate::failure::{Failure, Kind};
use crate::output::{self, Output};
use backup::{Backup, BackupError};

/// Bytes of a backup at most; one is under 1 KiB.
const BACKUP_BYTES: u64 = 64 * 1024;

/// Does it.
pub(crate) fn key(command: &KeyCommand, output: Output) -> Result<(), Failure> {
    match command {
        KeyCommand::Show(args) => show(args, output),
        KeyCommand::Backup(args) => write_backup(args, output),
        KeyCommand::Restore(args) => restore(args, output),
    }
}

/// The key file, and the data directory of the node that uses it.
fn place(args: &PlaceArgs) -> Result<(PathBuf, PathBuf), Failure> {
    let config = RunConfig::load_at(args.config.as_deref(), args.data_dir.as_deref())?;
    Ok((config.node.keypair_path, config.data_dir))
}

fn load(path: &Path) -> Result<Keypair, Failure> {
    let key = identity::load(path).map_err(Failure::environment)?;
    key.ok_or_else(|| {
        Failure::environment(format_args!(
            "there is no key at {}: a node makes one at its first start. Say which node is meant with `-c \
             FILE` or `--data-dir DIR`",
            path.display()
        ))
    })
}

fn show(args: &ShowArgs, output: Output) -> Result<(), Failure> {
    let (path, _) = place(&args.place)?;
    let key = load(&path)?;
    let peer = key.public().to_peer_id().to_string();
    let private = is_private(&path);
    let told = json!({"peer_id": peer, "path": path, "kind": "ed25519", "private": private});
    output.show("derouter.key/1", &told, |_| {
        format!("peer id  {peer}\nkey      {}", path.display())
    });
    if !private {
        output.note("other users may read the key: `derouter doctor --fix` mends that");
    }
    Ok(())
}

/// Whether no other user may read it.
fn is_private(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map(|file| file.permissions().mode());
        mode.is_ok_and(|mode| mode & 0o077 == 0)
    }
    #[cfg(not(unix))]
    path.exists()
}

fn write_backup(args: &BackupArgs, output: Output) -> Result<(), Failure> {
    let (path, _) = place(&args.place)?;
    let key = load(&path)?;
    let to_stdout = args.to.as_os_str() == "-";
    if !to_stdout && args.to.exists() {
        return Err(is_there(&args.to));
    }
    let passphrase = passphrase::new(args.passphrase.passphrase_file.as_deref())?;
    let backup = Backup::seal(&key, &passphrase).map_err(Failure::failed)?;
    let mut text = serde_json::to_string_pretty(&backup).map_err(Failure::failed)?;
    text.push('\n');
    if to_stdout {
        output::text(&text);
        return Ok(());
    }
    write_new(&args.to, text.as_bytes())?;
    let told = json!({"file": args.to, "peer_id": backup.peer_id});
    output.show("derouter.key.backup/1", &told, |_| {
        format!(
            "wrote the key of {} to {}",
            backup.peer_id,
            args.to.display()
        )
    });
    output.note("Without the passphrase it is worth nothing: keep both, in different places.");
    Ok(())
}

fn is_there(path: &Path) -> Failure {
    Failure::environment(format_args!(
        "{} is there already, and was not changed: name another file",
        path.display()
    ))
}

/// Writes a file for this user alone, whole or not at all, and never over another one.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => is_there(path),
        _ => Failure::environment(format_args!("can't write {}: {error}", path.display())),
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::with_prefix_in(".key-", directory).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist_noclobber(path)
        .map_err(|error| failed(error.error))?;
    Ok(())
}

fn restore(args: &RestoreArgs, output: Output) -> Result<(), Failure> {
    let (path, data_dir) = place(&args.place)?;
    if matches!(running(&data_dir), Ok(Running::Yes(_))) {
        return Err(Failure::environment(
            "a node runs with this key: stop it first (derouter down)",
        ));
    }
    let backup = read(&args.from)?;
    let passphrase = passphrase::known(args.passphrase.passphrase_file.as_deref())?;
    let key = backup.open(&passphrase).map_err(|error| match error {
        BackupError::WrongPassphrase => Failure::of(Kind::NotAuthorised, error),
        error => Failure::environment(format_args!("{}: {error}", args.from.display())),
    })?;
    let kept = make_room(&path, &key, args.force)?;
    let told = json!({"peer_id": backup.peer_id, "path": path, "kept": kept});
    let Some(kept) = kept else {
        if !path.exists() {
            identity::create(&path, &key).map_err(|error| {
                Failure::environment(format_args!("can't write {}: {error}", path.display()))
            })?;
        }
        output.show("derouter.key.restore/1", &told, |_| {
            format!("{} holds the key of {}", path.display(), backup.peer_id)
        });
        return Ok(());
    };
    identity::create(&path, &key).map_err(|error| {
        Failure::environment(format_args!("can't write {}: {error}", path.display()))
    })?;
    output.show("derouter.key.restore/1", &told, |_| {
        format!(
            "{} holds the key of {}; the one before is kept as {}",
            path.display(),
            backup.peer_id,
            kept.display()
        )
    });
    Ok(())
}

fn read(path: &Path) -> Result<Backup, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::environment(format_args!("can't read {}: {error}", path.display()))
    };
    let file = File::open(path).map_err(|error| failed(&error))?;
    let mut text = String::new();
    file.take(BACKUP_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| failed(&error))?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::environment(format_args!(
            "{} is no backup of a key: {error}. `derouter key backup` writes one",
            path.display()
        ))
    })
}

/// Moves another key away, if that is wanted, and says where to.
fn make_room(path: &Path, key: &Keypair, force: bool) -> Result<Option<PathBuf>, Failure> {
    let there = match identity::load(path) {
        Ok(None) => return Ok(None),
        Ok(Some(there)) if there.public() == key.public() => return Ok(None),
        Ok(Some(there)) => there.public().to_peer_id().to_string(),
        Err(error) if force => error.to_string(),
        Err(error) => return Err(Failure::environment(error)),
    };
    if !force {
        return Err(Failure::environment(format_args!(
            "{} holds another key ({there}): `--force` puts this one in its place, and keeps that one beside \
             it. Jobs that are owed to that node stay with its key",
            path.display()
        )));
    }
    let mut number = 0_u32;
    let kept = loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".old{number}"));
        let kept = PathBuf::from(name);
        if !kept.exists() {
            break kept;
        }
        number = number.saturating_add(1);
    };
    std::fs::rename(path, &kept).map_err(|error| {
        Failure::environment(format_args!("can't move {} away: {error}", path.display()))
    })?;
    Ok(Some(kept))
}
