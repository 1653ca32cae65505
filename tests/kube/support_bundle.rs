//! `strata support-bundle` on a real API: what is in it, and what must not be.

use crate::apiserver::ApiServer;
use crate::backups::{Access, World, controller, data_plane};
use crate::support::run;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use strata::data::{DataClient, RemoteDaemons};
use strata::qsd::{DaemonHost, DaemonName};
use tokio::runtime::Handle;
use uuid::Uuid;

/// In everything that is secret.
const SECRET: &str = "hunter2-of-the-test";

fn with_secrets(world: &World) -> String {
    let (namespace, driver) = (&world.namespace, &world.driver);
    let url = format!("https://me:{SECRET}@s3.example/");
    let objects = [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": namespace},
            "stringData": {"AWS_SECRET_ACCESS_KEY": SECRET}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": namespace},
            "data": {"plain": SECRET}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "strata-node-1", "namespace": namespace,
            "annotations": {"example.com/token": SECRET, "kubectl.kubernetes.io/last-applied-configuration": SECRET}},
            "spec": {"nodeName": "nowhere", "containers": [{"name": "node", "image": "strata",
                "args": ["node", format!("--api-token={SECRET}"), format!("--proxy={url}")],
                "env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": SECRET}]}]}}),
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": format!("c-{driver}")},
            "provisioner": driver, "parameters": {"password": SECRET}}),
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": format!("d-{driver}")},
            "provisioner": "others.example.com"}),
        json!({"apiVersion": "strata.dev/v1alpha1", "kind": "BackupRepository", "metadata": {"name": world.repository},
            "spec": {"s3": {"endpoint": format!("https://me:{SECRET}@s3.example"), "bucket": "backups",
                "secretRef": {"name": "keys"}}}}),
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "said", "namespace": namespace},
            "involvedObject": {"kind": "VolumeBackup", "name": "b", "namespace": namespace},
            "message": format!("cannot reach {url}: Authorization: Bearer {SECRET}")}),
    ];
    objects.map(|object| object.to_string()).join("\n---\n")
}

/// A storage daemon of the data plane, without a volume. Ended when dropped.
struct Daemon {
    name: DaemonName,
    daemons: RemoteDaemons,
}

impl Daemon {
    fn start(socket: &str) -> Daemon {
        let daemons = RemoteDaemons::new(DataClient::new(Path::new(socket)).unwrap(), Handle::current());
        let name = DaemonName::of("test", "s1", Uuid::new_v4());
        tokio::task::block_in_place(|| daemons.start(&name)).unwrap();
        Daemon { name, daemons }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = tokio::task::block_in_place(|| self.daemons.stop(&self.name));
    }
}

/// The files of a bundle, by name.
fn unpacked(bundle: &Path, to: &Path) -> BTreeMap<String, String> {
    std::fs::create_dir(to).unwrap();
    run("tar", &["-xzf", bundle.to_str().unwrap(), "-C", to.to_str().unwrap()]);
    let listed = run("find", &[to.to_str().unwrap(), "-type", "f"]);
    let named = |path: &str| {
        let name = path.strip_prefix(to.join("strata-support/").to_str().unwrap()).unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    };
    listed.lines().map(named).collect()
}

fn bundle(world: &World, access: &Access, socket: &str, name: &str) -> BTreeMap<String, String> {
    let dir = world.domain.dir.path();
    let file = dir.join(format!("{name}.tar.gz"));
    let log = dir.join("gluster.log");
    std::fs::write(
        &log,
        format!("mount of https://me:{SECRET}@host failed\nsecret_key={SECRET}\nthe last line\n"),
    )
    .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    command.arg("support-bundle").args(["--file", file.to_str().unwrap(), "--driver-name", &world.driver]);
    command.args(["--data-socket", socket, "--data-dir", dir.join("data").to_str().unwrap()]);
    command.arg("--share").arg(format!("dir:{}", dir.join("share").display()));
    command.args(["--log", log.to_str().unwrap(), "--metrics-url", "http://127.0.0.1:9/metrics"]);
    command.arg("--kubeconfig").arg(&access.kubeconfig).args(["--namespace", &access.namespace]);
    command.env("AWS_SECRET_ACCESS_KEY", SECRET).env("STRATA_QEMU_IMG", crate::support::qemu_img());
    command.env("STRATA_QEMU_STORAGE_DAEMON", crate::support::qemu_storage_daemon());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains(SECRET), "{said}");
    unpacked(&file, &dir.join(name))
}

fn document(files: &BTreeMap<String, String>, name: &str) -> Value {
    let text =
        files.get(name).unwrap_or_else(|| panic!("no {name}: {:?} {}", files.keys(), files["errors.txt"]));
    serde_json::from_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bundle_tells_much_and_no_secret() {
    let world = World::new().await;
    world.server.apply(&with_secrets(&world)).await;
    let volume = world.volume("v", 1 << 20);
    let (_data, socket) = data_plane(&world);
    let admin = Access { kubeconfig: world.server.kubeconfig(), namespace: world.namespace.clone() };
    // It has the data plane mount the share.
    let (_controller, _) = controller(&world, &socket, &admin);
    let daemon = Daemon::start(&socket);
    let files = bundle(&world, &admin, &socket, "whole");
    let queries = document(&files, &format!("data/daemons/{}.json", daemon.name.as_str()));
    assert!(queries["query-version"]["qemu"]["major"].is_number(), "{queries}");
    drop(daemon);
    for (name, text) in &files {
        assert!(!text.contains(SECRET), "{name}: {text}");
    }
    let share =
        files.keys().find_map(|name| name.strip_prefix("shares/")?.split('/').next()).unwrap().to_owned();
    let listed = document(&files, &format!("shares/{share}/volumes.json"));
    assert!(listed[0]["handle"].to_string().contains(&volume.to_string()), "{listed}");
    for part in ["volumes-show", "volumes-check"] {
        let reports = document(&files, &format!("shares/{share}/{part}.json"));
        assert_eq!((&reports["volumes"], &reports["looked_at"]), (&json!(1), &json!(1)), "{reports}");
    }
    assert_eq!(document(&files, &format!("shares/{share}/check.json"))["safe"], json!(true));
    assert!(files[&format!("shares/{share}/nodes.json")].contains("node-1"));
    let data = document(&files, "data/data.json");
    assert_eq!(data["shares"].as_array().unwrap().len(), 1, "{data}");
    let processes = document(&files, "processes.json").to_string();
    assert!(processes.contains("--kube-repositories"), "flags of processes: {processes}");
    assert!(
        files.iter().any(|(name, text)| name.ends_with("gluster.log") && text.ends_with("the last line\n"))
    );
    let classes = document(&files, "kubernetes/storageclasses.json");
    assert_eq!(classes.as_array().unwrap().len(), 1, "{classes}");
    let repositories = document(&files, "kubernetes/backuprepositories.json").to_string();
    assert!(
        repositories.contains("[redacted]@s3.example") && repositories.contains("keys"),
        "{repositories}"
    );
    assert!(files["kubernetes/events.json"].contains("cannot reach https://[redacted]@s3.example"));
    let pods = document(&files, &format!("kubernetes/{}/pods.json", world.namespace));
    assert_eq!(pods[0]["metadata"]["name"], "strata-node-1");
    assert!(files.keys().all(|name| !name.contains("secret") && !name.contains("configmap")));
    // What is not there is told: metrics, and the logs of a pod that no kubelet runs.
    let missing = &files["errors.txt"];
    for part in ["metrics/", "logs/strata-node-1/node.log"] {
        assert!(missing.lines().any(|line| line.starts_with(part)), "{part}: {missing}");
    }
}

/// With the rights that it has, nothing more; without a data plane; all else is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_denied_or_away_is_a_line_and_not_the_end() {
    let world = World::new().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "nobody", "namespace": world.namespace}});
    world.server.apply(&account.to_string()).await;
    let server: &ApiServer = &world.server;
    let kubeconfig = server.kubeconfig_of(&world.namespace, "nobody").await;
    let access = Access { kubeconfig, namespace: world.namespace.clone() };
    let files = bundle(&world, &access, "/nonexistent/data.sock", "denied");
    let missing = &files["errors.txt"];
    for part in ["data:", "kubernetes/persistentvolumes.json:", "kubernetes/backuprepositories.json:"] {
        assert!(missing.lines().any(|line| line.starts_with(part)), "{part}: {missing}");
    }
    assert!(missing.contains("forbidden"), "{missing}");
    assert!(files.keys().any(|name| name.ends_with("/volumes.json")), "of the share that was named");
}
