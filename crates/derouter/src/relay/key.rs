//! The relay's key: of the environment, or of a file. Others have its peer id in their
//! configuration, so it must stay the same.

use std::path::Path;

use derouter_net::Keypair;
use derouter_node::identity;

use crate::failure::Failure;

/// The secret as 64 hex digits, for machines without a disk that stays.
const VARIABLE: &str = "DEROUTER_RELAY_KEY";

/// Bytes of an Ed25519 secret.
const SECRET_BYTES: usize = 32;

/// Loads the key; one that is in a file is made when it is absent.
pub(super) fn load(file: Option<&Path>) -> Result<Keypair, Failure> {
    match std::env::var(VARIABLE) {
        Ok(text) if !text.trim().is_empty() => of_hex(text.trim()),
        Ok(_) | Err(std::env::VarError::NotPresent) => of_file(file),
        Err(std::env::VarError::NotUnicode(_)) => Err(wrong()),
    }
}

/// Says nothing of the text, which may be most of a secret.
fn wrong() -> Failure {
    Failure::environment(format_args!(
        "{VARIABLE} is not a key: it must be 64 hex digits (openssl rand -hex 32). Unset it to use \
         a key file"
    ))
}

fn of_hex(text: &str) -> Result<Keypair, Failure> {
    let mut secret = [0; SECRET_BYTES];
    hex::decode_to_slice(text, &mut secret).map_err(|_| wrong())?;
    // Wipes the bytes that it is given.
    Keypair::ed25519_from_bytes(&mut secret).map_err(|_| wrong())
}

fn of_file(file: Option<&Path>) -> Result<Keypair, Failure> {
    let Some(file) = file else {
        return Err(Failure::environment(format_args!(
            "this system names no home directory for the key: give --key-file, or {VARIABLE}"
        )));
    };
    let loaded = identity::load_or_create(file);
    // The message names the key of a node's file; a relay's is another.
    loaded.map_err(|error| {
        let text = error.to_string();
        let text = text.replace("`data_dir` or `keypair_path`", "`key_file`");
        Failure::environment(text.replace("keypair_path", "key_file"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_hex_is_always_the_same_key() {
        let text = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let (one, other) = (of_hex(text).unwrap(), of_hex(&text.to_uppercase()).unwrap());
        assert_eq!(one.public(), other.public());
        // The public key of RFC 8032, test 1.
        let public = one.public().try_into_ed25519().unwrap().to_bytes();
        assert!(hex::encode(public).starts_with("d75a980182b10ab7"));
    }

    #[test]
    fn a_wrong_secret_is_refused_and_not_repeated() {
        for text in [
            "abc",
            "zz61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        ] {
            let failure = of_hex(text).unwrap_err();
            assert!(!format!("{failure:?}").contains(text));
        }
    }

    #[test]
    fn a_key_file_is_made_once_and_then_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/relay.bin");
        let made = of_file(Some(&path)).unwrap();
        assert_eq!(of_file(Some(&path)).unwrap().public(), made.public());
        std::fs::write(&path, "no key").unwrap();
        let failure = of_file(Some(&path)).unwrap_err();
        let message = format!("{failure:?}");
        assert!(
            message.contains("key_file") && !message.contains("keypair_path"),
            "{message}"
        );
    }
}
