//! The log of a node in the background: a file that is rotated, so that all of it together is bounded.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes of one file at most: some days of a busy node.
const FILE_BYTES: u64 = 10 * 1024 * 1024;

/// Earlier files that are kept, as `NAME.1` (the latest) to `NAME.4`.
const KEPT: u32 = 4;

/// Where the log of a data directory is.
pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("logs").join("derouter.log")
}

/// `path` with a number behind its name.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Writes to the file, each event whole.
#[derive(Clone, Debug)]
pub(crate) struct LogFile(Arc<Mutex<Rotated>>);

#[derive(Debug)]
struct Rotated {
    path: PathBuf,
    file: File,
    written: u64,
    most: u64,
}

impl LogFile {
    /// Opens the file and goes on behind what it holds.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::open_with(path, FILE_BYTES)
    }

    fn open_with(path: &Path, most: u64) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            super::make_directory(directory)?;
        }
        let file = append(path)?;
        let written = file.metadata()?.len();
        Ok(Self(Arc::new(Mutex::new(Rotated {
            path: path.to_owned(),
            file,
            written,
            most,
        }))))
    }
}

fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

impl Rotated {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let length = u64::try_from(event.len()).unwrap_or(u64::MAX);
        if self.written > 0 && self.written.saturating_add(length) > self.most {
            // A log that can't be rotated is still better than none.
            let _ = self.rotate();
        }
        self.file.write_all(event)?;
        self.written = self.written.saturating_add(length);
        Ok(event.len())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..KEPT).rev() {
            let from = numbered(&self.path, number);
            if from.exists() {
                std::fs::rename(from, numbered(&self.path, number + 1))?;
            }
        }
        std::fs::rename(&self.path, numbered(&self.path, 1))?;
        self.file = append(&self.path)?;
        self.written = 0;
        Ok(())
    }
}

impl Write for &LogFile {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let mut rotated = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rotated.write(event)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = &'a LogFile;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_its_latest_part_is_kept_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/derouter.log");
        let log = LogFile::open_with(&path, 100).unwrap();
        for number in 0..195 {
            (&log)
                .write_all(format!("event {number:03}\n").as_bytes())
                .unwrap();
        }
        let files = std::fs::read_dir(path.parent().unwrap()).unwrap();
        let sizes: Vec<u64> = files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 5);
        assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
        let latest = std::fs::read_to_string(&path).unwrap();
        assert!(latest.ends_with("event 194\n"), "{latest}");
        let earlier = std::fs::read_to_string(numbered(&path, 1)).unwrap();
        let first = latest.lines().next().unwrap();
        let last = earlier.lines().last().unwrap();
        let number = |line: &str| line.split(' ').nth(1).unwrap().parse::<u32>().unwrap();
        assert_eq!(
            number(last) + 1,
            number(first),
            "nothing is lost between files"
        );
        // A start goes on where the last one ended.
        drop(log);
        let log = LogFile::open_with(&path, 100).unwrap();
        (&log).write_all(b"again\n").unwrap();
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .ends_with("event 194\nagain\n")
        );
    }
}
