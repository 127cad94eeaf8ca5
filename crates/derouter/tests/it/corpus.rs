//! Every decoder of what comes from outside, over the corpus that fuzzing has gathered (`fuzz/`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use derouter_sdk::wire;
use derouter_sdk::wire::fuzz::Target;

fn targets() -> Vec<Target> {
    [
        wire::fuzz::TARGETS,
        derouter_net::fuzz::TARGETS,
        derouter_sdk::fuzz::TARGETS,
        derouter_node::fuzz::TARGETS,
        derouter_openai::fuzz::TARGETS,
        derouter::fuzz::TARGETS,
    ]
    .concat()
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let read = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut entries: Vec<PathBuf> = read.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

#[test]
fn every_decoder_bears_what_fuzzing_has_found() {
    for (name, run) in targets() {
        let files = entries(&corpus().join(name));
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let data = std::fs::read(&file).unwrap();
            let ran = std::panic::catch_unwind(|| run(&data));
            assert!(ran.is_ok(), "{}", file.display());
        }
    }
}

#[test]
fn every_decoder_bears_the_corpus_of_every_other_one() {
    let all: Vec<PathBuf> = entries(&corpus())
        .iter()
        .flat_map(|directory| entries(directory))
        .collect();
    for file in all {
        let data = std::fs::read(&file).unwrap();
        for (name, run) in targets() {
            let ran = std::panic::catch_unwind(|| run(&data));
            assert!(ran.is_ok(), "{name} on {}", file.display());
        }
    }
}

#[test]
fn every_corpus_and_every_fuzz_target_belongs_to_a_decoder() {
    let known: BTreeSet<String> = targets()
        .into_iter()
        .map(|(name, _)| name.to_owned())
        .collect();
    let names = |directory: PathBuf| -> BTreeSet<String> {
        entries(&directory)
            .iter()
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(names(corpus()), known);
    assert_eq!(names(corpus().join("../fuzz_targets")), known);
}
