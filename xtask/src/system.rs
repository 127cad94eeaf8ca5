//! Programs that the tests need from the system.

use std::process::Command;

use crate::shell::{Failure, is_root, run, works};
use crate::test::Report;

/// A program, how to see that it is there, and the Debian package that has it.
struct Need {
    program: &'static str,
    arguments: &'static [&'static str],
    package: &'static str,
    purpose: &'static str,
}

const NEEDS: [Need; 10] = [
    Need {
        program: "ip",
        arguments: &["-V"],
        package: "iproute2",
        purpose: "the mDNS tests and the network lab, which need network namespaces",
    },
    Need {
        program: "curl",
        arguments: &["--version"],
        package: "curl",
        purpose: "the mDNS tests, which look into network namespaces with it",
    },
    Need {
        program: "nft",
        arguments: &["-v"],
        package: "nftables",
        purpose: "the network lab, whose routers are made with it",
    },
    Need {
        program: "miniupnpd",
        arguments: &["--version"],
        package: "miniupnpd-nftables",
        purpose: "the network lab's routers that map ports",
    },
    Need {
        program: "faketime",
        arguments: &["--version"],
        package: "faketime",
        purpose: "the runs with clocks that are hours apart",
    },
    Need {
        program: "python3",
        arguments: &["-c", "import venv, ensurepip"],
        package: "python3-venv",
        purpose: "the tests with the openai and anthropic Python packages",
    },
    Need {
        program: "node",
        arguments: &["--version"],
        package: "nodejs",
        purpose: "the tests with the openai npm package",
    },
    Need {
        program: "npm",
        arguments: &["--version"],
        package: "npm",
        purpose: "the tests with the openai npm package",
    },
    Need {
        program: "chromium",
        arguments: &["--version"],
        package: "chromium",
        purpose: "the tests of the dashboard in a browser",
    },
    Need {
        program: "cc",
        arguments: &["--version"],
        package: "build-essential",
        purpose: "building SQLite and the TLS library",
    },
];

/// Installs what is missing, where that is possible.
pub(crate) fn install(report: &mut Report) -> Result<(), Failure> {
    let missing: Vec<&Need> = NEEDS
        .iter()
        .filter(|need| !works(need.program, need.arguments))
        .collect();
    if missing.is_empty() {
        println!("all there");
        return Ok(());
    }
    if !is_root() || !works("apt-get", &["--version"]) {
        for need in missing {
            report.skip(format!(
                "{}: install {} (not root here)",
                need.purpose, need.package
            ));
        }
        return Ok(());
    }
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]);
    install.args(missing.iter().map(|need| need.package));
    run(&mut install)
}
