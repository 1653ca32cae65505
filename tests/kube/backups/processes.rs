//! Processes of the program beside a world.

use super::world::World;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Killed when dropped.
pub struct Process(pub Child);

impl Process {
    pub fn start(arguments: &[&str], log: &Path) -> Process {
        Process::start_with(arguments, log, &[])
    }

    fn start_with(arguments: &[&str], log: &Path, environment: &[(&str, &str)]) -> Process {
        let log = std::fs::File::create(log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.args(arguments).envs(environment.iter().copied()).stdout(Stdio::null()).stderr(log);
        command.env("STRATA_QEMU_IMG", crate::support::qemu_img());
        command.env("STRATA_QEMU_STORAGE_DAEMON", crate::support::qemu_storage_daemon());
        Process(command.spawn().unwrap())
    }

    /// The most memory that it has had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for a socket.
fn until_there(socket: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !Path::new(socket).exists() {
        assert!(Instant::now() < deadline, "no {socket}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The data plane, which opens the share for the others.
pub fn data_plane(world: &World) -> (Process, String) {
    let dir = world.domain.dir.path();
    let socket = dir.join("data.sock").display().to_string();
    let state = dir.join("data").display().to_string();
    let process = Process::start(&["data", "--socket", &socket, "--dir", &state], &dir.join("data.log"));
    until_there(&socket);
    (process, socket)
}

/// As whom a process speaks to the API, and where it is at home.
pub struct Access {
    pub kubeconfig: PathBuf,
    pub namespace: String,
}

impl Access {
    fn arguments(&self) -> Vec<String> {
        let kubeconfig = self.kubeconfig.display().to_string();
        ["--kubeconfig", &kubeconfig, "--namespace", &self.namespace].map(str::to_owned).into()
    }
}

fn common(world: &World, data: &str, access: &Access) -> Vec<String> {
    let share = format!("dir:{}", world.domain.dir.path().join("share").display());
    let own = ["--share", &share, "--data-socket", data, "--driver-name", &world.driver];
    own.map(str::to_owned).into_iter().chain(access.arguments()).collect()
}

/// `strata backup serve`.
pub fn serve(world: &World, data: &str, access: &Access, identity: &str) -> Process {
    serve_with(world, data, access, identity, &[])
}

/// The same with more variables; it logs to `IDENTITY.log`.
pub fn serve_with(
    world: &World,
    data: &str,
    access: &Access,
    identity: &str,
    environment: &[(&str, &str)],
) -> Process {
    let mut arguments: Vec<String> =
        ["backup", "serve", "--identity", identity, "--lease-seconds", "3"].map(str::to_owned).into();
    arguments.extend(common(world, data, access));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let log = world.domain.dir.path().join(format!("{identity}.log"));
    Process::start_with(&arguments, &log, environment)
}

/// `strata controller`, which takes its repositories from the API; and its socket.
pub fn controller(world: &World, data: &str, access: &Access) -> (Process, PathBuf) {
    controller_with(world, data, access, &[])
}

/// The same with more variables; it logs to `controller.log`.
pub fn controller_with(
    world: &World,
    data: &str,
    access: &Access,
    environment: &[(&str, &str)],
) -> (Process, PathBuf) {
    let dir = world.domain.dir.path();
    let socket = dir.join("controller.sock");
    let mut arguments: Vec<String> =
        ["controller", "--kube-repositories", "--socket", socket.to_str().unwrap()].map(str::to_owned).into();
    arguments.extend(common(world, data, access));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let process = Process::start_with(&arguments, &dir.join("controller.log"), environment);
    until_there(socket.to_str().unwrap());
    (process, socket)
}

/// A command that ends; what it prints.
pub fn command(arguments: &[&str], access: &Access) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    let output = command.args(arguments).args(access.arguments()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
