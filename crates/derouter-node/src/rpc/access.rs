//! Who may use the RPC: a random token for TCP, in a file that only this user can read, and a Unix
//! socket that only this user can open.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use derouter_sdk::tcp::COOKIE_FILE;
use tempfile::NamedTempFile;

/// Bytes of a token: nobody guesses 256 bits.
const TOKEN_BYTES: usize = 32;

/// What a module of 0.2 proves over TCP that it may connect. Another one after each start.
pub(super) struct Token(String);

impl Token {
    pub(super) fn random() -> Self {
        let bytes: [u8; TOKEN_BYTES] = rand::random();
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Compares in a time that does not tell how much is right.
    pub(super) fn is(&self, given: &str) -> bool {
        let (ours, given) = (self.0.as_bytes(), given.as_bytes());
        let differs = |differs: u8, (one, other): (&u8, &u8)| differs | (one ^ other);
        let differs = ours.iter().zip(given).fold(0, differs);
        ours.len() == given.len() && std::hint::black_box(differs) == 0
    }
}

/// The file that holds the token, for as long as this lives.
pub(super) struct Cookie {
    path: PathBuf,
    text: String,
}

impl Cookie {
    /// Writes it with mode 0600. The file appears whole, in place of whatever had its name: a link
    /// is replaced and not followed.
    pub(super) fn write(directory: &Path, token: &Token) -> Result<Self, (PathBuf, io::Error)> {
        let path = directory.join(COOKIE_FILE);
        let text = format!("{}\n", token.as_str());
        let write = || {
            make_private(directory)?;
            // Made with mode 0600, and a name that nobody can guess.
            let mut file = NamedTempFile::new_in(directory)?;
            file.write_all(text.as_bytes())?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        match write() {
            Ok(()) => Ok(Self { path, text }),
            Err(error) => Err((path, error)),
        }
    }
}

impl Drop for Cookie {
    fn drop(&mut self) {
        // Another node may have put its own here meanwhile.
        if fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes a directory that only this user can enter, if there is none.
pub(super) fn make_private(directory: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_right() {
        let token = Token::random();
        let right = token.as_str().to_owned();
        assert_eq!(right.len(), 2 * TOKEN_BYTES);
        assert!(token.is(&right));
        let short: String = right.chars().skip(1).collect();
        for wrong in ["", &short, &format!("{right}0"), Token::random().as_str()] {
            assert!(!token.is(wrong));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_cookie_takes_the_place_of_a_link_and_is_private() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("precious");
        fs::write(&target, "precious").unwrap();
        let path = directory.path().join(COOKIE_FILE);
        symlink(&target, &path).unwrap();
        let token = Token::random();
        let cookie = Cookie::write(directory.path(), &token).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.is_file());
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), token.as_str());
        drop(cookie);
        assert!(!path.exists());
    }

    #[test]
    fn the_cookie_of_a_later_node_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let first = Cookie::write(directory.path(), &Token::random()).unwrap();
        let second = Cookie::write(directory.path(), &Token::random()).unwrap();
        drop(first);
        assert!(second.path.exists());
    }
}
