//! The crash matrix names every point that there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use derouter_testkit::crash::points;

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What stands in quotes behind each `mark` in the sources of a crate.
fn named(source: &str, mark: &str) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    sources(&root.join(source), &mut files);
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        for rest in text.split(mark).skip(1) {
            names.extend(rest.split('"').next().map(str::to_owned));
        }
    }
    names
}

#[test]
fn every_point_in_the_source_is_in_the_crash_matrix() {
    let mut there = named("derouter-node/src", "failpoint!(\"");
    let store = named("derouter-store/src", ": &str = \"store::");
    there.extend(store.into_iter().map(|name| format!("store::{name}")));
    let matrix = points::all().into_iter();
    let matrix: BTreeSet<String> = matrix.map(|(_, name)| name.to_owned()).collect();
    assert!(!there.is_empty());
    assert_eq!(there, matrix);
}
