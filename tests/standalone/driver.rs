//! A driver in a folder of its own: `strata standalone`, its clients, and its end.

use crate::support::{self, leftovers, qemu_img, qemu_storage_daemon};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use strata::rpc::csi::controller_client::ControllerClient;
use strata::rpc::csi::identity_client::IdentityClient;
use strata::rpc::csi::node_client::NodeClient;
use strata::rpc::uds;
use tonic::transport::Channel;

/// Everything that a standalone driver needs, and takes down again when dropped, also on panic.
pub struct Driver {
    dir: tempfile::TempDir,
    source: String,
    process: Option<Child>,
    extra: Vec<String>,
    launcher: Vec<String>,
    /// What runs the daemons.
    pub storage_daemon: PathBuf,
}

impl Driver {
    /// A driver on a share of its own in a folder.
    pub fn start() -> Driver {
        let dir = support::scratch();
        let images = dir.path().join("share");
        std::fs::create_dir(&images).unwrap();
        let source = format!("dir:{}", images.display());
        Driver::on(dir, source, &[])
    }

    /// A driver on a given share, with more arguments.
    pub fn on(dir: tempfile::TempDir, source: String, extra: &[&str]) -> Driver {
        Driver::stopped(dir, source, extra).started()
    }

    /// The same, not started yet.
    pub fn stopped(dir: tempfile::TempDir, source: String, extra: &[&str]) -> Driver {
        let extra = extra.iter().map(|arg| (*arg).to_owned()).collect();
        let storage_daemon = qemu_storage_daemon();
        Driver { dir, source, process: None, extra, launcher: Vec::new(), storage_daemon }
    }

    /// Through a program that becomes it, such as env(1) or setpriv(1).
    pub fn launched_by(mut self, launcher: &[&str]) -> Driver {
        self.launcher = launcher.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts it.
    pub fn started(mut self) -> Driver {
        self.start_again();
        self
    }

    /// Where the driver keeps its sockets and state.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("d")
    }

    /// A folder for pods' paths.
    pub fn path(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join("pods").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// The share's root.
    pub fn share_root(&self) -> PathBuf {
        self.dir.path().join("share")
    }

    /// The command line, for those who want to see it fail.
    pub fn command(&self) -> Command {
        let strata = env!("CARGO_BIN_EXE_strata");
        let mut command = match self.launcher.split_first() {
            None => Command::new(strata),
            Some((launcher, words)) => {
                let mut command = Command::new(launcher);
                command.args(words).arg(strata);
                command
            }
        };
        command
            .arg("standalone")
            .arg("--dir")
            .arg(self.dir())
            .args(["--share", &self.source, "--node-id", "test-node"])
            .arg("--qemu-img")
            .arg(qemu_img())
            .arg("--qemu-storage-daemon")
            .arg(&self.storage_daemon)
            .args(&self.extra);
        command
    }

    /// Starts standalone and waits until it says that it is ready.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let mut child = self.command().stdout(Stdio::piped()).spawn().expect("the strata program");
        let stdout = child.stdout.take().unwrap();
        self.process = Some(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready: "), "standalone did not get ready: {line:?}");
    }

    /// The process of standalone itself.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// The process of a role: one whose command line holds this verb and our folder.
    pub fn role(&self, verb: &str) -> Option<u32> {
        leftovers::processes(&self.dir())
            .into_iter()
            .find(|(_, line)| line.iter().any(|arg| arg == verb))
            .map(|(pid, _)| pid)
    }

    /// SIGTERM, and the wait for the end.
    pub fn stop(&mut self) {
        signal(self.pid(), libc::SIGTERM);
        self.reap();
    }

    /// SIGKILL: nobody cleans up.
    pub fn kill(&mut self) {
        signal(self.pid(), libc::SIGKILL);
        self.process.take().unwrap().wait().unwrap();
    }

    /// Waits for the end, which must be an orderly one.
    pub fn reap(&mut self) {
        let mut child = self.process.take().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "standalone ended with {status}");
                return;
            }
            assert!(Instant::now() < deadline, "standalone did not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Registers another node, whose agent is this one's.
    pub fn add_node(&self, name: &str) {
        let nodes = self.share_root().join("nodes");
        let here = std::fs::read_to_string(nodes.join("test-node.json")).unwrap();
        std::fs::write(nodes.join(format!("{name}.json")), here.replace("test-node", name)).unwrap();
    }

    /// Runs `--teardown` to its end.
    pub fn teardown(&self) {
        let output = self.command().arg("--teardown").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "teardown failed: {said}");
    }

    /// Mounts, loop devices and processes that have to do with our folder.
    pub fn leftovers(&self) -> Vec<String> {
        leftovers::leftovers(self.dir.path())
    }

    /// A channel to the CSI socket.
    pub fn channel(&self) -> Channel {
        uds::channel(&self.dir().join("csi.sock")).unwrap()
    }

    /// CSI Identity.
    pub fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.channel())
    }

    /// CSI Controller.
    pub fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel())
    }

    /// CSI Node.
    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.take() {
            signal(child.id(), libc::SIGTERM);
            let _ = child.wait();
        }
        let torn = self.command().arg("--teardown").output();
        let left = self.leftovers();
        if !left.is_empty() {
            let said = torn.map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
            // A second panic while panicking would hide the first.
            let message = format!("left behind: {left:#?}\nteardown said: {said:?}");
            if std::thread::panicking() {
                eprintln!("{message}");
            } else {
                panic!("{message}");
            }
        }
    }
}

/// Sends a signal to a process that the test started.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: kill touches no memory of ours.
    let sent = unsafe { libc::kill(pid as i32, signal) };
    assert!(sent == 0, "cannot signal {pid}: {}", std::io::Error::last_os_error());
}

/// Waits for something to come true.
pub fn eventually(what: &str, limit: Duration, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !check() {
        assert!(Instant::now() < deadline, "{what}: not within {} s", limit.as_secs());
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// A program of a test's own.
pub fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The permission bits of a file.
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
