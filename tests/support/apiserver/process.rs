//! etcd and kube-apiserver, as processes of a test.

use super::assets::program;
use super::keys::Keys;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Ended when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program that logs into a file of the folder.
    pub fn start(name: &str, folder: &Path, arguments: &[String]) -> Process {
        let log = folder.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).expect("a log file");
        let mut command = Command::new(program(name));
        // etcd insists on being told that it may run elsewhere than on amd64.
        command.env("ETCD_UNSUPPORTED_ARCH", etcd_architecture());
        command.args(arguments).current_dir(folder).stdin(Stdio::null());
        let child = command.stdout(out.try_clone().expect("a descriptor")).stderr(out).spawn();
        Process { child: child.unwrap_or_else(|error| panic!("{name} does not start: {error}")), log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said last, once it has ended by itself.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().expect("a child of ours")?;
        Some(format!("{status}:\n{}", self.last_words()))
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What it holds goes with the test's folder: there is nothing to end in order.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn etcd_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        other => other,
    }
}

/// Ports that nobody uses now.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    held.map(|listener| listener.local_addr().expect("an address").port())
}

pub fn etcd(folder: &Path, client: u16, peer: u16) -> Process {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let arguments = [
        "--data-dir=etcd".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ];
    Process::start("etcd", folder, &arguments)
}

pub fn kube_apiserver(folder: &Path, keys: &Keys, (address, port): (&str, u16), etcd: u16) -> Process {
    let path = |name: &str| keys.path(name).display().to_string();
    let arguments = [
        format!("--etcd-servers=http://127.0.0.1:{etcd}"),
        format!("--bind-address={address}"),
        // Without it the server looks for a default route, which a network namespace has not.
        "--advertise-address=127.0.0.1".to_owned(),
        // The endpoints of the service `kubernetes` may not be loopback addresses; nobody asks for them.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--secure-port={port}"),
        format!("--cert-dir={}", folder.display()),
        format!("--tls-cert-file={}", path("server.crt")),
        format!("--tls-private-key-file={}", path("server.key")),
        format!("--token-auth-file={}", path("tokens.csv")),
        "--authorization-mode=RBAC".to_owned(),
        // As every cluster has it that nodes' pods mount anything in.
        "--allow-privileged=true".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--audit-policy-file={}", path("audit.json")),
        format!("--audit-log-path={}", path("audit.log")),
        format!("--service-account-key-file={}", path("accounts.pub")),
        format!("--service-account-signing-key-file={}", path("accounts.key")),
        "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
        // Pods would wait for accounts' Secrets that no controller makes here.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
    ];
    Process::start("kube-apiserver", folder, &arguments)
}
