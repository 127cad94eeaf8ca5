//! The Unix socket of the RPC. Its mode and the user of whoever connects are the proof that other
//! ways in need a token for.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use derouter_sdk::tcp::SOCKET_FILE;
use tokio::net::{UnixListener, UnixStream};

use super::BindError;
use super::access::make_private;

/// The superuser, who may do everything anyway.
const ROOT: u32 = 0;

/// A listening socket, whose file is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, to know it by.
    file: (u64, u64),
    /// Whose it is: the user that runs the node.
    user: u32,
}

impl Socket {
    /// Listens in a data directory. `None` where the path is too long for a socket: modules use TCP
    /// then. What a dead node left is replaced, and a living node's socket is not.
    pub(super) fn bind(directory: &Path) -> Result<Option<Self>, BindError> {
        let path = directory.join(SOCKET_FILE);
        let failed = |source| BindError::Socket {
            path: path.clone(),
            source,
        };
        make_private(directory).map_err(failed)?;
        let listener = match UnixListener::bind(&path) {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                tracing::warn!(
                    path = %path.display(),
                    "the path is too long for a Unix socket (some 100 bytes): modules of this user \
                     connect over TCP with the cookie file. A shorter `data_dir` has a socket"
                );
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(&path)?;
                UnixListener::bind(&path).map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        // Until here only the user of whoever connects is looked at, which is enough.
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
        let metadata = fs::symlink_metadata(&path).map_err(failed)?;
        Ok(Some(Self {
            listener,
            file: (metadata.dev(), metadata.ino()),
            user: metadata.uid(),
            path,
        }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept().await?;
        Ok(stream)
    }

    /// Whether whoever connected is the user that runs the node.
    pub(super) fn admits(&self, stream: &UnixStream) -> bool {
        stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == self.user || peer.uid() == ROOT)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let is_ours = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket of a node that is dead. What is no socket, and what answers, stays.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Socket {
        path: path.to_path_buf(),
        source,
    };
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    if !metadata.file_type().is_socket() {
        let other = io::Error::new(io::ErrorKind::AlreadyExists, "something else has this name");
        return Err(failed(other));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Ok(_) => Err(BindError::Living(path.to_path_buf())),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_nodes_socket_is_replaced_and_a_living_ones_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(SOCKET_FILE);
        // Dropped without removing the file: as after a kill.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(directory.path()).unwrap().unwrap();
        let mode = fs::symlink_metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Socket::bind(directory.path());
        assert!(matches!(second, Err(BindError::Living(_))));
        assert!(path.exists());
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(SOCKET_FILE);
        fs::write(&path, "precious").unwrap();
        assert!(Socket::bind(directory.path()).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_means_no_socket_and_no_failure() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("x".repeat(120));
        assert!(matches!(Socket::bind(&long), Ok(None)));
    }
}
