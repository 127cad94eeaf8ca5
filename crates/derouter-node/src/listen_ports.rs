//! The file that keeps the listen ports that were chosen, beside the database: one address a line.

use std::io::Write;
use std::path::{Path, PathBuf};

use derouter_net::{Multiaddr, Net};
use tokio::task::spawn_blocking;

/// A file of more was not written by a node.
const FILE_BYTES: u64 = 16 * 1024;
/// Its name.
const FILE_NAME: &str = "listen_addresses";

/// Where it is.
pub(crate) fn path(database: &Path) -> PathBuf {
    database.with_file_name(FILE_NAME)
}

/// Where an earlier run of the node with this database listened, for ports that are chosen once.
pub async fn kept_listen(database: &Path) -> Vec<Multiaddr> {
    load(path(database)).await
}

/// What an earlier run kept. A file that can't be read is as good as none.
pub(crate) async fn load(path: PathBuf) -> Vec<Multiaddr> {
    let read = spawn_blocking(move || read(&path)).await;
    read.unwrap_or_default()
}

fn read(path: &Path) -> Vec<Multiaddr> {
    let small = std::fs::metadata(path).is_ok_and(|file| file.len() <= FILE_BYTES);
    let text = std::fs::read_to_string(path).ok().filter(|_| small);
    let text = text.unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Keeps what the network chose. A node that can't write it runs, and says so.
pub(crate) async fn save(path: PathBuf, net: &Net) {
    let addresses = net.chosen_listen().to_vec();
    let written = spawn_blocking(move || {
        if read(&path) == addresses {
            return Ok(());
        }
        write(&path, &addresses).map_err(|error| format!("{}: {error}", path.display()))
    });
    if let Ok(Err(error)) = written.await {
        tracing::warn!(%error, "can't keep the listen ports; the next start may choose others");
    }
}

/// Writes beside the file and renames, so that a crash leaves the old one or the new one.
fn write(path: &Path, addresses: &[Multiaddr]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    for address in addresses {
        writeln!(file, "{address}")?;
    }
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_rubbish_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(&directory.path().join("derouter.db"));
        assert!(read(&path).is_empty());
        let addresses: Vec<Multiaddr> = vec!["/ip4/0.0.0.0/tcp/4001".parse().unwrap()];
        write(&path, &addresses).unwrap();
        assert_eq!(read(&path), addresses);
        std::fs::write(&path, "what\n/ip4/0.0.0.0/tcp/4001\n").unwrap();
        assert_eq!(read(&path), addresses);
        std::fs::write(&path, vec![b'\n'; 20_000]).unwrap();
        assert!(read(&path).is_empty());
    }
}
