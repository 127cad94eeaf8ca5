//! The Python and JavaScript packages that the tests run, at exact versions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{Failure, root, run, works};
use crate::test::Report;

/// What the tests are told by environment variables.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    /// `DEROUTER_TEST_PYTHON`: an interpreter that has the pinned packages.
    python: Option<PathBuf>,
    /// `DEROUTER_TEST_NODE_MODULES`: where the pinned npm packages are.
    node_modules: Option<PathBuf>,
}

impl Clients {
    /// Tells a command, by its environment, what is there.
    pub(crate) fn tell(&self, command: &mut Command) {
        if let Some(python) = &self.python {
            command.env("DEROUTER_TEST_PYTHON", python);
        }
        if let Some(modules) = &self.node_modules {
            command.env("DEROUTER_TEST_NODE_MODULES", modules);
        }
    }
}

/// Makes both environments; one that is there and fits its lock file is kept.
pub(crate) fn install(report: &mut Report) -> Result<Clients, Failure> {
    let mut clients = Clients::default();
    if works("python3", &["-c", "import venv, ensurepip"]) {
        clients.python = Some(python()?);
    } else {
        report.skip("the Python client packages: there is no python3 with venv".to_owned());
    }
    if works("npm", &["--version"]) {
        for directory in npm_projects()? {
            npm(&directory)?;
        }
        clients.node_modules = Some(root().join("tests/clients/node_modules"));
    } else {
        report.skip("the npm client packages: there is no npm".to_owned());
    }
    Ok(clients)
}

/// Whether `stamp` holds what `lock` holds: then what was made from it is up to date.
fn fits(lock: &Path, stamp: &Path) -> bool {
    match (fs::read(lock), fs::read(stamp)) {
        (Ok(lock), Ok(stamp)) => lock == stamp,
        _ => false,
    }
}

fn keep_stamp(lock: &Path, stamp: &Path) -> Result<(), Failure> {
    let copied = fs::copy(lock, stamp);
    copied
        .map(drop)
        .map_err(|error| format!("{} can't be written: {error}", stamp.display()))
}

fn python() -> Result<PathBuf, Failure> {
    let environment = root().join("target/test-python");
    let interpreter = environment.join("bin/python");
    let lock = root().join("tests/clients/requirements.txt");
    let stamp = environment.join("installed.txt");
    if interpreter.exists() && fits(&lock, &stamp) {
        println!("{} is up to date", environment.display());
        return Ok(interpreter);
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&environment))?;
    let mut pip = Command::new(&interpreter);
    // The lock file names all there is, with hashes. Compiling what is never imported takes longer
    // than all else, and building what has no wheel would run programs.
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--no-compile",
        "-r",
    ]);
    run(pip.arg(&lock))?;
    keep_stamp(&lock, &stamp)?;
    Ok(interpreter)
}

/// The directories below `tests/` that have an npm lock file.
fn npm_projects() -> Result<Vec<PathBuf>, Failure> {
    let tests = root().join("tests");
    let entries = fs::read_dir(&tests).map_err(|error| format!("{}: {error}", tests.display()))?;
    let directories = entries.filter_map(Result::ok).map(|entry| entry.path());
    let mut projects: Vec<PathBuf> = directories
        .filter(|directory| directory.join("package-lock.json").exists())
        .collect();
    projects.sort();
    Ok(projects)
}

fn npm(directory: &Path) -> Result<(), Failure> {
    let lock = directory.join("package-lock.json");
    let stamp = directory.join("node_modules/.installed.json");
    if fits(&lock, &stamp) {
        println!("{} is up to date", directory.display());
        return Ok(());
    }
    let mut npm = Command::new("npm");
    npm.args([
        "ci",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--loglevel",
        "error",
    ]);
    run(npm.current_dir(directory))?;
    keep_stamp(&lock, &stamp)
}
