//! The controller and the node talk over the network, with certificates that change under them.

use crate::calls::{NODE, create_request, mount};
use crate::driver::{Driver, eventually};
use crate::support;
use crate::support::writer::{Writer, verify_files};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use strata::agent::{AgentClient, CUT_LIMIT};
use strata::rpc::tls::{Certificates, Side};
use strata::volume::{AgentError, Agents, VolumeHandle};
use tokio::runtime::Handle;

const CONTROLLER_NAME: &str = "controller.csi.strata.dev";
const NODE_NAME: &str = "node.csi.strata.dev";

fn make_certificates(dir: &Path) {
    let made =
        Command::new(env!("CARGO_BIN_EXE_strata")).arg("certs").arg("--dir").arg(dir).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A folder becomes what another one is, by links that are swapped, as the kubelet does it.
fn become_like(dir: &Path, other: &Path) {
    for role in ["controller", "node"] {
        let (version, next) = ("..renewed", dir.join(role).join("..next"));
        std::fs::create_dir(dir.join(role).join(version)).unwrap();
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            std::fs::copy(other.join(role).join(file), dir.join(role).join(version).join(file)).unwrap();
        }
        std::os::unix::fs::symlink(version, &next).unwrap();
        std::fs::rename(next, dir.join(role).join("..data")).unwrap();
    }
}

/// Asks the running agent, as whoever has these certificates, to let go of a volume.
async fn release(driver: &Driver, folder: &Path, node: &str, volume: &str) -> Result<(), AgentError> {
    let record = std::fs::read(driver.share_root().join(format!("nodes/{NODE}.json"))).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let address = record["agent"].as_str().unwrap().to_owned();
    assert!(address.starts_with("https://127.0.0.1:"), "{address}");
    let certificates = Certificates::open(folder, Side::Client, CONTROLLER_NAME, NODE_NAME).unwrap();
    let agents =
        AgentClient::new(Handle::current(), CUT_LIMIT).with_certificates(Some(Arc::new(certificates)));
    let (node, handle) = (node.parse().unwrap(), volume.parse::<VolumeHandle>().unwrap());
    tokio::task::spawn_blocking(move || agents.release(&node, &address, &handle.share, handle.volume))
        .await
        .unwrap()
}

/// A volume in use is cut and grown over the network; both go over to another authority; nobody else gets in.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_in_use_is_cut_over_the_network_and_certificates_change_under_it() {
    support::need_root();
    let dir = support::scratch();
    let (certs, next) = (dir.path().join("certs"), dir.path().join("next"));
    make_certificates(&certs);
    make_certificates(&next);
    let share = dir.path().join("share");
    std::fs::create_dir(&share).unwrap();
    let source = format!("dir:{}", share.display());
    let tls = certs.display().to_string();
    let driver = Driver::on(dir, source, &["--agent-listen", "tcp://127.0.0.1:0", "--agent-tls-dir", &tls]);
    let id = driver.create(create_request("pvc-1")).await.unwrap().volume_id;
    let (staging, target) = driver.bring_up(&id, "v", mount("ext4")).await;
    let writer = Writer::start(&target);
    eventually("some files", Duration::from_secs(30), || writer.written() > 20);
    let at_cut = writer.written();
    let snapshot = driver.snapshot(&id, "snap-1").await.unwrap();
    writer.goes_on();

    // The node's own certificate opens no agent, nor does one of another authority, and no node speaks for another.
    let refused = release(&driver, &certs.join("node"), NODE, &id).await.unwrap_err().to_string();
    assert!(refused.contains("does not accept"), "{refused}");
    let refused = release(&driver, &next.join("controller"), NODE, &id).await.unwrap_err().to_string();
    assert!(refused.contains("certificate"), "{refused}");
    let refused = release(&driver, &certs.join("controller"), "other-node", &id).await.unwrap_err();
    assert!(refused.to_string().contains("meant for node other-node"), "{refused}");
    writer.goes_on();

    become_like(&certs, &next);
    driver.snapshot(&id, "snap-2").await.unwrap();
    writer.goes_on();
    let total = writer.stop();
    verify_files(&target, total);
    driver.bring_down(&id, &staging, &target).await;
    let clone = driver.create_from("pvc-2", &snapshot.snapshot_id).await.unwrap().volume_id;
    let (staging, target) = driver.bring_up(&clone, "c", mount("ext4")).await;
    verify_files(&target, at_cut);
    driver.bring_down(&clone, &staging, &target).await;
}

/// Over the network without certificates: refused before anything listens, with what to do.
#[test]
fn an_agent_without_certificates_does_not_listen_on_the_network() {
    let dir = support::scratch();
    let output = Command::new(env!("CARGO_BIN_EXE_strata"))
        .args(["node", "--node-id", "n1", "--agent-listen", "tcp://127.0.0.1:0"])
        .args(["--share", &format!("dir:{}", dir.path().display())])
        .arg(format!("--dir={}", dir.path().join("node").display()))
        .arg(format!("--socket={}", dir.path().join("csi.sock").display()))
        .arg(format!("--data-socket={}", dir.path().join("data.sock").display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--agent-tls-dir"), "{said}");
}
