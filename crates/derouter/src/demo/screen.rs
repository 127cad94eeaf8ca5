//! What the demo says, on a terminal or in a pipe.

use std::io::{self, Write};

use crate::output::Output;

/// Where the demo talks.
#[derive(Debug)]
pub(super) struct Screen {
    to_stderr: bool,
    colours: bool,
}

/// How wide the labels on the left are.
const LABEL: usize = 10;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const RESET: &str = "\x1b[0m";

impl Screen {
    /// On the standard output.
    pub(super) fn stdout(output: Output) -> Self {
        Self {
            to_stderr: false,
            colours: output.colours(&io::stdout()),
        }
    }

    /// On the standard error.
    pub(super) fn stderr(output: Output) -> Self {
        Self {
            to_stderr: true,
            colours: output.colours(&io::stderr()),
        }
    }

    /// Writes as it is, at once. A closed pipe does not end the demo.
    pub(super) fn raw(&self, text: &str) {
        let write = |out: &mut dyn Write| out.write_all(text.as_bytes()).and_then(|()| out.flush());
        let _ = if self.to_stderr {
            write(&mut io::stderr().lock())
        } else {
            write(&mut io::stdout().lock())
        };
    }

    /// A line.
    pub(super) fn line(&self, text: &str) {
        self.raw(&format!("{text}\n"));
    }

    /// A heading with air around it.
    pub(super) fn title(&self, text: &str) {
        self.raw(&format!("\n{}\n\n", self.styled(BOLD, text)));
    }

    /// A line that matters less.
    pub(super) fn dim(&self, text: &str) {
        self.line(&format!("  {}", self.styled(DIM, text)));
    }

    /// A label on the left and what belongs to it.
    pub(super) fn item(&self, label: &str, text: &str) {
        self.line(&format!("{}{text}", self.label(label)));
    }

    /// The label of an item, without its line.
    pub(super) fn label(&self, label: &str) -> String {
        format!("  {}  ", self.styled(BOLD, &format!("{label:<LABEL$}")))
    }

    /// What lies under an item's label.
    pub(super) fn under(&self, text: &str) {
        self.line(&format!("  {:LABEL$}  {}", "", self.styled(DIM, text)));
    }

    /// Good news.
    pub(super) fn good(&self, text: &str) -> String {
        self.styled(GREEN, text)
    }

    /// Less important words inside a line.
    pub(super) fn faint(&self, text: &str) -> String {
        self.styled(DIM, text)
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.colours {
            format!("{style}{text}{RESET}")
        } else {
            text.to_owned()
        }
    }
}

/// Text from elsewhere without what would steer the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_answer_cant_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n\tc\u{9b}d\r"), "a[2Jb\n\tcd");
    }
}
