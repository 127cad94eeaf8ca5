//! Where the configuration is, and what the environment says in its place. A flag goes before a
//! `DEROUTER_*` variable, that before the file, and that before the default.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::ConfigError;
use super::error::literal_path;

/// The file that is used when neither `-c` nor `DEROUTER_CONFIG` names one.
const FILE_NAME: &str = "config.json";

/// The configuration file.
pub(crate) const CONFIG: &str = "DEROUTER_CONFIG";

/// The data directory, in place of the file's `data_dir`.
pub(crate) const DATA_DIR: &str = "DEROUTER_DATA_DIR";

/// Where the node's RPC is, for commands that ask it.
pub(crate) const RPC: &str = "DEROUTER_RPC";

/// The node's cookie file, for commands that ask its RPC.
pub(crate) const RPC_COOKIE: &str = "DEROUTER_RPC_COOKIE";

/// Where the OpenAI endpoint is, for commands that ask it.
pub(crate) const URL: &str = "DEROUTER_URL";

/// From where a value comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// The command line.
    Flag,
    /// A `DEROUTER_*` variable.
    Environment,
    /// The configuration file.
    File,
    /// Nobody said anything.
    Default,
}

impl Origin {
    /// In one word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Default => "default",
        }
    }
}

/// A variable of the environment. An empty one is as good as none.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The usual configuration file: `config.json` in the platform's directory for `derouter`
/// (`$XDG_CONFIG_HOME/derouter`). `None` without a home directory.
pub(crate) fn usual_file() -> Option<PathBuf> {
    let project = directories::ProjectDirs::from("org", "", "derouter")?;
    Some(project.config_dir().join(FILE_NAME))
}

/// The configuration file to read, and who named it. `None`: there is none, and defaults hold.
pub(crate) fn file(flag: Option<&Path>) -> Option<(PathBuf, Origin)> {
    choose(flag, variable(CONFIG), usual_file(), Path::exists)
}

fn choose(
    flag: Option<&Path>,
    variable: Option<OsString>,
    usual: Option<PathBuf>,
    is_there: impl Fn(&Path) -> bool,
) -> Option<(PathBuf, Origin)> {
    if let Some(path) = flag {
        return Some((path.to_owned(), Origin::Flag));
    }
    if let Some(path) = variable {
        return Some((path.into(), Origin::Environment));
    }
    let usual = usual.filter(|path| is_there(path))?;
    Some((usual, Origin::Default))
}

/// The data directory that the environment names.
pub(crate) fn data_dir() -> Result<Option<PathBuf>, ConfigError> {
    let Some(named) = variable(DATA_DIR) else {
        return Ok(None);
    };
    let path = literal_path(PathBuf::from(named));
    path.map(Some)
        .map_err(|problem| ConfigError::at(Path::new("the environment"), DATA_DIR, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_goes_before_the_environment_and_that_before_the_usual_file() {
        let (flag, usual) = (Path::new("flag"), || Some(PathBuf::from("usual")));
        let environment = || Some(OsString::from("environment"));
        let chosen = |flag, variable, there: bool| choose(flag, variable, usual(), |_| there);
        assert_eq!(
            chosen(Some(flag), environment(), true),
            Some(("flag".into(), Origin::Flag))
        );
        // A file that is named and absent is an error of whoever reads it, not a reason to take another.
        assert_eq!(
            chosen(None, environment(), false),
            Some(("environment".into(), Origin::Environment))
        );
        assert_eq!(
            chosen(None, None, true),
            Some(("usual".into(), Origin::Default))
        );
        assert_eq!(chosen(None, None, false), None);
    }
}
