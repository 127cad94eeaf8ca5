//! `cargo xtask lab`: whole nodes behind NATs, with the table of what they reached.

use crate::shell::{Failure, cargo, is_root, run};

/// The tests in the lab, by what they are about.
const PARTS: [(&str, &str); 2] = [("matrix", "lab::matrix::"), ("events", "lab::events::")];

/// Runs both parts, or one; `--only PROVIDER/CONSUMER[,...]` picks pairs of the matrix.
pub(crate) fn run_lab(options: &[&str]) -> Result<(), Failure> {
    if !is_root() {
        return Err("the network lab makes network namespaces, which needs root".to_owned());
    }
    let (filter, pairs) = choose(options)?;
    let mut command = cargo();
    // A lab that can't be made is an error here.
    command.env("CI", "1").env("DEROUTER_LAB_ONLY", pairs);
    command.args(["test", "--package", "derouter", "--test", "it", "--locked"]);
    run(command.args([filter, "--", "--nocapture", "--include-ignored"]))
}

fn choose<'a>(options: &[&'a str]) -> Result<(&'a str, &'a str), Failure> {
    match options {
        [] => Ok(("lab::", "")),
        ["--only", pairs] => Ok(("lab::matrix::", pairs)),
        [name] => {
            let part = PARTS.iter().find(|(part, _)| part == name);
            let names = PARTS.map(|(part, _)| part).join(", ");
            let part = part.ok_or(format!("there is no part {name} of the lab, but {names}"))?;
            Ok((part.1, ""))
        }
        _ => Err("usage: cargo xtask lab [matrix | events | --only PROVIDER/CONSUMER,...]".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_or_some_pairs_are_chosen() {
        assert_eq!(choose(&[]), Ok(("lab::", "")));
        assert_eq!(choose(&["events"]), Ok(("lab::events::", "")));
        let pairs = "public/double,lossy/far";
        assert_eq!(choose(&["--only", pairs]), Ok(("lab::matrix::", pairs)));
        for wrong in [&["all"][..], &["matrix", "events"], &["--only"]] {
            choose(wrong).unwrap_err();
        }
    }
}
