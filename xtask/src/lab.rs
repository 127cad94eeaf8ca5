//! `cargo xtask lab`: whole nodes behind NATs, with the table of what they reached.

use crate::shell::{Failure, cargo, is_root, run};

/// The tests in the lab, by what they are about.
const PARTS: [(&str, &str); 2] = [("matrix", "lab::matrix::"), ("events", "lab::events::")];

/// Runs both parts, or one; `--only NAME[,...]` picks pairs of the matrix (`PROVIDER/CONSUMER`) and
/// events.
pub(crate) fn run_lab(options: &[&str]) -> Result<(), Failure> {
    if !is_root() {
        return Err("the network lab makes network namespaces, which needs root".to_owned());
    }
    let (filter, names) = choose(options)?;
    let mut command = cargo();
    // A lab that can't be made is an error here.
    command.env("CI", "1").env("DEROUTER_LAB_ONLY", names);
    command.args(["test", "--package", "derouter", "--test", "it", "--locked"]);
    run(command.args([filter, "--", "--nocapture"]))
}

fn choose<'a>(options: &[&'a str]) -> Result<(&'a str, &'a str), Failure> {
    match options {
        [] => Ok(("lab::", "")),
        ["--only", names] => Ok(("lab::", names)),
        [name] => {
            let part = PARTS.iter().find(|(part, _)| part == name);
            let names = PARTS.map(|(part, _)| part).join(", ");
            let part = part.ok_or(format!("there is no part {name} of the lab, but {names}"))?;
            Ok((part.1, ""))
        }
        _ => Err("usage: cargo xtask lab [matrix | events | --only NAME,...]".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_or_some_pairs_are_chosen() {
        assert_eq!(choose(&[]), Ok(("lab::", "")));
        assert_eq!(choose(&["events"]), Ok(("lab::events::", "")));
        let names = "public/double,sleep";
        assert_eq!(choose(&["--only", names]), Ok(("lab::", names)));
        for wrong in [&["all"][..], &["matrix", "events"], &["--only"]] {
            choose(wrong).unwrap_err();
        }
    }
}
