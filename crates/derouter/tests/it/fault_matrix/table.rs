//! The table of docs/faults.md, from what the test asserts.

use std::fmt::Write;
use std::path::Path;

use super::rows::{BACKENDS, Form, PROVIDERS, Paid, Row, Seen, Versions};

/// Set, the file is written anew in place of being compared.
const WRITE: &str = "DEROUTER_WRITE_DOCS";

const BEGIN: &str = "<!-- the fault matrix begins -->\n";
const END: &str = "<!-- the fault matrix ends -->\n";

fn seen(seen: Seen) -> String {
    match seen {
        Seen::Answer => "the answer".into(),
        Seen::Error(status, "") => status.to_string(),
        Seen::Error(status, code) => format!("{status} `{code}`"),
        Seen::Breaks => "its beginning, an error event".into(),
    }
}

fn with_another(row: &Row) -> &'static str {
    match row.seen {
        Seen::Answer => "the same",
        Seen::Error(..) => "the other's answer; the other is paid",
        Seen::Breaks => "the same; the other is not asked",
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = "| what it does | asked for | over | alone, the client sees | is paid | with another provider |\n|---|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let form = match row.form {
            Form::Plain => "in one piece",
            Form::Streamed => "streamed",
            Form::Both => "either way",
        };
        let paid = match row.paid {
            Paid::Nothing => "nothing",
            Paid::Right => "what it costs",
        };
        let over = match row.over {
            Versions::Both => "both",
            Versions::New => "0.2",
            Versions::Old => "0.1",
        };
        let (seen, another) = (seen(row.seen), with_another(row));
        let _ = writeln!(
            text,
            "| {} | {form} | {over} | {seen} | {paid} | {another} |",
            row.what
        );
    }
    text
}

/// Compares the file with what was asserted, or writes it.
pub(super) fn check() {
    let backends = table(BACKENDS);
    let providers = table(PROVIDERS);
    let told = format!(
        "## Of a backend, behind an honest provider\n\n{backends}\n## Of a provider\n\n{providers}"
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/faults.md");
    let file = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = file.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let right = format!("{before}{BEGIN}\n{told}\n{END}{after}");
    if std::env::var_os(WRITE).is_some() {
        return std::fs::write(&path, right).unwrap();
    }
    assert!(
        file == right,
        "docs/faults.md is not what this test asserts: run it with {WRITE}=1"
    );
}
