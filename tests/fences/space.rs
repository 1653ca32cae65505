//! A machine of its own: a network namespace on one switch, and a mount namespace with its own state of GlusterFS.

use crate::support::run;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SWITCH: &str = "fences";
/// The first three bytes of every address.
const NETWORK: &str = "10.98.0";

/// What the machines are plugged into.
pub struct Switch;

impl Switch {
    pub fn new() -> Switch {
        ip("a bridge", &["link", "add", SWITCH, "type", "bridge"]);
        ip("a bridge", &["link", "set", SWITCH, "up"]);
        Switch
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", SWITCH]).output();
    }
}

/// Runs ip(8); what the kernel of this machine does not have is said.
fn ip(what: &str, arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("iproute2: run scripts/ensure-packages");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "this test needs network namespaces, veth and a bridge, and could not make {what} \
         (ip {arguments:?}): {said}"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A machine.
pub struct Space {
    name: String,
    pub address: String,
    /// Its state, and what is only its own to see.
    pub dir: PathBuf,
    holder: Child,
}

impl Space {
    /// `hidden` is not there for this machine.
    pub fn new(name: &str, number: u8, dir: PathBuf, hidden: &[&Path]) -> Space {
        for sub in ["lib", "log", "run"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        let address = format!("{NETWORK}.{number}");
        ip("a network namespace", &["netns", "add", name]);
        ip("a link", &["link", "add", &port(name), "type", "veth", "peer", "name", "eth0", "netns", name]);
        ip("a link", &["link", "set", &port(name), "master", SWITCH, "up"]);
        for words in [
            &["addr", "add", &format!("{address}/24"), "dev", "eth0"][..],
            &["link", "set", "eth0", "up"],
            &["link", "set", "lo", "up"],
        ] {
            ip("a link", &[&["-n", name], words].concat());
        }
        let holder = hold(name, &dir, hidden);
        Space { name: name.to_owned(), address, dir, holder }
    }

    /// The process whose namespaces these are.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// A command on this machine.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "-n", "-m", "--"]).arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a program here and expects it to succeed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.command(program);
        command.args(arguments);
        let output = strata::host::exec::run_ok(command, Duration::from_secs(60))
            .unwrap_or_else(|error| panic!("{} on {}: {error}", program, self.name));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A path as this machine sees it, with its mounts.
    pub fn path(&self, path: &Path) -> PathBuf {
        Path::new("/proc").join(self.pid().to_string()).join("root").join(path.strip_prefix("/").unwrap())
    }

    /// Pulls the plug.
    pub fn cut(&self) {
        run("ip", &["link", "set", &port(&self.name), "down"]);
    }

    /// Puts it back.
    pub fn join(&self) {
        run("ip", &["link", "set", &port(&self.name), "up"]);
    }

    /// Every process on this machine, with its command line.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let network = |pid: u32| fs::metadata(format!("/proc/{pid}/ns/net")).map(|meta| meta.ino()).ok();
        let ours = network(self.pid());
        let all = fs::read_dir("/proc").unwrap().flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let here = numbers.filter(|pid| network(*pid) == ours && *pid != self.pid());
        here.map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&line).replace('\0', " "))
        })
        .collect()
    }

    /// The one process here whose command line has all of these words.
    pub fn process(&self, words: &[&str]) -> u32 {
        let all = self.processes();
        let fitting: Vec<_> =
            all.iter().filter(|(_, line)| words.iter().all(|word| line.contains(word))).collect();
        let [(pid, _)] = fitting[..] else { panic!("{words:?} on {}: {all:#?}", self.name) };
        *pid
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            signal(pid, libc::SIGKILL);
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = Command::new("ip").args(["link", "del", &port(&self.name)]).output();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

fn port(name: &str) -> String {
    format!("fence-{name}")
}

/// A process that keeps the namespaces.
fn hold(name: &str, dir: &Path, hidden: &[&Path]) -> Child {
    let mut script = String::from("set -e\nmkdir -p /var/lib/glusterd /var/log/glusterfs\n");
    for path in hidden {
        script += &format!("mount -t tmpfs tmpfs '{}'\n", path.display());
    }
    let dir = dir.display();
    script += &format!(
        "mount --bind '{dir}/lib' /var/lib/glusterd\nmount --bind '{dir}/log' /var/log/glusterfs\n\
         mount --bind '{dir}/run' /run\nmkdir -p /run/gluster /run/lock\ntouch '{dir}/ready'\nexec sleep infinity\n"
    );
    let mut command = Command::new("ip");
    command.args(["netns", "exec", name, "unshare", "-m", "--propagation", "private", "sh", "-c", &script]);
    let mut child = command.stdin(Stdio::null()).spawn().expect("ip netns exec");
    crate::eventually("a machine's namespaces", Duration::from_secs(10), || {
        let ended = child.try_wait().expect("a child of ours");
        assert!(ended.is_none(), "this test needs mount namespaces: unshare -m ended with {ended:?}");
        Path::new(&format!("{dir}/ready")).exists()
    });
    child
}

/// Sends a signal to a process that the test started; gone already is as good.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: kill touches no memory of ours.
    unsafe { libc::kill(pid as i32, signal) };
}
