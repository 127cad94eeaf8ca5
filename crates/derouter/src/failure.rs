//! How a command ends when it does not end well: one message, one exit code.

use std::fmt::Display;
use std::process::ExitCode;

/// Why a command can't go on. The message says what, where, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// Something that should work did not. Exit code 1.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            code: 1,
        }
    }

    /// The configuration or the machine is not as it must be, and the user can mend it. Exit
    /// code 3 (clap uses 2 for a wrong command line).
    pub(crate) fn environment(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            code: 3,
        }
    }

    /// No node runs where one was looked for. Exit code 4.
    pub(crate) fn not_running(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            code: 4,
        }
    }

    /// An argument makes no sense. Exit code 2, as clap has it.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            code: 2,
        }
    }

    /// A second signal ended it. Exit code 130.
    pub(crate) fn aborted() -> Self {
        Self {
            message: "stopped at once".to_owned(),
            code: crate::signals::ABORTED,
        }
    }

    /// The time is up. Exit code 124, as timeout(1) has it.
    pub(crate) fn time_is_up(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            code: 124,
        }
    }

    /// The same, with another sentence.
    pub(crate) fn with(mut self, hint: &str) -> Self {
        self.message.push_str(". ");
        self.message.push_str(hint);
        self
    }

    /// Tells the user.
    pub(crate) fn report(&self) -> ExitCode {
        crate::output::error_line(&format!("derouter: {}", self.message));
        ExitCode::from(self.code)
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        Failure::environment(error)
    }
}
