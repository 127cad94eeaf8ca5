//! How a command ends when it does not end well: one message, one exit code.

use std::fmt::Display;
use std::process::ExitCode;

use serde::Serialize;

/// What `derouter --help` says of exit codes. docs/cli.md has the same table; a test compares them.
pub(crate) const EXIT_CODES: &str = "Exit codes:\n  \
      0  done\n  \
      1  something failed that should work, or the answer is no\n  \
      2  usage: the command line is wrong\n  \
      3  configuration: a file or this machine is not as it must be\n  \
      4  node not running: nobody answers where the node was looked for\n  \
      5  not authorised: a cookie, key or permission is missing or wrong\n  \
      6  no offer: nobody sells what was asked for at these terms\n  \
      7  limit reached: it would cost more than a limit allows\n  \
      8  remote failure: a provider or peer failed\n  \
    124  the time is up\n  \
    130  ended at once by a second signal";

/// What kind of end it is, and so the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// 1: something that should work did not, or the answer is no.
    Failed,
    /// 2: the command line is wrong, as clap has it.
    Usage,
    /// 3: the configuration or the machine is not as it must be, and the user can mend it.
    Config,
    /// 4: no node runs where one was looked for.
    NotRunning,
    /// 5: a cookie, key or permission is missing or wrong.
    NotAuthorised,
    /// 6: nobody sells what was asked for at these terms.
    NoOffer,
    /// 7: it would cost more than a limit allows.
    LimitReached,
    /// 8: a provider or peer failed.
    RemoteFailure,
    /// 124: the time is up, as timeout(1) has it.
    Timeout,
    /// 130: a second signal ended it.
    Aborted,
}

impl Kind {
    /// The exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Config => 3,
            Self::NotRunning => 4,
            Self::NotAuthorised => 5,
            Self::NoOffer => 6,
            Self::LimitReached => 7,
            Self::RemoteFailure => 8,
            Self::Timeout => 124,
            Self::Aborted => crate::signals::ABORTED,
        }
    }
}

/// Why a command can't go on. The message says what, where, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    kind: Kind,
}

/// What `--json` says of it.
#[derive(Serialize)]
struct Told<'a> {
    code: u8,
    kind: Kind,
    message: &'a str,
}

impl Failure {
    /// One of a kind.
    pub(crate) fn of(kind: Kind, message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            kind,
        }
    }

    /// Something that should work did not. Exit code 1.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self::of(Kind::Failed, message)
    }

    /// The configuration or the machine is not as it must be, and the user can mend it. Exit
    /// code 3 (clap uses 2 for a wrong command line).
    pub(crate) fn environment(message: impl Display) -> Self {
        Self::of(Kind::Config, message)
    }

    /// No node runs where one was looked for. Exit code 4.
    pub(crate) fn not_running(message: impl Display) -> Self {
        Self::of(Kind::NotRunning, message)
    }

    /// An argument makes no sense. Exit code 2, as clap has it.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self::of(Kind::Usage, message)
    }

    /// A second signal ended it. Exit code 130.
    pub(crate) fn aborted() -> Self {
        Self::of(Kind::Aborted, "stopped at once")
    }

    /// The time is up. Exit code 124, as timeout(1) has it.
    pub(crate) fn time_is_up(message: impl Display) -> Self {
        Self::of(Kind::Timeout, message)
    }

    /// Whether it is of a kind.
    pub(crate) fn is(&self, kind: Kind) -> bool {
        self.kind == kind
    }

    /// The same, with another sentence.
    pub(crate) fn with(mut self, hint: &str) -> Self {
        self.message.push_str(". ");
        self.message.push_str(hint);
        self
    }

    /// Tells the user, or with `--json` a program.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        let told = Told {
            code: self.kind.code(),
            kind: self.kind,
            message: &self.message,
        };
        let text = match json {
            true => crate::output::with_schema("derouter.error/1", &told)
                .map_or_else(|_| self.message.clone(), |value| value.to_string()),
            false => format!("derouter: {}", self.message),
        };
        crate::output::error_line(&text);
        ExitCode::from(self.kind.code())
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        Failure::environment(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_and_the_documentation_name_every_exit_code() {
        let page = include_str!("../../../docs/cli.md");
        for kind in [
            Kind::Failed,
            Kind::Usage,
            Kind::Config,
            Kind::NotRunning,
            Kind::NotAuthorised,
            Kind::NoOffer,
            Kind::LimitReached,
            Kind::RemoteFailure,
            Kind::Timeout,
            Kind::Aborted,
        ] {
            let code = kind.code();
            let in_help = EXIT_CODES.lines().filter(|line| {
                let number = line.split_whitespace().next();
                number == Some(code.to_string().as_str())
            });
            assert_eq!(in_help.count(), 1, "{kind:?}");
            assert!(page.contains(&format!("\n| {code} |")), "{kind:?}");
        }
    }
}
