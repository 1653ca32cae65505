//! The one node of this cluster: its folders, where pods' mounts are seen, and its network.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Short, for the paths of sockets; in the namespace of scripts/with-glusterfs, whose /run is its own.
const ROOT: &str = "/run/e2e";
/// The node's address on the pods' network.
pub const ADDRESS: &str = "10.98.0.1";
const BRIDGE: &str = "e2e-pods";

/// Taken down when dropped.
pub struct Machine {
    next_address: u8,
    /// On a disk, and where the run looks for what was left behind.
    _folder: tempfile::TempDir,
}

impl Machine {
    pub fn new() -> Result<Machine> {
        let folder = tempfile::Builder::new().prefix("strata-e2e-").tempdir_in(std::env::temp_dir())?;
        fs::create_dir_all(ROOT)?;
        mount(&["--bind", path(folder.path()), ROOT])?;
        let machine = Machine { next_address: 2, _folder: folder };
        for shared in ["state", "run", "kubelet"] {
            let at = machine.path(shared);
            fs::create_dir(&at)?;
            mount(&["--bind", path(&at), path(&at)])?;
            mount(&["--make-shared", path(&at)])?;
        }
        for of_kubelet in ["plugins", "plugins_registry", "pods"] {
            fs::create_dir(machine.path("kubelet").join(of_kubelet))?;
        }
        fs::create_dir(machine.path("pods"))?;
        fs::set_permissions(machine.path("pods"), fs::Permissions::from_mode(0o700))?;
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{ADDRESS}/24"), "dev", BRIDGE])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        Ok(machine)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(ROOT).join(name)
    }

    /// A network namespace on the bridge, and its address.
    pub fn network(&mut self, name: &str) -> Result<Network> {
        let number = self.next_address;
        self.next_address = number.checked_add(1).context("all addresses are used")?;
        let network = Network {
            name: name.to_owned(),
            port: format!("e2e-{number}"),
            address: format!("10.98.0.{number}"),
        };
        let (port, address) = (&network.port, format!("{}/24", network.address));
        ip(&["netns", "add", name])?;
        ip(&["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["link", "set", port, "master", BRIDGE, "up"])?;
        ip(&["-n", name, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(network)
    }

    /// What is mounted under the node's folders but these folders themselves.
    pub fn mounts(&self) -> Result<Vec<String>> {
        let all = fs::read_to_string("/proc/self/mounts")?;
        let paths = all.lines().filter_map(|line| line.split(' ').nth(1));
        let own = ["state", "run", "kubelet"].map(|name| self.path(name));
        let inside = |at: &&str| {
            at.starts_with(&format!("{ROOT}/")) && !own.iter().any(|own| own.as_path() == Path::new(at))
        };
        Ok(paths.filter(inside).map(str::to_owned).collect())
    }
}

/// Keeps what the containers have logged, where E2E_LOGS wants it.
fn keep_logs() -> Result<()> {
    let Some(to) = std::env::var_os("E2E_LOGS").filter(|to| !to.is_empty()) else { return Ok(()) };
    fs::create_dir_all(&to)?;
    for pod in fs::read_dir(Path::new(ROOT).join("pods"))?.flatten() {
        for container in fs::read_dir(pod.path().join("containers"))?.flatten() {
            let name =
                [pod.file_name(), container.file_name()].map(|name| name.to_string_lossy().into_owned());
            fs::copy(container.path().join("log"), Path::new(&to).join(name.join(".") + ".log"))?;
        }
    }
    for file in
        fs::read_dir(ROOT)?.flatten().filter(|file| file.path().extension().is_some_and(|end| end == "log"))
    {
        fs::copy(file.path(), Path::new(&to).join(file.file_name()))?;
    }
    Ok(())
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = keep_logs() {
            eprintln!("the logs are not kept: {error:#}");
        }
        for at in self.mounts().unwrap_or_default().iter().rev() {
            let _ = Command::new("umount").args(["-l", at]).output();
        }
        for name in ["kubelet", "run", "state"] {
            let _ = Command::new("umount").arg(self.path(name)).output();
        }
        let _ = Command::new("umount").arg(ROOT).output();
        let _ = Command::new("ip").args(["link", "del", BRIDGE]).output();
    }
}

/// Taken down when dropped.
pub struct Network {
    pub name: String,
    port: String,
    pub address: String,
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.port]).output();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("made of letters")
}

fn mount(arguments: &[&str]) -> Result<()> {
    run("mount", arguments)
}

fn ip(arguments: &[&str]) -> Result<()> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("{program} is missing"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
    Ok(())
}
