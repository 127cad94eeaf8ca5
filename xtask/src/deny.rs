//! Licences, bans and sources of the dependencies.

use crate::shell::{Failure, cargo, read, root, run, works};
use crate::test::Report;

/// Runs `cargo deny` where it is installed, and else checks what `cargo tree` can tell.
pub(crate) fn check(report: &mut Report) -> Result<(), Failure> {
    if works("cargo", &["deny", "--version"]) {
        run(cargo().args(["deny", "check", "bans", "licenses", "sources"]))?;
        if advisories_reachable() {
            return run(cargo().args(["deny", "check", "advisories"]));
        }
        report.skip("advisories: the RustSec database can't be reached".to_owned());
        return Ok(());
    }
    report.skip("advisories: cargo-deny is not installed (cargo install cargo-deny)".to_owned());
    check_with_tree()
}

fn advisories_reachable() -> bool {
    let url = "https://github.com/RustSec/advisory-db";
    works(
        "timeout",
        &["20", "git", "ls-remote", "--exit-code", url, "HEAD"],
    )
}

/// One line for each package: name, licence expression, repository of origin.
fn check_with_tree() -> Result<(), Failure> {
    let allowed = allowed_licences()?;
    let banned = ["openssl-sys", "native-tls"];
    let mut tree = cargo();
    tree.args([
        "tree",
        "--workspace",
        "--all-features",
        "--edges",
        "normal,build,dev",
        "--prefix",
        "none",
    ]);
    let text = read(tree.args(["--locked", "--format", "{p}\t{l}"]))?;
    let mut problems = Vec::new();
    let mut packages: Vec<&str> = text
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages.retain(|package| !package.is_empty());
    for package in &packages {
        let (name, licence) = package.split_once('\t').unwrap_or((package, ""));
        if !is_allowed(licence, &allowed) {
            problems.push(format!("{name}: licence {licence:?} is not in deny.toml"));
        }
        if name.contains("(git+") || name.contains("(registry+") {
            problems.push(format!("{name}: not from crates.io"));
        }
        let bare = name.split(' ').next().unwrap_or_default();
        if banned.contains(&bare) {
            problems.push(format!("{name}: banned in deny.toml"));
        }
    }
    // The testkit's hostile peers may use it, what users run may not.
    let mut product = cargo();
    product.args([
        "tree",
        "--locked",
        "--package",
        "derouter",
        "--prefix",
        "none",
    ]);
    let product = read(product.args(["--edges", "normal,build"]))?;
    if product
        .lines()
        .any(|line| line.starts_with("libp2p-stream "))
    {
        problems.push("libp2p-stream: banned in deny.toml".to_owned());
    }
    println!("{} packages looked at", packages.len());
    if problems.is_empty() {
        return Ok(());
    }
    Err(problems.join("\n"))
}

/// The `allow` list of deny.toml's licences.
fn allowed_licences() -> Result<Vec<String>, Failure> {
    let path = root().join("deny.toml");
    let text = std::fs::read_to_string(&path);
    let text = text.map_err(|error| format!("{} can't be read: {error}", path.display()))?;
    let list = text
        .split_once("\nallow = [")
        .and_then(|(_, rest)| rest.split_once(']'));
    let (list, _) = list.ok_or("deny.toml has no list of allowed licences")?;
    let quoted = list.split('"').skip(1).step_by(2);
    Ok(quoted.map(str::to_owned).collect())
}

/// Whether an SPDX expression can be fulfilled with allowed licences: every part of an AND, one
/// part of an OR. Parentheses are only met around an OR.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ");
    let both = split_outside(&expression, " AND ");
    if both.len() > 1 {
        return both.iter().all(|part| is_allowed(part, allowed));
    }
    let either = split_outside(&expression, " OR ");
    if either.len() > 1 {
        return either.iter().any(|part| is_allowed(part, allowed));
    }
    let trimmed = expression.trim();
    if let Some(inner) = trimmed
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
    {
        return is_allowed(inner, allowed);
    }
    allowed.iter().any(|licence| licence == trimmed)
}

/// Splits where `separator` stands outside of parentheses.
fn split_outside(text: &str, separator: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if depth == 0
            && let Some(after) = rest.strip_prefix(separator)
        {
            parts.push(String::new());
            rest = after;
            continue;
        }
        match first {
            '(' => depth = depth.saturating_add(1),
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(first);
        }
        rest = rest.get(first.len_utf8()..).unwrap_or_default();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions_are_understood() {
        let allowed: Vec<String> = ["MIT", "Apache-2.0", "ISC"].map(str::to_owned).to_vec();
        for good in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/GPL-3.0",
            "GPL-3.0 OR ISC",
            "(MIT OR GPL-3.0) AND ISC",
            "ISC AND (Apache-2.0 OR ISC)",
        ] {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(GPL-3.0 OR AGPL-3.0) AND MIT",
        ] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn the_allowed_licences_are_read_from_deny_toml() {
        let allowed = allowed_licences().unwrap();
        assert!(allowed.contains(&"MIT".to_owned()));
        assert!(!allowed.iter().any(|licence| licence.contains("GPL")));
    }
}
