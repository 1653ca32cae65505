//! Exit codes, the same for every verb that a person calls. docs/cli.md has the same table.

use crate::backup::{BackupError, ErrorKind};
use std::fmt::Display;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};

/// What each code means.
pub const CODES: &[(u8, &str)] = &[
    (0, "done"),
    (1, "it was tried and failed; the message says why"),
    (2, "the arguments are wrong or contradict each other"),
    (3, "no such backup, volume, share or repository"),
    (4, "refused: it would destroy something or tear what is in use"),
    (5, "a backup is damaged: it was not restored, or only with losses that are listed"),
    (130, "stopped by SIGINT (Ctrl-C); what was begun is removed, or with --resume kept"),
    (143, "stopped by SIGTERM; what was begun is removed, or with --resume kept"),
];

/// The table for help texts.
pub fn help() -> String {
    let rows: String = CODES.iter().map(|(code, what)| format!("  {code:>3}  {what}\n")).collect();
    format!("Exit codes:\n{}", rows.trim_end_matches('\n'))
}

/// The code of the signal that asked this process to stop, once one did: signals are the whole process's.
static STOPPED_BY: AtomicU8 = AtomicU8::new(1);

/// Remembers it.
pub fn stopped_by(code: u8) {
    STOPPED_BY.store(code, Ordering::Relaxed);
}

/// How a command ends when it does not succeed.
#[derive(Debug)]
pub struct Failure {
    /// The whole chain of causes.
    pub message: String,
    /// One of [`CODES`].
    pub code: u8,
}

impl Failure {
    /// It was tried and did not work.
    pub fn failed(error: impl Display) -> Self {
        Failure { message: error.to_string(), code: 1 }
    }

    /// The arguments contradict each other.
    pub fn usage(error: impl Display) -> Self {
        Failure { message: error.to_string(), code: 2 }
    }

    /// Doing it would destroy something.
    pub fn refused(error: impl Display) -> Self {
        Failure { message: error.to_string(), code: 4 }
    }

    /// The code for the system.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let code = match error.kind() {
            ErrorKind::Failed => 1,
            ErrorKind::Cancelled => STOPPED_BY.load(Ordering::Relaxed),
            ErrorKind::Usage => 2,
            ErrorKind::NotFound => 3,
            ErrorKind::Unsafe => 4,
            ErrorKind::Damaged => 5,
        };
        Failure { message: error.to_string(), code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_the_same_table() {
        let manual = include_str!("../../docs/cli.md");
        let rows: Vec<&str> = manual
            .lines()
            .filter(|line| line.starts_with("| ") && line[2..].starts_with(|c: char| c.is_ascii_digit()))
            .collect();
        let expected: Vec<String> = CODES.iter().map(|(code, what)| format!("| {code} | {what} |")).collect();
        assert_eq!(rows, expected);
    }
}
