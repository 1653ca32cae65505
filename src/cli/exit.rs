//! Exit codes, the same for every verb that a person calls.

use crate::backup::{BackupError, ErrorKind};
use std::fmt::Display;
use std::process::ExitCode;

/// How a command ends when it does not succeed.
#[derive(Debug)]
pub struct Failure {
    /// The whole chain of causes.
    pub message: String,
    /// 1 failed, 2 usage, 3 not found, 4 refused as unsafe, 5 a backup is damaged.
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
            ErrorKind::Failed | ErrorKind::Cancelled => 1,
            ErrorKind::Usage => 2,
            ErrorKind::NotFound => 3,
            ErrorKind::Unsafe => 4,
            ErrorKind::Damaged => 5,
        };
        Failure { message: error.to_string(), code }
    }
}
