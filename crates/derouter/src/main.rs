//! The `derouter` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    derouter::main()
}
