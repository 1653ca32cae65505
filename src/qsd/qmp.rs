//! A small QMP client: one JSON object a line, over a unix socket, blocking, every wait bounded.

use serde_json::{Value, json};
use snafu::{OptionExt, ResultExt, Snafu};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// No answer of the daemon comes near this; more is a daemon gone mad.
const MAX_LINE: usize = 64 << 20;
/// `sun_path` without its final zero.
const MAX_SOCKET_PATH: usize = 107;

/// Why a QMP command gave no result.
#[derive(Debug, Snafu)]
pub enum QmpError {
    /// The daemon refused the command.
    #[snafu(display("{command} was refused: {desc} ({class})"))]
    Command {
        /// What was asked.
        command: String,
        /// QMP's error class.
        class: String,
        /// QMP's explanation.
        desc: String,
    },
    /// The connection failed: the daemon is not there, or ended.
    #[snafu(display("lost the storage daemon at {}: {source}", socket.display()))]
    Io {
        /// Its socket.
        socket: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// No answer in time: it hangs on its share, or another client keeps it busy.
    #[snafu(display(
        "the storage daemon at {} did not answer to {what} within {} ms",
        socket.display(),
        limit.as_millis()
    ))]
    Timeout {
        /// Its socket.
        socket: PathBuf,
        /// What was asked.
        what: String,
        /// The time it had.
        limit: Duration,
    },
    /// What came is not QMP.
    #[snafu(display("the storage daemon at {} sent something unexpected: {text}", socket.display()))]
    Protocol {
        /// Its socket.
        socket: PathBuf,
        /// A part of it.
        text: String,
    },
}

impl QmpError {
    /// Whether the daemon itself answered, with a refusal.
    pub fn refused(&self) -> bool {
        matches!(self, QmpError::Command { .. })
    }
}

/// An event that the daemon sent by itself.
#[derive(Clone, Debug)]
pub struct Event {
    /// Such as `BLOCK_JOB_PENDING`.
    pub name: String,
    /// Its data.
    pub data: Value,
}

/// A connection. The daemon serves one at a time: keep it short.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    socket: PathBuf,
    buffer: Vec<u8>,
    events: VecDeque<Event>,
    next_id: u64,
}

impl Client {
    /// Connects and greets; while another client is being served, waits for its turn.
    pub fn connect(socket: &Path, timeout: Duration) -> Result<Client, QmpError> {
        let deadline = Instant::now() + timeout;
        let stream = dial(socket, deadline).context(IoSnafu { socket })?;
        let (buffer, events) = (Vec::new(), VecDeque::new());
        let mut client = Client { stream, socket: socket.to_path_buf(), buffer, events, next_id: 0 };
        // A busy daemon has accepted nobody yet: the greeting comes when it is our turn.
        let greeting = client.message("the greeting", deadline, timeout)?;
        greeting.get("QMP").with_context(|| client.unexpected(&greeting))?;
        let left = deadline.saturating_duration_since(Instant::now());
        client.execute("qmp_capabilities", Value::Null, left)?;
        Ok(client)
    }

    /// Runs one command and answers what it returned. Events that come meanwhile are kept.
    pub fn execute(&mut self, command: &str, arguments: Value, timeout: Duration) -> Result<Value, QmpError> {
        let deadline = Instant::now() + timeout;
        self.next_id += 1;
        let id = self.next_id;
        let mut request = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let line = format!("{request}\n");
        self.limit(deadline)?;
        self.stream.write_all(line.as_bytes()).map_err(|source| self.failed(command, timeout, source))?;
        loop {
            let mut answer = self.message(command, deadline, timeout)?;
            if let Some(event) = event_of(&answer) {
                self.events.push_back(event);
                continue;
            }
            // The answer to a command that an earlier call of ours stopped waiting for.
            if answer.get("id").and_then(Value::as_u64) != Some(id) {
                continue;
            }
            if let Some(error) = answer.get("error") {
                let text = |key| error.get(key).and_then(Value::as_str).unwrap_or("unknown").to_owned();
                return CommandSnafu { command, class: text("class"), desc: text("desc") }.fail();
            }
            return match answer.get_mut("return") {
                Some(value) => Ok(value.take()),
                None => Err(self.unexpected(&answer).build()),
            };
        }
    }

    /// The next event that `wanted` accepts; others are dropped. None: it did not come in time.
    pub fn wait_event(
        &mut self,
        timeout: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Option<Event>, QmpError> {
        let deadline = Instant::now() + timeout;
        loop {
            while let Some(event) = self.events.pop_front() {
                if wanted(&event) {
                    return Ok(Some(event));
                }
            }
            match self.message("an event", deadline, timeout) {
                Ok(message) => self.events.extend(event_of(&message)),
                Err(QmpError::Timeout { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next line as JSON.
    fn message(&mut self, what: &str, deadline: Instant, limit: Duration) -> Result<Value, QmpError> {
        let mut scanned = 0;
        loop {
            if let Some(end) = self.buffer[scanned..].iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=scanned + end).collect();
                return serde_json::from_slice(&line).ok().with_context(|| {
                    let text = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
                    ProtocolSnafu { socket: &self.socket, text }
                });
            }
            scanned = self.buffer.len();
            if scanned > MAX_LINE {
                return ProtocolSnafu { socket: &self.socket, text: "a line without an end" }.fail();
            }
            self.limit(deadline)?;
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(self.failed(what, limit, io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(what, limit, error)),
            }
        }
    }

    /// Lets the next read and write end at the deadline.
    fn limit(&self, deadline: Instant) -> Result<(), QmpError> {
        // Zero would mean "for ever".
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let set = self.stream.set_read_timeout(Some(left)).and(self.stream.set_write_timeout(Some(left)));
        set.context(IoSnafu { socket: &self.socket })
    }

    fn failed(&self, what: &str, limit: Duration, source: io::Error) -> QmpError {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                TimeoutSnafu { socket: &self.socket, what, limit }.build()
            }
            _ => QmpError::Io { socket: self.socket.clone(), source },
        }
    }

    fn unexpected(&self, message: &Value) -> ProtocolSnafu<PathBuf, String> {
        let text = message.to_string().chars().take(200).collect();
        ProtocolSnafu { socket: self.socket.clone(), text }
    }
}

fn event_of(message: &Value) -> Option<Event> {
    let name = message.get("event")?.as_str()?.to_owned();
    Some(Event { name, data: message.get("data").cloned().unwrap_or(Value::Null) })
}

/// Connects, also to a socket whose path is longer than an address can hold, and waits while the
/// queue in front of the daemon is full.
fn dial(socket: &Path, deadline: Instant) -> io::Result<UnixStream> {
    loop {
        let result = match socket.as_os_str().len() <= MAX_SOCKET_PATH {
            true => UnixStream::connect(socket),
            false => dial_through_folder(socket),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

fn dial_through_folder(socket: &Path) -> io::Result<UnixStream> {
    use rustix::fs::{Mode, OFlags, open};
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = open(folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

#[cfg(test)]
#[path = "qmp_tests.rs"]
mod tests;
