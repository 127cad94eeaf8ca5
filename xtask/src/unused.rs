//! Dependencies that no source file names.

use std::fs;
use std::path::{Path, PathBuf};

use crate::shell::{Failure, root};
use crate::test::Report;

/// A dependency that is there for its features alone says so in a comment on its line.
const FEATURES_ALONE: &str = "# features alone";

/// Looks at every crate of the workspace.
pub(crate) fn check(_: &mut Report) -> Result<(), Failure> {
    let mut problems = Vec::new();
    for directory in crates()? {
        let manifest = read(&directory.join("Cargo.toml"))?;
        let mut sources = String::new();
        collect(&directory, &mut sources)?;
        for dependency in dependencies(&manifest) {
            if !is_named(&dependency.replace('-', "_"), &sources) {
                let path = directory.join("Cargo.toml");
                problems.push(format!("{}: {dependency} is not used", path.display()));
            }
        }
    }
    if problems.is_empty() {
        println!("all dependencies are used");
        return Ok(());
    }
    Err(problems.join("\n"))
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(directory);
    let entries = entries.map_err(|error| format!("{}: {error}", directory.display()))?;
    Ok(entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect())
}

fn crates() -> Result<Vec<PathBuf>, Failure> {
    let mut all = entries(&root().join("crates"))?;
    all.push(root().join("xtask"));
    all.retain(|directory| directory.join("Cargo.toml").exists());
    all.sort();
    Ok(all)
}

/// All Rust sources below a directory, as one text.
fn collect(directory: &Path, sources: &mut String) -> Result<(), Failure> {
    for path in entries(directory)? {
        if path.is_dir() {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&read(&path)?);
        }
    }
    Ok(())
}

/// The names in the dependency sections of a manifest.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim_end().ends_with("dependencies]");
            continue;
        }
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        let is_entry = inside && !name.is_empty() && !line.starts_with(['#', ' ', '}', ']']);
        if is_entry && !line.contains(FEATURES_ALONE) {
            names.push(name);
        }
    }
    names
}

/// Whether a source names the crate: as the begin of a path, or in a `use` or an attribute.
fn is_named(name: &str, sources: &str) -> bool {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    sources.match_indices(name).any(|(at, _)| {
        let before = sources.get(..at).and_then(|text| text.chars().next_back());
        let after = at
            .checked_add(name.len())
            .and_then(|end| sources.get(end..));
        let after = after.unwrap_or_default();
        let starts = !before.is_some_and(is_word);
        starts
            && ["::", ";", " as "]
                .iter()
                .any(|follow| after.starts_with(follow))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_their_sections_alone() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\na-b.workspace = true\n\
                        c = { version = \"1\" }\n# note\nd = \"1\" # features alone\n\
                        [dev-dependencies]\ne = \"1\"\n[lints]\nworkspace = true\n";
        assert_eq!(dependencies(manifest), ["a-b", "c", "e"]);
    }

    #[test]
    fn a_crate_is_named_by_a_path_not_by_a_part_of_a_word() {
        assert!(is_named("serde", "#[derive(serde::Serialize)]"));
        assert!(is_named("hex", "use hex;"));
        assert!(!is_named("serde", "use my_serde::x; let serde_json = 1;"));
        assert!(!is_named("rand", "// rand is not used"));
    }
}
