//! The key file: the node's identity, an Ed25519 keypair in libp2p's protobuf encoding. A file of
//! version 0.1.0 is used as it is. What can't be read is never replaced: the key is what others
//! know this node by, and what signed jobs are owed to.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use derouter_net::Keypair;
use tempfile::NamedTempFile;

/// Bytes of a key file at most. An Ed25519 key is 68; what is larger is some other file.
const KEY_FILE_BYTES: u64 = 4096;

/// Why there is no key. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file is there, but the system does not let us read it. It was not touched.
    #[error(
        "can't read the key file {}: {source}. Make it readable for the user that runs this node \
         (chown and chmod 600), or name another file with `keypair_path`. It was not changed",
        .path.display()
    )]
    Read {
        /// The key file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is there, but it holds no such key. It was not touched.
    #[error(
        "{} is not a key file ({reason}). Restore it from a backup, name another file with \
         `keypair_path`, or move it away to begin with a new identity. It was not changed",
        .path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is none, and none can be made.
    #[error(
        "can't make the key file {}: {source}. Check the directory's permissions and free space, \
         or choose another place with `data_dir` or `keypair_path`",
        .path.display()
    )]
    Create {
        /// The key file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Reads the key file, or makes a new key when there is none.
///
/// A new file gets mode 0600 and appears whole or not at all; a missing directory is made with mode
/// 0700. When another process makes the file at the same time, its key is used.
pub fn load_or_create(path: &Path) -> Result<Keypair, KeyFileError> {
    if let Some(keypair) = load(path)? {
        return Ok(keypair);
    }
    let keypair = Keypair::generate_ed25519();
    match create(path, &keypair) {
        Ok(()) => {
            let peer = keypair.public().to_peer_id();
            tracing::info!(path = %path.display(), %peer, "made a new key");
            Ok(keypair)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            load(path)?.ok_or_else(|| {
                let path = path.to_path_buf();
                KeyFileError::Create {
                    path,
                    source: error,
                }
            })
        }
        Err(source) => Err(KeyFileError::Create {
            path: path.to_path_buf(),
            source,
        }),
    }
}

/// The key in the file; `None` when there is no file.
pub fn load(path: &Path) -> Result<Option<Keypair>, KeyFileError> {
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(KeyFileError::Read {
                path: path.to_path_buf(),
                source,
            });
        }
    };
    decode(&bytes)
        .map(Some)
        .map_err(|reason| KeyFileError::Invalid {
            path: path.to_path_buf(),
            reason,
        })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    warn_when_others_can_read(path, &file);
    let mut bytes = Vec::new();
    file.take(KEY_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Keypair, String> {
    if bytes.is_empty() {
        return Err("it is empty".into());
    }
    if u64::try_from(bytes.len()).is_ok_and(|len| len > KEY_FILE_BYTES) {
        return Err("it is too large for a key".into());
    }
    Keypair::from_protobuf_encoding(bytes)
        .map_err(|_| "it does not hold an Ed25519 key in libp2p's encoding".into())
}

/// Makes the key file, with mode 0600, in a directory that is made when it is missing. Writes beside the
/// file and renames without replacing, so that a crash leaves no half of a key and nothing that exists
/// is overwritten: then it fails with `AlreadyExists`.
pub fn create(path: &Path, keypair: &Keypair) -> io::Result<()> {
    let bytes = keypair.to_protobuf_encoding().map_err(io::Error::other)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_directory(directory)?;
    // Made with mode 0600; removed when anything below fails.
    let mut file = NamedTempFile::with_prefix_in(".keypair-", directory)?;
    file.write_all(&bytes)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    sync_directory(directory);
    Ok(())
}

/// Makes the directory and its missing parents, for this user only. One that exists stays as it is.
fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes the new name last over a power cut. Some file systems can't; the key is in use anyway.
fn sync_directory(path: &Path) {
    if let Err(error) = File::open(path).and_then(|directory| directory.sync_all()) {
        tracing::debug!(path = %path.display(), %error, "can't sync the key file's directory");
    }
}

#[cfg(unix)]
fn warn_when_others_can_read(path: &Path, file: &File) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(metadata) = file.metadata() else {
        return;
    };
    let mode = metadata.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            path = %path.display(),
            mode = format_args!("{:04o}", mode & 0o7777),
            "other users may read the key file: run chmod 600 on it"
        );
    }
}

#[cfg(not(unix))]
fn warn_when_others_can_read(_: &Path, _: &File) {}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_key_is_private_and_stays_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/keypair.bin");
        let first = load_or_create(&path).unwrap();
        let second = load_or_create(&path).unwrap();
        assert_eq!(first.public(), second.public());
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        let names = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "no temporary file is left");
    }

    #[test]
    fn a_key_of_0_1_0_is_used_as_it_is() {
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/vectors");
        for side in ["provider", "consumer"] {
            let path = vectors.join("0.1-data").join(side).join("keypair.bin");
            let before = std::fs::read(&path).unwrap();
            let keypair = load_or_create(&path).unwrap();
            assert_eq!(keypair.to_protobuf_encoding().unwrap(), before);
            assert_eq!(std::fs::read(&path).unwrap(), before);
        }
    }

    #[test]
    fn what_is_not_a_key_is_named_and_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keypair.bin");
        for content in [&b""[..], b"not a key", &[0; 10_000]] {
            std::fs::write(&path, content).unwrap();
            let error = load_or_create(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::Invalid { .. }), "{error:?}");
            assert!(error.to_string().contains("keypair.bin"), "{error}");
            assert!(error.to_string().contains("keypair_path"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
    }

    #[test]
    fn a_file_that_cant_be_read_is_an_error_and_stays() {
        // A directory in the file's place fails to be read for root too, unlike mode 000.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keypair.bin");
        std::fs::create_dir(&path).unwrap();
        let error = load_or_create(&path).unwrap_err();
        assert!(matches!(error, KeyFileError::Read { .. }), "{error:?}");
        assert!(path.is_dir());
    }

    #[test]
    fn a_place_where_no_file_can_be_made_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let error = load_or_create(&file.join("keypair.bin")).unwrap_err();
        let path_named = error.to_string().contains("file/keypair.bin");
        assert!(path_named, "{error}");
    }

    #[test]
    fn two_that_start_at_once_get_the_same_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keypair.bin");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let start = || load_or_create(&path).unwrap().public();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }
}
