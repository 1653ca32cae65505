//! The roles hand each other paths: each of these is the same place in every container that uses it.

use crate::helm::rendered;
use crate::manifest::{Container, Manifest};
use std::collections::BTreeSet;

/// Paths that only the container itself uses, or kubelet.
const OWN: [&str; 3] = ["shares-file", "agent-tls-dir", "csi-address"];

fn daemon_set<'a>(manifests: &'a [Manifest], role: &str) -> &'a Manifest {
    let name = format!("strata-{role}");
    manifests.iter().find(|manifest| manifest.kind == "DaemonSet" && manifest.name == name).unwrap()
}

fn main_container(manifest: &Manifest) -> Container<'_> {
    manifest.containers().next().unwrap()
}

/// The path arguments that the other role uses as well: all but those of the container itself.
fn shared_paths(role: &str, container: &Container<'_>) -> BTreeSet<(String, String)> {
    let words = container.arguments();
    let pairs = words.iter().filter_map(|word| word.strip_prefix("--")?.split_once('='));
    let paths = pairs.filter(|(name, value)| value.starts_with('/') && !OWN.contains(name));
    // kubelet's, while the data plane's is for the others.
    let theirs = paths.filter(|(name, _)| !(role == "node" && *name == "socket"));
    theirs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Where a path lies on the host, and how mounts below it spread; None: in no folder of the host.
fn place(manifest: &Manifest, path: &str) -> Option<(String, String)> {
    let mount = main_container(manifest).mount_of(path)?;
    let host = manifest.host_path(&mount["name"])?;
    let below = path.strip_prefix(mount["mountPath"].as_str()?)?;
    Some((format!("{host}{below}"), mount["mountPropagation"].as_str().unwrap_or("None").to_owned()))
}

/// A storage daemon is a child of the data plane, and its volume's folder is the node's: the images, sockets and mounts
/// of either are at one path for both, and a mount that one makes or takes away is so for the other.
#[test]
fn node_and_data_plane_see_each_others_folders() {
    for values in ["shares", "existing-tls", "everything", "bare"] {
        let manifests = rendered(values);
        let (node, data) = (daemon_set(&manifests, "node"), daemon_set(&manifests, "data"));
        let mut seen = Vec::new();
        for (role, manifest) in [("node", node), ("data", data)] {
            for (name, path) in shared_paths(role, &main_container(manifest)) {
                let (of_node, of_data) = (place(node, &path), place(data, &path));
                assert!(
                    of_node.is_some() && of_node == of_data,
                    "{values}: {path}: {of_node:?}, {of_data:?}"
                );
                if name == "dir" {
                    assert_eq!(of_node.unwrap().1, "Bidirectional", "{values}: {path}");
                }
                seen.push(format!("{role} {name}"));
            }
        }
        assert_eq!(seen, ["node data-socket", "node dir", "data dir", "data socket"], "{values}");
    }
}

/// The controller sees the shares that the data plane mounts, and nothing else of its node.
#[test]
fn the_controller_sees_the_shares() {
    let manifests = rendered("shares");
    let data = daemon_set(&manifests, "data");
    let controller = manifests.iter().find(|manifest| manifest.kind == "Deployment").unwrap();
    let dir = main_container(data).argument("dir").unwrap();
    let (at, spread) = place(controller, &dir).unwrap();
    assert_eq!((at, spread.as_str()), (place(data, &dir).unwrap().0, "HostToContainer"));
    let of_node = main_container(daemon_set(&manifests, "node")).argument("dir").unwrap();
    assert_eq!(place(controller, &of_node), None);
    let socket = main_container(controller).argument("data-socket").unwrap();
    assert_eq!(place(controller, &socket), place(data, &socket));
}
