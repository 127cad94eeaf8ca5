//! `cargo xtask fuzz`: runs the fuzz targets one after another.
//!
//! What a run finds is put under `fuzz/target/found`; with `--keep` the corpus in the repository
//! becomes the smallest set of old and new inputs that reaches as much code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{self, Failure, root, works};

/// How long a target runs when nothing else is said.
const SECONDS: u64 = 180;

/// The longest input: files of the corpus stay small, and so do inputs that find something.
const MOST_BYTES: &str = "4096";

/// An input that takes longer is a finding.
const SLOW_SECONDS: &str = "10";

/// A decoder that takes more memory than this for 4 KiB is a finding.
const MEMORY_MIB: &str = "512";

#[derive(Debug, PartialEq, Eq)]
struct Options {
    targets: Vec<String>,
    seconds: u64,
    keep: bool,
}

/// Runs the named targets, or all.
pub(crate) fn run(arguments: &[&str]) -> Result<(), Failure> {
    let options = parse(arguments)?;
    let known = known_targets()?;
    if let Some(unknown) = options.targets.iter().find(|name| !known.contains(name)) {
        return Err(format!(
            "there is no target {unknown}; there are {}",
            known.join(", ")
        ));
    }
    check_tools()?;
    let targets = match options.targets.is_empty() {
        true => &known,
        false => &options.targets,
    };
    for target in targets {
        let found = root().join("fuzz/target/found").join(target);
        fuzz(target, &found, options.seconds)?;
        if options.keep {
            keep(target, &found)?;
        }
    }
    Ok(())
}

fn parse(arguments: &[&str]) -> Result<Options, Failure> {
    let mut options = Options {
        targets: Vec::new(),
        seconds: SECONDS,
        keep: false,
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match *word {
            "--seconds" => {
                let number = words.next().and_then(|number| number.parse().ok());
                options.seconds = number.ok_or("--seconds takes a number")?;
            }
            "--keep" => options.keep = true,
            option if option.starts_with('-') => {
                return Err(format!("unknown option {option}; see cargo xtask help"));
            }
            target => options.targets.push(target.to_owned()),
        }
    }
    Ok(options)
}

/// The names of the files in `fuzz/fuzz_targets`.
fn known_targets() -> Result<Vec<String>, Failure> {
    let directory = root().join("fuzz/fuzz_targets");
    let unreadable = |error| format!("can't read {}: {error}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        names.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}

fn check_tools() -> Result<(), Failure> {
    if works("rustup", &["run", "nightly", "cargo", "fuzz", "--version"]) {
        return Ok(());
    }
    Err(
        "fuzzing needs a nightly compiler and cargo-fuzz: `rustup toolchain install nightly --profile minimal && cargo install cargo-fuzz --locked`"
            .to_owned(),
    )
}

/// `cargo fuzz run`, without a sanitizer: there is no unsafe code to watch, and it is twice as fast.
fn cargo_fuzz(target: &str) -> Command {
    let mut command = Command::new("rustup");
    command.current_dir(root());
    command.args(["run", "nightly", "cargo", "fuzz", "run", "-s", "none"]);
    command.arg("--no-default-features");
    if let Some(feature) = feature(target) {
        command.args(["--features", feature]);
    }
    command.arg(target);
    command
}

/// The feature of `fuzz/Cargo.toml` that a target needs: without the others, those of `wire` build in
/// a minute, and only some need libp2p.
fn feature(target: &str) -> Option<&str> {
    match target.split('_').next() {
        Some("wire") => None,
        Some("config") => Some("command"),
        owner => owner,
    }
}

fn corpus(target: &str) -> PathBuf {
    root().join("fuzz/corpus").join(target)
}

fn fuzz(target: &str, found: &Path, seconds: u64) -> Result<(), Failure> {
    fs::create_dir_all(found)
        .map_err(|error| format!("can't make {}: {error}", found.display()))?;
    let mut command = cargo_fuzz(target);
    // New inputs go to the first.
    command.args([found, &corpus(target)]).arg("--");
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={MOST_BYTES}"));
    command.arg(format!("-timeout={SLOW_SECONDS}"));
    command.arg(format!("-rss_limit_mb={MEMORY_MIB}"));
    shell::run(command.args(["-print_final_stats=1", "-verbosity=0"]))
}

/// Replaces the corpus by what is left of it and of the findings when all that adds nothing is
/// left out.
fn keep(target: &str, found: &Path) -> Result<(), Failure> {
    let (old, new) = (corpus(target), found.with_extension("kept"));
    let failed = |error| format!("can't replace {}: {error}", old.display());
    if new.exists() {
        fs::remove_dir_all(&new).map_err(failed)?;
    }
    fs::create_dir_all(&new).map_err(failed)?;
    let mut command = cargo_fuzz(target);
    command.args([&new, &old, found]).arg("--");
    command.arg(format!("-max_len={MOST_BYTES}"));
    shell::run(command.args(["-set_cover_merge=1", "-verbosity=0"]))?;
    fs::remove_dir_all(&old).map_err(failed)?;
    fs::rename(&new, &old).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_options_come_in_any_order() {
        let options = parse(&["--seconds", "5", "config", "--keep", "openai_sse"]).unwrap();
        let expected = Options {
            targets: vec!["config".into(), "openai_sse".into()],
            seconds: 5,
            keep: true,
        };
        assert_eq!(options, expected);
        assert!(parse(&["--seconds", "soon"]).is_err());
        assert!(parse(&["--fast"]).is_err());
    }

    #[test]
    fn a_target_needs_the_feature_of_its_crate_only() {
        assert_eq!(feature("wire_reqres"), None);
        assert_eq!(feature("openai_sse"), Some("openai"));
        assert_eq!(feature("config"), Some("command"));
        let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
        for target in known_targets().unwrap() {
            let entry = format!("name = \"{target}\"");
            assert!(manifest.contains(&entry), "{target} is not in the manifest");
        }
    }
}
