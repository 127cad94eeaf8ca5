//! Plain writing to the standard streams. Nobody listening is no reason to stop: a node goes on
//! when the terminal that started it is gone.

use std::io::Write;

/// Writes a line to the standard output at once.
pub(crate) fn line(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Writes text that has its line ends to the standard output at once.
pub(crate) fn text(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = write!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Writes a line to the standard error at once.
pub(crate) fn error_line(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{text}").and_then(|()| stderr.flush());
}

/// Writes a value as one line of JSON to the standard output.
pub(crate) fn json<T: serde::Serialize>(value: &T) {
    match serde_json::to_string(value) {
        Ok(text) => line(&text),
        Err(error) => error_line(&format!("derouter: can't write JSON: {error}")),
    }
}
