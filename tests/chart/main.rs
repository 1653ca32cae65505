//! The Helm chart, rendered by the real Helm: what it makes is what Kubernetes knows, and what our programs take.

mod backup;
mod helm;
mod manifest;
mod monitoring;
mod shared_paths;
mod sidecars;

use helm::{chart, render, rendered};
use manifest::{Manifest, strict};
use rstest::rstest;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;

const VALUES: [&str; 4] = ["shares", "existing-tls", "everything", "bare"];

/// K14: Helm itself has nothing to say against the chart.
#[rstest]
fn lint(#[values("shares", "existing-tls", "everything", "bare")] values: &str) {
    let file = chart().join(format!("ci/{values}-values.yaml"));
    let chart = chart();
    let said = helm::helm(&["lint", "--strict", chart.to_str().unwrap(), "-f", file.to_str().unwrap()]);
    assert!(said.is_ok(), "{said:?}");
}

/// K14: every object is one that Kubernetes' own types take without leaving a field over.
#[rstest]
fn objects_have_no_field_that_kubernetes_does_not_know(
    #[values("shares", "existing-tls", "everything", "bare")] values: &str,
) {
    let manifests = rendered(values);
    assert!(manifests.len() > 10);
    for manifest in &manifests {
        if let Err(wrong) = strict(manifest) {
            panic!("{} {}: {wrong}", manifest.kind, manifest.name);
        }
    }
}

/// A typo in the chart would pass if the check above were none.
#[test]
fn an_unknown_field_is_seen() {
    let text = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: x}\nspec:\n  updateStrategie: {type: OnDelete}\n  \
                selector: {}\n  template: {}\n";
    let wrong = strict(&Manifest::parse(text)).unwrap_err();
    assert!(wrong.contains("updateStrategie"), "{wrong}");
    let kind = Manifest::parse("apiVersion: apps/v2\nkind: DaemonSet\nmetadata: {name: x}\n");
    assert!(strict(&kind).is_err());
}

/// The binary takes the arguments that its containers get; clap refuses the first that it does not know.
#[test]
fn our_containers_get_arguments_that_the_program_knows() {
    let mut seen = BTreeSet::new();
    for values in VALUES {
        for manifest in rendered(values) {
            for container in manifest.containers().filter(|container| container.image().contains("strata:")) {
                let mut arguments = container.arguments();
                seen.insert(arguments[0].clone());
                // Parsed from left to right: this ends the command once all before it was taken.
                arguments.push("--help".to_owned());
                understood(values, &arguments);
                if let Some([program, words @ ..]) = container.liveness_command().as_deref() {
                    assert_eq!(program, "/usr/local/bin/strata", "as in the image");
                    understood(values, &[words, &["--help".to_owned()]].concat());
                }
            }
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["backup", "controller", "data", "node"]);
}

fn understood(values: &str, arguments: &[String]) {
    let output = Command::new(env!("CARGO_BIN_EXE_strata")).args(arguments).output().expect("strata runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{values}: strata {arguments:?}: {said}");
}

/// Every place that a container mounts is a volume of its pod, and every volume is mounted.
#[test]
fn volumes_and_mounts_belong_together() {
    for values in VALUES {
        for manifest in rendered(values) {
            let mounted: BTreeSet<String> =
                manifest.containers().flat_map(|container| container.mounts()).collect();
            assert_eq!(mounted, manifest.volumes(), "{values}: {} {}", manifest.kind, manifest.name);
        }
    }
}

/// K20: the data plane is never replaced or restarted by itself, and nothing may kill it for its memory.
#[test]
fn the_data_plane_is_left_alone() {
    let manifests = rendered("shares");
    let data = manifests.iter().find(|m| m.kind == "DaemonSet" && m.name.ends_with("-data")).unwrap();
    assert_eq!(data.at("/spec/updateStrategy/type"), "OnDelete");
    let container = data.containers().next().unwrap();
    assert!(container.at("/livenessProbe").is_null());
    assert!(container.at("/resources/limits/memory").is_null());
}

/// Who needs no more than a socket has no more; nobody but the controller speaks to the API.
#[test]
fn rights_are_as_few_as_mounting_allows() {
    for manifest in rendered("shares") {
        let privileged: Vec<String> = manifest
            .containers()
            .filter(|container| container.at("/securityContext/privileged") == true)
            .map(|container| container.name())
            .collect();
        for container in manifest.containers() {
            assert_eq!(container.at("/securityContext/readOnlyRootFilesystem"), true, "{}", container.name());
            // The image's own user is nobody.
            assert_eq!(container.at("/securityContext/runAsUser"), 0, "{}", container.name());
        }
        for container in manifest.containers().filter(|c| !privileged.contains(&c.name())) {
            assert_eq!(container.at("/securityContext/capabilities/drop/0"), "ALL", "{}", container.name());
            // Cinder's images are not root's before they are adopted.
            let added = container.at("/securityContext/capabilities/add");
            let reads_images = ["controller", "backup"].contains(&container.name().as_str());
            let expected = if reads_images { json!(["DAC_OVERRIDE"]) } else { Value::Null };
            assert_eq!(added, expected, "{}", container.name());
        }
        match (manifest.kind.as_str(), manifest.name.as_str()) {
            ("DaemonSet", "strata-data") => assert_eq!(privileged, ["data"]),
            ("DaemonSet", "strata-node") => assert_eq!(privileged, ["node"]),
            _ => assert!(privileged.is_empty()),
        }
        let token = manifest.at("/spec/template/spec/automountServiceAccountToken");
        if manifest.kind == "DaemonSet" {
            assert_eq!(token, false);
        }
    }
}

/// A confined type may not use a socket that a privileged container made; where that is not wanted it is left out.
#[test]
fn who_uses_a_privileged_ones_socket_is_not_confined() {
    let manifests = rendered("shares");
    for container in manifests.iter().flat_map(|manifest| manifest.containers()) {
        let privileged = container.at("/securityContext/privileged") == true;
        let expected = if privileged { Value::Null } else { json!({"type": "spc_t"}) };
        assert_eq!(container.at("/securityContext/seLinuxOptions"), expected, "{}", container.name());
    }
    let without = render(&[], &["shares[0].source=a:/v", "seLinuxType="]).unwrap();
    assert!(!without.contains("seLinuxOptions"));
}

/// K3: kubelet hands labels to mount(8), which leaves them out unless it sees the host's selinuxfs, writable. A host without
/// SELinux has that folder as well.
#[rstest]
#[case("shares", true)]
#[case("bare", false)]
fn volumes_are_mounted_with_labels(#[case] values: &str, #[case] with_labels: bool) {
    let manifests = rendered(values);
    let driver = manifests.iter().find(|manifest| manifest.kind == "CSIDriver").unwrap();
    assert_eq!(driver.at("/spec/seLinuxMount"), with_labels);
    let node = manifests.iter().find(|m| m.kind == "DaemonSet" && m.name.ends_with("-node")).unwrap();
    let container = node.containers().next().unwrap();
    let mount = container.mount_of("/host/sys/fs/selinux");
    assert_eq!(mount.is_some(), with_labels);
    if let Some(mount) = mount {
        assert_eq!(mount["readOnly"], Value::Null);
        assert_eq!(node.host_path(&mount["name"]).unwrap(), "/sys/fs");
    }
    let image = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/image/assemble")).unwrap();
    assert!(image.contains("/etc/selinux/config"), "mount(8) looks for it");
}

/// The controller's shares are mounted by the data pod of its node.
#[test]
fn controllers_run_where_a_data_pod_runs() {
    let manifests = rendered("shares");
    let of = |kind: &str, name: &str| manifests.iter().find(|m| m.kind == kind && m.name == name).unwrap();
    let (controller, data) = (of("Deployment", "strata-controller"), of("DaemonSet", "strata-data"));
    let terms = controller
        .at("/spec/template/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution");
    assert_eq!(terms[0]["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(terms[0]["labelSelector"]["matchLabels"], data.at("/spec/template/metadata/labels"));
    let anti = "/spec/template/spec/affinity/podAntiAffinity";
    assert!(controller.at(anti).is_object());
    let own = "controller.affinity.nodeAffinity.x=y";
    let text = render(&[], &["shares[0].source=a:/v", own]).unwrap();
    assert!(!text.contains("podAffinity"));
}

/// The data plane has time for those of its daemons that are in use, and to end them in order.
#[test]
fn the_data_plane_drains_within_its_grace() {
    let manifests = rendered("shares");
    let data = manifests.iter().find(|m| m.kind == "DaemonSet" && m.name == "strata-data").unwrap();
    let drain = data.containers().next().unwrap().argument("drain").unwrap().parse::<u64>().unwrap();
    let grace = data.at("/spec/template/spec/terminationGracePeriodSeconds").as_u64().unwrap();
    assert!(drain > 0 && drain + 60 < grace, "{drain} of {grace} s");
}

/// The chart's own CA signs both sides; each has the name that the other one looks for.
#[test]
fn the_charts_certificates_are_pairs_of_one_ca() {
    let manifests = rendered("shares");
    let secrets: Vec<&Manifest> = manifests.iter().filter(|manifest| manifest.kind == "Secret").collect();
    assert_eq!(secrets.len(), 2);
    assert_eq!(secrets[0].at("/data/ca.crt"), secrets[1].at("/data/ca.crt"));
    assert_ne!(secrets[0].at("/data/tls.key"), secrets[1].at("/data/tls.key"));
    for mode in ["existing-tls", "everything", "bare"] {
        assert!(rendered(mode).iter().all(|manifest| manifest.kind != "Secret"), "{mode}");
    }
}

/// K14: what cannot work is refused before anything is installed, with the name of what is wrong.
#[rstest]
#[case(&[], "shares is empty")]
#[case(&["shares[0].source=nonsense"], "shares.0.source")]
#[case(&["shares[0].source=a:/v", "shares[0].options[0]=a b"], "shares.0.options.0")]
#[case(&["shares[0].source=a:/v", "controler.replicas=3"], "controler")]
#[case(&["shares[0].source=a:/v", "controller.replicas=0"], "controller.replicas")]
#[case(&["shares[0].source=a:/v", "controller.replicas=two"], "controller.replicas")]
#[case(&["shares[0].source=a:/v", "agentTLS.mode=none"], "agentTLS.mode")]
#[case(&["shares[0].source=a:/v", "agentTLS.mode=existing"], "controllerSecret")]
#[case(&["shares[0].source=a:/v", "storageClass.fsType=btrfs"], "storageClass.fsType")]
#[case(&["shares[0].source=a:/v", "storageClass.parameters.formt=raw"], "storageClass.parameters")]
#[case(&["shares[0].source=a:/v", "driverName=Upper_Case"], "driverName")]
#[case(&["shares[0].source=a:/v", "stateDir=relative"], "stateDir")]
#[case(&["shares[0].source=a:/v", "seLinuxMount=maybe"], "seLinuxMount")]
#[case(&["shares[0].source=a:/v", "backup.workers=0"], "backup.workers")]
#[case(&["shares[0].source=a:/v", "backup.leaseSeconds=1"], "backup.leaseSeconds")]
#[case(&["shares[0].source=a:/v", "backup.secrets=all"], "backup.secrets")]
#[case(&["shares[0].source=a:/v", "backup.perNode=0"], "backup.perNode")]
#[case(&["shares[0].source=a:/v", "controller.repositoriesSecret=Upper"], "controller.repositoriesSecret")]
#[case(&["shares[0].source=a:/v", "controller.repositoriesSecret=r"], "repositoriesSecret")]
#[case(&["shares[0].source=a:/v", "controller.softDepth=9", "controller.hardDepth=8"], "softDepth")]
fn bad_values_are_refused(#[case] set: &[&str], #[case] named: &str) {
    let said = render(&[], set).unwrap_err();
    assert!(said.contains(named), "{said}");
}

/// `kubectl apply -f manifests/` is the chart.
#[test]
fn manifests_are_the_chart_rendered() {
    let root = env!("CARGO_MANIFEST_DIR");
    let fresh = tempfile::NamedTempFile::new().unwrap();
    let script = format!("{root}/scripts/render-manifests");
    let output = Command::new(script).arg(fresh.path()).env("HELM", helm::program()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (now, kept) =
        (std::fs::read(fresh.path()).unwrap(), std::fs::read(format!("{root}/manifests/strata.yaml")));
    assert!(now == kept.unwrap(), "manifests/strata.yaml is not the chart's: run `make manifests`");
}
