//! The `celerybox` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    celerybox::cli::main()
}
