//! `derouter logs`: the log of a node in the background.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::control;
use super::log_file;
use super::state::{Manager, NodeState, Running};
use crate::cli::daemon::LogsArgs;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::{signals, text};

/// How often to look whether the log has grown.
const LOOK: Duration = Duration::from_millis(200);

/// Bytes of one line that are shown.
const LINE_BYTES: usize = 64 * 1024;

/// Lines that are kept to be shown at most, whatever was asked for.
const MOST_LINES: usize = 1_000_000;

/// Shows it.
pub(crate) async fn logs(args: LogsArgs, output: Output) -> Result<(), Failure> {
    let data_dir = control::data_dir(&args.place)?;
    let node = match control::running(&data_dir)? {
        Running::Yes(state) => state,
        Running::No => None,
    };
    if let Some(elsewhere) = node.as_deref().and_then(elsewhere) {
        return Err(Failure::failed(elsewhere));
    }
    let of_node = node.and_then(|node| node.log);
    let path = of_node.unwrap_or_else(|| log_file::path(&data_dir));
    let mut reader = Tail::open(&path, &args)?;
    reader.last_lines(&args, output)?;
    if !args.follow {
        return Ok(());
    }
    let stop = signals::listen()?;
    loop {
        reader.new_lines(output);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = sleep(LOOK) => {}
        }
    }
}

/// Where the log is, if it is no file of ours.
fn elsewhere(node: &NodeState) -> Option<String> {
    if node.log.is_some() {
        return None;
    }
    Some(match &node.manager {
        Manager::Systemd { unit, user } => {
            let user = if *user { " --user" } else { "" };
            format!("systemd keeps this node's log: `journalctl{user} -u {unit} -f` shows it")
        }
        _ => format!(
            "this node (process {}) was started by `derouter run`: its log is on the standard error of that",
            node.pid
        ),
    })
}

/// A log file as it grows.
struct Tail<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    grep: Option<&'a str>,
    /// What has no line end yet.
    begun: Vec<u8>,
}

impl<'a> Tail<'a> {
    fn open(path: &'a Path, args: &'a LogsArgs) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::not_running(format_args!(
                "there is no log at {}: `derouter up` writes one",
                path.display()
            )),
            _ => Failure::environment(format_args!("can't read {}: {error}", path.display())),
        })?;
        Ok(Self {
            path,
            reader: BufReader::new(file),
            grep: args.grep.as_deref(),
            begun: Vec::new(),
        })
    }

    /// Shows the last lines that are wanted.
    fn last_lines(&mut self, args: &LogsArgs, output: Output) -> Result<(), Failure> {
        let most = args.lines.min(MOST_LINES);
        let mut kept = VecDeque::new();
        while let Some(line) = self.next().map_err(Failure::failed)? {
            if kept.len() >= most {
                kept.pop_front();
            }
            if most > 0 {
                kept.push_back(line);
            }
        }
        kept.iter().for_each(|line| show(line, output));
        Ok(())
    }

    /// Shows what is new, and goes over to the new file when the log was rotated.
    fn new_lines(&mut self, output: Output) {
        while let Ok(Some(line)) = self.next() {
            show(&line, output);
        }
        if !self.is_current()
            && let Ok(file) = File::open(self.path)
        {
            // What came before it was rotated.
            while let Ok(Some(line)) = self.next() {
                show(&line, output);
            }
            self.reader = BufReader::new(file);
            self.begun.clear();
        }
    }

    #[cfg(unix)]
    fn is_current(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let open = self.reader.get_ref().metadata();
        let named = std::fs::metadata(self.path);
        match (open, named) {
            (Ok(open), Ok(named)) => open.ino() == named.ino() && open.dev() == named.dev(),
            // Between two files: look again.
            _ => true,
        }
    }

    #[cfg(not(unix))]
    fn is_current(&self) -> bool {
        true
    }

    /// The next whole line that is wanted.
    fn next(&mut self) -> std::io::Result<Option<String>> {
        loop {
            let read = self.reader.read_until(b'\n', &mut self.begun)?;
            if !self.begun.ends_with(b"\n") {
                if self.begun.len() > LINE_BYTES {
                    self.begun.truncate(LINE_BYTES);
                }
                if read == 0 {
                    return Ok(None);
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.begun);
            let line = line.trim_end().to_owned();
            self.begun.clear();
            if self.grep.is_none_or(|wanted| line.contains(wanted)) {
                return Ok(Some(line));
            }
        }
    }
}

fn show(line: &str, output: Output) {
    if !output.is_json() {
        return output::line(&text::printable(line));
    }
    let event: Option<Value> = serde_json::from_str(line).ok();
    let told = match event {
        Some(event) => json!({"event": event}),
        None => json!({"line": line}),
    };
    output::document("derouter.log/1", &told);
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::cli::daemon::PlaceArgs;

    #[test]
    fn a_log_is_followed_over_its_rotation_and_half_lines_wait() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "one\ntwo\nhal").unwrap();
        let args = LogsArgs {
            place: PlaceArgs::default(),
            follow: true,
            lines: 10,
            grep: None,
        };
        let mut tail = Tail::open(&path, &args).unwrap();
        assert_eq!(tail.next().unwrap().as_deref(), Some("one"));
        assert_eq!(tail.next().unwrap().as_deref(), Some("two"));
        assert_eq!(tail.next().unwrap(), None);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"f\nthree\n").unwrap();
        assert_eq!(tail.next().unwrap().as_deref(), Some("half"));
        assert_eq!(tail.next().unwrap().as_deref(), Some("three"));
        assert!(tail.is_current());
        std::fs::rename(&path, directory.path().join("log.1")).unwrap();
        std::fs::write(&path, "four\n").unwrap();
        assert!(!tail.is_current());
        tail.new_lines(Output::default());
        assert_eq!(tail.next().unwrap().as_deref(), Some("four"));
    }
}
