//! Golden tests: the recorded bytes of 0.1.0 nodes and modules.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod cddl;
mod golden_announce;
mod golden_jobs;
mod golden_modules;
mod golden_nodes;
mod hostile;

use serde_json::Value;

const WIRE: &str = include_str!("../../../../testdata/vectors/wire-0.1.json");
const MODULES: &str = include_str!("../../../../testdata/vectors/modules-0.1.json");

fn vectors(text: &str, section: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(text).unwrap();
    all[section].as_array().unwrap().clone()
}

fn hex_of(entry: &Value, key: &str) -> Vec<u8> {
    hex::decode(entry[key].as_str().unwrap()).unwrap()
}

fn name_of(entry: &Value) -> &str {
    entry["name"].as_str().unwrap()
}
