//! The format of a backup: JSON, in which the key is sealed with XChaCha20-Poly1305 under what Argon2id
//! (RFC 9106) makes of the passphrase. The peer id, which is no secret, is bound to it. docs/cli.md
//! describes it.

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use derouter_net::Keypair;
use rand::RngCore;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The format's name.
const SCHEMA: &str = "derouter.key-backup/1";

/// What making a key of a passphrase costs: the second recommended option of RFC 9106, some tenths of a
/// second on a small machine, and as much for each guess.
const MEMORY_KIB: u32 = 64 * 1024;
const ITERATIONS: u32 = 3;
const LANES: u32 = 4;

/// What a file may ask for: more would be an attack on whoever opens it.
const MOST_MEMORY_KIB: u32 = 1024 * 1024;
const MOST_ITERATIONS: u32 = 16;
const MOST_LANES: u32 = 16;

const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;

/// A key under a passphrase.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backup {
    schema: String,
    /// Whose key it is.
    pub(super) peer_id: String,
    kdf: Kdf,
    cipher: String,
    nonce: String,
    ciphertext: String,
}

/// How the passphrase becomes a key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kdf {
    name: String,
    memory_kib: u32,
    iterations: u32,
    lanes: u32,
    salt: String,
}

/// Why a backup can't be made or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum BackupError {
    /// It is of another format.
    #[error("{0}. This version reads {SCHEMA}")]
    Format(String),
    /// It can't be opened with this passphrase.
    #[error("the passphrase is wrong, or the file was changed")]
    WrongPassphrase,
    /// It holds something else.
    #[error("it does not hold the key that it names")]
    NotThatKey,
    /// The system refuses.
    #[error("can't seal the key: {0}")]
    Failed(String),
}

impl Backup {
    /// Seals a key.
    pub(super) fn seal(key: &Keypair, passphrase: &str) -> Result<Self, BackupError> {
        let failed = |error: &dyn std::fmt::Display| BackupError::Failed(error.to_string());
        let secret = key.to_protobuf_encoding().map_err(|error| failed(&error))?;
        let secret = Zeroizing::new(secret);
        let (mut salt, mut nonce) = ([0; SALT_BYTES], [0; NONCE_BYTES]);
        rand::rng().fill_bytes(&mut salt);
        rand::rng().fill_bytes(&mut nonce);
        let mut backup = Self {
            schema: SCHEMA.to_owned(),
            peer_id: key.public().to_peer_id().to_string(),
            kdf: Kdf {
                name: "argon2id".to_owned(),
                memory_kib: MEMORY_KIB,
                iterations: ITERATIONS,
                lanes: LANES,
                salt: hex::encode(salt),
            },
            cipher: "xchacha20poly1305".to_owned(),
            nonce: hex::encode(nonce),
            ciphertext: String::new(),
        };
        let cipher = backup.kdf.cipher(passphrase)?;
        let payload = Payload {
            msg: &secret,
            aad: &backup.bound(),
        };
        let sealed = cipher.encrypt(XNonce::from_slice(&nonce), payload);
        backup.ciphertext = hex::encode(sealed.map_err(|error| failed(&error))?);
        Ok(backup)
    }

    /// Opens it.
    pub(super) fn open(&self, passphrase: &str) -> Result<Keypair, BackupError> {
        let format = |what: &str| BackupError::Format(what.to_owned());
        if self.schema != SCHEMA {
            return Err(format("it is a backup of another version"));
        }
        if self.cipher != "xchacha20poly1305" {
            return Err(format("it is sealed in another way"));
        }
        let nonce: [u8; NONCE_BYTES] =
            bytes(&self.nonce).ok_or_else(|| format("its nonce is wrong"))?;
        let sealed =
            hex::decode(&self.ciphertext).map_err(|_| format("its ciphertext is no hex"))?;
        let cipher = self.kdf.cipher(passphrase)?;
        let payload = Payload {
            msg: &sealed,
            aad: &self.bound(),
        };
        let opened = cipher.decrypt(XNonce::from_slice(&nonce), payload);
        let secret = Zeroizing::new(opened.map_err(|_| BackupError::WrongPassphrase)?);
        let key = Keypair::from_protobuf_encoding(&secret).map_err(|_| BackupError::NotThatKey)?;
        match key.public().to_peer_id().to_string() == self.peer_id {
            true => Ok(key),
            false => Err(BackupError::NotThatKey),
        }
    }

    /// What can't be changed without the passphrase besides the key.
    fn bound(&self) -> Vec<u8> {
        format!("{SCHEMA}\n{}", self.peer_id).into_bytes()
    }
}

impl Kdf {
    fn cipher(&self, passphrase: &str) -> Result<XChaCha20Poly1305, BackupError> {
        let format = |what: &str| BackupError::Format(what.to_owned());
        if self.name != "argon2id" {
            return Err(format("its passphrase is used in another way"));
        }
        let sane = self.memory_kib <= MOST_MEMORY_KIB
            && self.iterations <= MOST_ITERATIONS
            && self.lanes <= MOST_LANES;
        if !sane {
            return Err(format(
                "it asks for more work than any backup of this program",
            ));
        }
        let params = Params::new(
            self.memory_kib,
            self.iterations,
            self.lanes,
            Some(KEY_BYTES),
        );
        let params = params.map_err(|_| format("its parameters make no sense"))?;
        let salt: [u8; SALT_BYTES] =
            bytes(&self.salt).ok_or_else(|| format("its salt is wrong"))?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.as_bytes(), &salt, key.as_mut())
            .map_err(|error| BackupError::Failed(error.to_string()))?;
        Ok(XChaCha20Poly1305::new(key.as_ref().into()))
    }
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    hex::decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSPHRASE: &str = "correct horse";

    fn sealed() -> (Keypair, Backup) {
        let key = Keypair::generate_ed25519();
        let backup = Backup::seal(&key, PASSPHRASE).unwrap();
        (key, backup)
    }

    #[test]
    fn a_key_comes_back_with_its_passphrase_and_with_no_other() {
        let (key, backup) = sealed();
        let text = serde_json::to_string(&backup).unwrap();
        let secret = key.clone().try_into_ed25519().unwrap().secret();
        let secret = hex::encode(secret);
        assert!(!text.contains(&secret), "the key is not in the file");
        let read: Backup = serde_json::from_str(&text).unwrap();
        let opened = read.open(PASSPHRASE).unwrap();
        assert_eq!(opened.public(), key.public());
        assert!(matches!(
            read.open("correct hors"),
            Err(BackupError::WrongPassphrase)
        ));
    }

    #[test]
    fn what_was_changed_or_asks_for_too_much_is_refused() {
        let (_, mut backup) = sealed();
        backup.peer_id = Keypair::generate_ed25519()
            .public()
            .to_peer_id()
            .to_string();
        assert!(matches!(
            backup.open(PASSPHRASE),
            Err(BackupError::WrongPassphrase)
        ));
        let (_, mut backup) = sealed();
        backup.kdf.memory_kib = u32::MAX;
        assert!(matches!(
            backup.open(PASSPHRASE),
            Err(BackupError::Format(_))
        ));
        let (_, mut backup) = sealed();
        backup.kdf.memory_kib = 1;
        assert!(matches!(
            backup.open(PASSPHRASE),
            Err(BackupError::Format(_))
        ));
        let (_, mut backup) = sealed();
        let last = backup.ciphertext.pop().unwrap();
        backup.ciphertext.push(if last == '0' { '1' } else { '0' });
        assert!(matches!(
            backup.open(PASSPHRASE),
            Err(BackupError::WrongPassphrase)
        ));
        let (_, mut backup) = sealed();
        backup.nonce.pop();
        assert!(matches!(
            backup.open(PASSPHRASE),
            Err(BackupError::Format(_))
        ));
    }

    #[test]
    fn a_backup_of_this_version_is_read_by_all_later_ones() {
        let text = include_str!("../../../../testdata/vectors/key-backup-1.json");
        let backup: Backup = serde_json::from_str(text).unwrap();
        let key = backup.open("a passphrase for a test").unwrap();
        assert_eq!(key.public().to_peer_id().to_string(), backup.peer_id);
    }
}
