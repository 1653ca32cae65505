//! Three servers and two nodes, each a machine of its own, and a volume of three copies between them.

use crate::driver::Driver;
use crate::eventually;
use crate::space::{Space, Switch};
use crate::support;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// As fast as GlusterFS lets go of a node that is gone.
const QUICK: &[(&str, &str)] = &[
    ("network.ping-timeout", "5"),
    ("server.keepalive-time", "2"),
    ("server.keepalive-interval", "1"),
    ("server.keepalive-count", "3"),
    ("server.tcp-user-timeout", "6"),
    ("cluster.quorum-type", "auto"),
];

/// A server.
pub struct Server {
    pub space: Space,
    glusterd: Child,
}

impl Server {
    fn new(number: u8, dir: &Path) -> Server {
        let name = format!("s{number}");
        let space = Space::new(&name, number, dir.join(&name), &[]);
        let log = std::fs::File::create(space.dir.join("glusterd.out")).unwrap();
        let glusterd =
            space.command("glusterd").arg("-N").stdout(log.try_clone().unwrap()).stderr(log).spawn();
        Server { space, glusterd: glusterd.expect("glusterd: run scripts/ensure-packages") }
    }

    fn answers(&self) -> bool {
        let mut command = self.space.command("timeout");
        command.args(["5", "gluster", "--mode=script", "volume", "list"]);
        command.output().is_ok_and(|output| output.status.success())
    }

    /// Its process for one brick.
    pub fn brick(&self, volume: &str) -> u32 {
        self.space.process(&["glusterfsd", &format!("--volfile-id {volume}.")])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.glusterd.kill();
        let _ = self.glusterd.wait();
    }
}

/// A node with its driver.
pub struct Node {
    pub driver: Driver,
    pub space: Space,
}

impl Node {
    fn new(name: &str, number: u8, dir: &Path, other: &str) -> Node {
        // The sockets of one machine are not there for another.
        let hidden = dir.join(other);
        let space = Space::new(name, number, dir.join(name), &[&hidden]);
        // Runs the driver's program over there.
        let program = space.dir.join("strata");
        let pid = space.pid();
        let strata = env!("CARGO_BIN_EXE_strata");
        std::fs::write(&program, format!("#!/bin/sh\nexec nsenter -t {pid} -n -m -- {strata} \"$@\"\n"))
            .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let driver = Driver::prepare(&program, &space.dir.join("d"), &[], name);
        Node { driver, space }
    }

    /// A folder for a volume.
    pub fn place(&self, name: &str) -> PathBuf {
        self.space.dir.join(name)
    }

    /// Where the driver has mounted a share, as seen from here.
    pub fn mount_of(&self, source: &str) -> PathBuf {
        let table = std::fs::read_to_string(format!("/proc/{}/mounts", self.space.pid())).unwrap();
        let lines = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let fitting = lines.filter(|words| words[0] == source && words[1].contains("/d/data/mnt/"));
        let mounts: Vec<_> = fitting.filter(|words| !words[1].ends_with(".second")).collect();
        let [mount] = &mounts[..] else { panic!("{source} is mounted {} times", mounts.len()) };
        self.space.path(Path::new(mount[1]))
    }

    /// The process of a role.
    pub fn role(&self, role: &str) -> u32 {
        self.space.process(&[env!("CARGO_BIN_EXE_strata"), &format!(" {role} "), "--log-format"])
    }

    /// Waits until the machine's mount of the share has all of the servers again.
    pub fn sees(&self, source: &str) {
        let graph = self.mount_of(source).join(".meta/graphs/active");
        let connected = |brick: usize| {
            let state = std::fs::read_to_string(graph.join(format!("images-client-{brick}/private")));
            state.is_ok_and(|state| state.lines().any(|line| line.trim() == "connected = 1"))
        };
        // A client that has not noticed the cut yet is connected too; it tries again after 3 s at the latest.
        let mut since = Instant::now();
        eventually("the share is back", Duration::from_secs(40), || {
            if !(0..3).all(connected) {
                since = Instant::now();
            }
            since.elapsed() > Duration::from_secs(4)
        });
    }
}

/// All of it. What is dropped first comes first.
pub struct World {
    pub nodes: Vec<Node>,
    pub servers: Vec<Server>,
    /// HOST:/VOLUME.
    pub share: String,
    pub dir: TempDir,
    _switch: Switch,
}

impl World {
    pub fn new() -> World {
        support::need_root();
        // Proves that this runs in namespaces of its own: names of machines and links are global.
        let _ = support::gluster_share();
        let dir = support::scratch();
        let switch = Switch::new();
        let servers: Vec<Server> = (1..=3).map(|number| Server::new(number, dir.path())).collect();
        eventually("three servers", Duration::from_secs(30), || servers.iter().all(Server::answers));
        let share = format!("{}:/images", servers[0].space.address);
        let world = World { nodes: Vec::new(), servers, share, dir, _switch: switch };
        for server in &world.servers[1..] {
            world.gluster(&["peer", "probe", &server.space.address]);
        }
        eventually("a pool of three", Duration::from_secs(30), || {
            world.gluster(&["peer", "status"]).matches("Peer in Cluster (Connected)").count() == 2
        });
        world.create_volume("images");
        world
    }

    /// Runs gluster(8).
    pub fn gluster(&self, words: &[&str]) -> String {
        self.servers[0].space.run("gluster", &[&["--mode=script"], words].concat())
    }

    /// Made, not safe yet, and not started.
    fn create_volume(&self, name: &str) {
        let bricks = self
            .servers
            .iter()
            .map(|server| format!("{}:{}/brick-{name}", server.space.address, server.space.dir.display()));
        let bricks: Vec<String> = bricks.collect();
        let mut words = vec!["volume", "create", name, "replica", "3"];
        words.extend(bricks.iter().map(String::as_str));
        words.push("force");
        self.gluster(&words);
        for (option, value) in QUICK {
            self.gluster(&["volume", "set", name, option, value]);
        }
        self.gluster(&["volume", "start", name]);
    }

    /// Two machines whose drivers are not started yet.
    pub fn add_nodes(&mut self) {
        let dir = self.dir.path();
        for name in ["n1", "n2"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        self.nodes = vec![Node::new("n1", 11, dir, "n2"), Node::new("n2", 12, dir, "n1")];
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Whatever a test left stopped or unplugged.
        let machines = self.servers.iter().map(|s| &s.space).chain(self.nodes.iter().map(|n| &n.space));
        for space in machines {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| space.join()));
            for (pid, _) in space.processes() {
                crate::space::signal(pid, libc::SIGCONT);
            }
        }
        // The drivers while their servers still run; mounts go with them.
        self.nodes.clear();
    }
}
