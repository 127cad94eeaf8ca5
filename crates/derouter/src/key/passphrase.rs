//! The passphrase of a backup: from a file, the environment, or a terminal without echo.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use crate::config::place::variable;
use crate::failure::Failure;
use crate::output;

/// The variable for scripts.
const VARIABLE: &str = "DEROUTER_KEY_PASSPHRASE";

/// Characters at least: what is shorter is guessed.
const LEAST: usize = 8;

/// Bytes at most.
const MOST: u64 = 4096;

/// A passphrase that is forgotten with care.
pub(super) type Passphrase = Zeroizing<String>;

/// One for a new backup: on a terminal it is asked for twice.
pub(super) fn new(file: Option<&Path>) -> Result<Passphrase, Failure> {
    let passphrase = match given(file)? {
        Some(passphrase) => passphrase,
        None => {
            let first = ask("Passphrase for the backup: ")?;
            if *ask("Again: ")? != *first {
                return Err(Failure::usage("the two are not the same"));
            }
            first
        }
    };
    if passphrase.chars().count() < LEAST {
        return Err(Failure::usage(format_args!(
            "the passphrase has to have {LEAST} characters at least: whoever gets hold of the file can try many"
        )));
    }
    Ok(passphrase)
}

/// The one of a backup.
pub(super) fn known(file: Option<&Path>) -> Result<Passphrase, Failure> {
    match given(file)? {
        Some(passphrase) => Ok(passphrase),
        None => ask("Passphrase of the backup: "),
    }
}

fn given(file: Option<&Path>) -> Result<Option<Passphrase>, Failure> {
    if let Some(path) = file {
        return read(path).map(Some);
    }
    let Some(value) = variable(VARIABLE) else {
        return Ok(None);
    };
    let text = value
        .into_string()
        .map_err(|_| Failure::usage(format_args!("{VARIABLE} is not text")))?;
    Ok(Some(Zeroizing::new(text)))
}

fn read(path: &Path) -> Result<Passphrase, Failure> {
    let mut text = Zeroizing::new(String::new());
    File::open(path)
        .and_then(|file| file.take(MOST).read_to_string(&mut text))
        .map_err(|error| {
            Failure::environment(format_args!("can't read {}: {error}", path.display()))
        })?;
    let line = text.lines().next().unwrap_or_default();
    Ok(Zeroizing::new(line.to_owned()))
}

fn ask(question: &str) -> Result<Passphrase, Failure> {
    if !output::is_interactive() {
        return Err(Failure::usage(format_args!(
            "nobody can be asked for the passphrase here: give `--passphrase-file FILE` or {VARIABLE}"
        )));
    }
    rpassword::prompt_password(question)
        .map(Zeroizing::new)
        .map_err(|error| Failure::failed(format_args!("can't read the passphrase: {error}")))
}
