//! The command line: parse, set up logging, hand over to one file per verb.

use std::process::ExitCode;

/// The whole program.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
