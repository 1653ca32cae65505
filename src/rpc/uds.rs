//! Unix sockets: private from the first instant, and replaced only when nobody answers on them.

use hyper_util::rt::TokioIo;
use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind as bind_socket};
use rustix::net::{connect, listen, socket_with};
use snafu::{ResultExt, Snafu, ensure};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// sun_path holds 108 bytes, the last of them a zero.
const MAX_PATH: usize = 107;
/// A connection over a unix socket is made by the kernel alone; only a stopped server lets it wait.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Whoever binds beside us holds the folder's lock for the length of five system calls.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// Why a socket could not be used.
#[derive(Debug, Snafu)]
pub enum UdsError {
    /// The kernel takes no longer names.
    #[snafu(display(
        "the socket path {} has {} bytes, and the kernel takes {MAX_PATH}: choose a shorter folder",
        path.display(), path.as_os_str().len()
    ))]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Somebody serves there.
    #[snafu(display("{} is in use: another process answers on it", path.display()))]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has that name.
    #[snafu(display("{} exists and is no socket: it was left alone", path.display()))]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    #[snafu(display("cannot {doing} the socket {}: {source}", path.display()))]
    Io {
        /// The step.
        doing: &'static str,
        /// The socket.
        path: PathBuf,
        /// From the kernel.
        source: io::Error,
    },
}

/// Listens on a socket that only its owner can open. A socket that nobody answers on is replaced.
pub fn bind(path: &Path) -> Result<UnixListener, UdsError> {
    ensure!(path.as_os_str().len() <= MAX_PATH, TooLongSnafu { path });
    // Two processes that both find a stale socket must not unlink each other's new one.
    let _folder = lock_folder(path).context(IoSnafu { doing: "lock the folder of", path })?;
    if !vacant(path)? {
        return InUseSnafu { path }.fail();
    }
    let listener = bind_private(path).context(IoSnafu { doing: "bind", path })?;
    listener.set_nonblocking(true).context(IoSnafu { doing: "prepare", path })?;
    Ok(listener)
}

/// What a server takes its connections from. Needs a running async runtime.
pub fn incoming(listener: UnixListener) -> io::Result<UnixListenerStream> {
    Ok(UnixListenerStream::new(tokio::net::UnixListener::from_std(listener)?))
}

/// A channel that connects when it is first used, and again whenever the server has gone and come back.
pub fn channel(path: &Path) -> Result<Channel, UdsError> {
    ensure!(path.as_os_str().len() <= MAX_PATH, TooLongSnafu { path });
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(&path).await.map_err(|error| {
                io::Error::new(error.kind(), format!("cannot connect to {}: {error}", path.display()))
            })?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    // The name is never resolved: the connector knows where to go.
    let endpoint = Endpoint::from_static("http://strata.invalid").connect_timeout(CONNECT_LIMIT);
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// Whether anybody accepts connections on the socket.
pub fn answers(path: &Path) -> bool {
    matches!(vacant(path), Ok(false))
}

fn lock_folder(path: &Path) -> io::Result<File> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let file = File::open(folder)?;
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether nobody answers at the path. A socket that a dead process left is removed.
fn vacant(path: &Path) -> Result<bool, UdsError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error).context(IoSnafu { doing: "look at", path }),
        Ok(metadata) => ensure!(metadata.file_type().is_socket(), NoSocketSnafu { path }),
    }
    // Non-blocking: a server whose queue is full is alive, too.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let tried = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .and_then(|socket| connect(&socket, &SocketAddrUnix::new(path)?));
    match tried {
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => Ok(false),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(true),
        Err(errno) => Err(io::Error::from(errno)).context(IoSnafu { doing: "try", path }),
    }
}

fn bind_private(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Linux makes the file with the mode that the socket has before bind (net/unix/af_unix.c): no instant
    // in which others could open it, and no umask that other threads would see.
    fchmod(&socket, Mode::from_raw_mode(0o600))?;
    bind_socket(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, 128)?;
    Ok(UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let _listener = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        UnixStream::connect(&path).unwrap();
    }

    /// Watches the file's mode from another thread: at no instant is it wider.
    #[test]
    fn a_socket_is_private_from_the_first_instant() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut seen = std::collections::BTreeSet::new();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    if let Ok(metadata) = std::fs::metadata(&path) {
                        seen.insert(metadata.permissions().mode() & 0o7777);
                    }
                }
                seen
            });
            for _ in 0..2000 {
                drop(bind(&path).unwrap());
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            let seen = watcher.join().unwrap();
            assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0o600]);
        });
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        drop(bind(&path).unwrap());
        assert!(path.exists() && !answers(&path));
        let _listener = bind(&path).unwrap();
        assert!(answers(&path));
        assert!(matches!(bind(&path), Err(UdsError::InUse { .. })));
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(UdsError::NoSocket { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_path_beyond_the_kernels_bound_is_a_clear_error() {
        let path = PathBuf::from(format!("/tmp/{}.sock", "x".repeat(120)));
        let error = bind(&path).unwrap_err().to_string();
        assert!(error.contains("107") && error.contains("130 bytes"), "{error}");
        assert!(channel(&path).is_err());
    }
}
