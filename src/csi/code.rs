//! Which gRPC code each error of the domain becomes, and why.
//!
//! Sidecars act on codes. ABORTED, UNAVAILABLE and DEADLINE_EXCEEDED mean "perhaps still running": they
//! keep the claim and ask again. All others, INTERNAL among them, mean "certainly not running": they may
//! give up and let go of what they hold. So a code of the first kind stands only where something may run.

use crate::host::growfs::GrowError;
use crate::image::header::HeaderError;
use crate::image::lock::LockError;
use crate::qsd::DaemonError;
use crate::rpc::chain;
use crate::volume::Error;
use crate::volume::record::FailureKind;
use std::io::ErrorKind;
use tonic::{Code, Status};

/// What the kernel says of a mount whose servers are gone; programs that we run pass it on.
const AWAY: [&str; 3] =
    ["Transport endpoint is not connected", "Stale file handle", "Software caused connection abort"];

/// The code of an error.
pub(super) fn code(error: &Error) -> Code {
    match listed(error) {
        // The step has ended, but it was the share that failed: what is journaled is gone on with when it is back.
        Code::Internal if AWAY.iter().any(|words| chain(error).contains(words)) => Code::Unavailable,
        code => code,
    }
}

fn listed(error: &Error) -> Code {
    match error {
        Error::VolumeNotFound { .. } | Error::SnapshotNotFound { .. } => Code::NotFound,
        // All shares that were given are mounted (else Shares answers UNAVAILABLE), and none has that key.
        Error::ShareNotFound { .. } => Code::NotFound,
        // CSI: ControllerPublishVolume, "node does not exist".
        Error::NodeNotFound { .. } => Code::NotFound,
        Error::NameTaken { .. } => Code::AlreadyExists,
        Error::RestoreFailed { kind, .. } => of_restore(*kind),
        // CSI: NodeStageVolume and NodePublishVolume, "volume published but is incompatible".
        Error::Incompatible { .. } => Code::AlreadyExists,
        // Another call works on it, and this one was not begun; asked again it will be.
        Error::Busy { .. } | Error::Pending { .. } => Code::Aborted,
        // Whoever took the lock meanwhile finishes or finds what was begun here.
        Error::Fenced { .. } => Code::Aborted,
        // An operator has to act first; until then nothing is opened.
        Error::NodeTaken { .. } => Code::FailedPrecondition,
        // CSI: "volume published to another node"; an operator or the scheduler has to act first.
        Error::ReadElsewhere { .. } => Code::FailedPrecondition,
        Error::AttachedElsewhere { .. } | Error::NotPublished { .. } | Error::Precondition { .. } => {
            Code::FailedPrecondition
        }
        Error::ImageInUse { .. } | Error::ImageLock { source: LockError::Held { .. } } => {
            Code::FailedPrecondition
        }
        Error::ImageLock { source: LockError::Io { source, .. } } => of_io(source.kind()),
        Error::ImageHeader { source: HeaderError::Read { source, .. } } => of_header(source.kind()),
        // Until a person has run the repair no retry helps, and nothing may be undone meanwhile.
        Error::DamagedRecord { .. } | Error::ImageHeader { .. } => Code::FailedPrecondition,
        // What the node did is unknown: it may be at work.
        Error::NodeUnreachable { .. } => Code::Unavailable,
        // It answered: nothing is at work there any more.
        Error::NodeFailed { .. } => Code::Internal,
        // CSI: NodeExpandVolume and NodeGetVolumeStats, "volume does not exist" where it was asked for.
        Error::NotStaged { .. } => Code::NotFound,
        // The kubelet takes this for "while it is in use it cannot be": the growth is finished at the next stage.
        Error::Grow { source: GrowError::NotPermitted } => Code::FailedPrecondition,
        // Repairing it takes a person's answers.
        Error::Grow { source: GrowError::Check { .. } } => Code::FailedPrecondition,
        // CSI has this for ControllerPublishVolume; the scheduler counts by NodeGetInfo.
        Error::NodeFull { .. } => Code::ResourceExhausted,
        Error::NoRoom { .. } | Error::Full { .. } | Error::TooDeep { .. } => Code::ResourceExhausted,
        Error::NoShare => Code::Unavailable,
        // It is mounted again at the next look.
        Error::ShareAway { .. } => Code::Unavailable,
        Error::OutOfRange { .. } => Code::OutOfRange,
        Error::Invalid { .. } => Code::InvalidArgument,
        Error::Io { source, .. } => of_io(source.kind()),
        Error::File { source } => of_io(source.kind()),
        // The data plane is being replaced, or is at work on what was asked.
        Error::Daemon { source: DaemonError::Unreachable { .. } } => Code::Unavailable,
        // An unsound QEMU: the message says which version is needed.
        Error::Daemon { source: DaemonError::Unusable { .. } } => Code::FailedPrecondition,
        Error::Daemon { source: DaemonError::Process { .. } } => Code::Internal,
        // A merge or a reader elsewhere that will let go.
        Error::Command { source } if source.is_lock_conflict() => Code::Aborted,
        // These steps have ended, and what was begun before them is journaled or undone.
        Error::QemuImg { .. }
        | Error::Qmp { .. }
        | Error::Command { .. }
        | Error::Attach { .. }
        | Error::Mount { .. }
        | Error::Mkfs { .. }
        | Error::Grow { .. }
        | Error::Freeze { .. } => Code::Internal,
    }
}

/// Nothing runs: a code of the kind "perhaps still running" stands only where the next call begins anew within seconds.
pub(super) fn of_restore(kind: FailureKind) -> Code {
    match kind {
        FailureKind::NotFound => Code::NotFound,
        FailureKind::DataLoss => Code::DataLoss,
        FailureKind::Unavailable => Code::Unavailable,
        FailureKind::NoRoom => Code::ResourceExhausted,
        FailureKind::Failed => Code::Internal,
    }
}

/// An image that is not there, or too short, is damage; only what the share itself says is not.
fn of_header(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound | ErrorKind::UnexpectedEof => Code::FailedPrecondition,
        kind => of_io(kind),
    }
}

fn of_io(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::ResourceExhausted,
        // Larger than the share's own filesystem lets a file be.
        ErrorKind::FileTooLarge => Code::OutOfRange,
        // A share that lost its servers: it comes back, or is mounted again.
        ErrorKind::NotConnected | ErrorKind::StaleNetworkFileHandle | ErrorKind::TimedOut => {
            Code::Unavailable
        }
        _ => Code::Internal,
    }
}

impl From<Error> for Status {
    /// The message is the whole chain of causes.
    fn from(error: Error) -> Status {
        Status::new(code(&error), chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::exec::ExecError;
    use crate::host::mount::FsType;
    use crate::qsd::command::CommandError;
    use crate::qsd::qmp::QmpError;
    use crate::volume::{AgentError, Capacity, NodeId, Policy, SnapshotId, VolumeId};
    use rstest::rstest;
    use std::io;

    fn volume() -> VolumeId {
        VolumeId::from_name("v")
    }

    fn node() -> NodeId {
        "n1".parse().unwrap()
    }

    fn text() -> String {
        "words".to_owned()
    }

    fn exec_error() -> ExecError {
        ExecError::Timeout { program: text(), limit: std::time::Duration::from_secs(1), stderr: text() }
    }

    fn refused(desc: &str) -> Error {
        let (command, class, desc) = (text(), text(), desc.to_owned());
        Error::Command {
            source: CommandError::Qmp { what: text(), source: QmpError::Command { command, class, desc } },
        }
    }

    fn failed(kind: FailureKind) -> Error {
        Error::RestoreFailed { volume: volume(), kind, message: text() }
    }

    fn errno(code: i32) -> Error {
        Error::Io { doing: "read", path: "/x".into(), source: io::Error::from_raw_os_error(code) }
    }

    fn header(code: i32) -> Error {
        let source = HeaderError::Read { path: "/x".into(), source: io::Error::from_raw_os_error(code) };
        Error::ImageHeader { source }
    }

    fn image_lock(code: i32) -> Error {
        let source = io::Error::from_raw_os_error(code);
        Error::ImageLock { source: LockError::Io { what: "lock", path: "/x".into(), source } }
    }

    #[rstest]
    #[case(Error::VolumeNotFound { volume: volume() }, Code::NotFound)]
    #[case(Error::SnapshotNotFound { volume: volume(), snapshot: SnapshotId::from_name("s") }, Code::NotFound)]
    #[case(Error::ShareNotFound { share: text() }, Code::NotFound)]
    #[case(Error::NodeNotFound { node: node() }, Code::NotFound)]
    #[case(Error::NodeTaken { node: node(), host: text(), agent: text() }, Code::FailedPrecondition)]
    #[case(Error::NameTaken { name: text(), difference: text() }, Code::AlreadyExists)]
    #[case(failed(FailureKind::NotFound), Code::NotFound)]
    #[case(failed(FailureKind::DataLoss), Code::DataLoss)]
    #[case(failed(FailureKind::Unavailable), Code::Unavailable)]
    #[case(failed(FailureKind::NoRoom), Code::ResourceExhausted)]
    #[case(failed(FailureKind::Failed), Code::Internal)]
    #[case(Error::Busy { volume: volume() }, Code::Aborted)]
    #[case(Error::Pending { volume: volume(), doing: text() }, Code::Aborted)]
    #[case(Error::Fenced { volume: volume(), reason: text() }, Code::Aborted)]
    #[case(Error::Incompatible { volume: volume(), reason: text() }, Code::AlreadyExists)]
    #[case(Error::AttachedElsewhere { volume: volume(), node: node() }, Code::FailedPrecondition)]
    #[case(Error::ReadElsewhere { volume: volume(), node: node() }, Code::FailedPrecondition)]
    #[case(Error::NotPublished { volume: volume(), node: node() }, Code::FailedPrecondition)]
    #[case(Error::Precondition { volume: volume(), reason: text() }, Code::FailedPrecondition)]
    #[case(Error::ImageInUse { file: "/x".into() }, Code::FailedPrecondition)]
    #[case(Error::DamagedRecord { volume: volume(), reason: text() }, Code::FailedPrecondition)]
    #[case(Error::NodeUnreachable { volume: volume(), node: node(), source: AgentError::Unreachable { reason: text() } }, Code::Unavailable)]
    #[case(Error::NodeFailed { volume: volume(), node: node(), source: AgentError::Failed { reason: text() } }, Code::Internal)]
    #[case(Error::NotStaged { volume: volume(), node: node() }, Code::NotFound)]
    #[case(Error::Grow { source: GrowError::NotPermitted }, Code::FailedPrecondition)]
    #[case(Error::Grow { source: GrowError::Check { device: "/x".into(), source: exec_error() } }, Code::FailedPrecondition)]
    #[case(Error::Grow { source: GrowError::Superblock { device: "/x".into(), fs: FsType::Xfs } }, Code::Internal)]
    #[case(Error::NoRoom { needed: 2, free: 1 }, Code::ResourceExhausted)]
    #[case(Error::TooDeep { volume: volume(), depth: 9, limit: 8 }, Code::ResourceExhausted)]
    #[case(Error::Full { needed: 2, capacity: Capacity::new(1, 1, 1, &Policy::default()) }, Code::ResourceExhausted)]
    #[case(Error::NodeFull { node: node(), limit: 1 }, Code::ResourceExhausted)]
    #[case(Error::NoShare, Code::Unavailable)]
    #[case(refused("Failed to get shared \"write\" lock"), Code::Aborted)]
    #[case(refused("No such file"), Code::Internal)]
    #[case(Error::ShareAway { share: "a:/v".parse().unwrap() }, Code::Unavailable)]
    #[case(Error::OutOfRange { reason: text() }, Code::OutOfRange)]
    #[case(Error::Invalid { reason: text() }, Code::InvalidArgument)]
    #[case(errno(libc::ENOSPC), Code::ResourceExhausted)]
    #[case(errno(libc::EDQUOT), Code::ResourceExhausted)]
    #[case(errno(libc::EFBIG), Code::OutOfRange)]
    #[case(errno(libc::ENOTCONN), Code::Unavailable)]
    #[case(errno(libc::ESTALE), Code::Unavailable)]
    #[case(errno(libc::EIO), Code::Internal)]
    #[case(header(libc::ENOTCONN), Code::Unavailable)]
    #[case(header(libc::ESTALE), Code::Unavailable)]
    #[case(header(libc::EIO), Code::Internal)]
    #[case(header(libc::ENOENT), Code::FailedPrecondition)]
    #[case(Error::ImageHeader { source: HeaderError::Malformed { path: "/x".into(), reason: "short" } }, Code::FailedPrecondition)]
    #[case(image_lock(libc::ENOTCONN), Code::Unavailable)]
    #[case(image_lock(libc::ESTALE), Code::Unavailable)]
    #[case(image_lock(libc::EIO), Code::Internal)]
    #[case(Error::ImageLock { source: LockError::Held { path: "/x".into(), conflict: "it writes" } }, Code::FailedPrecondition)]
    #[case(Error::Daemon { source: DaemonError::Unreachable { reason: text() } }, Code::Unavailable)]
    #[case(Error::Daemon { source: DaemonError::Unusable { reason: text() } }, Code::FailedPrecondition)]
    #[case(Error::Daemon { source: DaemonError::Process { name: "n".parse().unwrap(), reason: text() } }, Code::Internal)]
    fn each_error_has_its_code(#[case] error: Error, #[case] expected: Code) {
        let said = error.to_string();
        let status = Status::from(error);
        assert_eq!(status.code(), expected);
        assert!(status.message().contains(&said));
    }
}
