//! How the node's owner is told from others once there are keys: by a token in a file that only the
//! owner can read. It does what the node's cookie file does for the RPC, and in the same way: another
//! one at each start, removed at the end.
//!
//! With it, the command line sees all that was spent, and asks without a key. The limits of the
//! configuration hold all the same.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rand::RngCore;
use sha2::{Digest, Sha256};

use crate::files::replace;

/// The file in the data directory.
pub const OPERATOR_FILE: &str = "openai.cookie";

/// What a token begins with.
const PREFIX: &str = "dro-";

/// Bytes of the file that are read: a token and a newline.
const FILE_BYTES: usize = 256;

/// The token of a gateway that runs.
#[derive(Debug)]
pub(crate) struct Operator {
    path: PathBuf,
    sha256: [u8; 32],
}

impl Operator {
    /// Makes a token, and the file that holds it (mode 0600).
    pub(crate) fn create(data_dir: &Path) -> io::Result<Self> {
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        let token = format!("{PREFIX}{}", hex::encode(secret));
        let path = data_dir.join(OPERATOR_FILE);
        replace(&path, format!("{token}\n").as_bytes())?;
        let sha256 = Sha256::digest(token.as_bytes()).into();
        Ok(Self { path, sha256 })
    }

    /// Whether this is the token. Hashes are compared: how long that takes says nothing of it.
    pub(crate) fn is(&self, presented: Option<&str>) -> bool {
        presented
            .filter(|text| text.starts_with(PREFIX) && text.len() < FILE_BYTES)
            .is_some_and(|text| <[u8; 32]>::from(Sha256::digest(text.as_bytes())) == self.sha256)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // Of a later gateway it would be another one: a lock keeps two from running at once.
        let _ = fs::remove_file(&self.path);
    }
}

/// The token of the gateway that runs with a data directory, if one does.
///
/// # Errors
/// When the file can't be read, or others may read it.
pub fn operator_token(data_dir: &Path) -> io::Result<Option<String>> {
    let path = data_dir.join(OPERATOR_FILE);
    let metadata = match fs::symlink_metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    #[cfg(unix)]
    let private = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o077 == 0;
    #[cfg(not(unix))]
    let private = true;
    let plain = metadata.is_file() && metadata.len() < u64::try_from(FILE_BYTES).unwrap_or(0);
    if !private || !plain {
        let words = "it is no plain file of this user alone";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
    }
    let text = fs::read_to_string(&path)?;
    Ok(Some(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_in_a_file_of_the_owner_alone_until_the_gateway_ends() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(operator_token(directory.path()).unwrap(), None);
        let operator = Operator::create(directory.path()).unwrap();
        let token = operator_token(directory.path()).unwrap().unwrap();
        assert!(operator.is(Some(&token)));
        assert!(!operator.is(None) && !operator.is(Some("dro-")) && !operator.is(Some("")));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let path = directory.path().join(OPERATOR_FILE);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            assert!(operator_token(directory.path()).is_err());
        }
        drop(operator);
        assert_eq!(operator_token(directory.path()).unwrap(), None);
    }
}
