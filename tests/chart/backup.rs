//! What the chart has for backups: the container beside the controller, definitions, and rights.

use crate::helm::{render, rendered};
use crate::manifest::{Container, Manifest};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionSpec;
use serde_json::{Value, from_value, json};
use std::process::Command;

const SHARE: &str = "shares[0].source=a:/v";

fn find<'a>(manifests: &'a [Manifest], kind: &str, name: &str) -> &'a Manifest {
    let found = manifests.iter().find(|manifest| manifest.kind == kind && manifest.name == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn container<'a>(manifest: &'a Manifest, name: &str) -> Container<'a> {
    manifest.containers().find(|container| container.name() == name).unwrap_or_else(|| panic!("no {name}"))
}

/// The definitions of the chart are those that the program has types for.
#[test]
fn the_definitions_are_the_programs() {
    let output = Command::new(env!("CARGO_BIN_EXE_strata")).arg("crds").output().expect("strata runs");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let ours: Vec<Manifest> = text.split("\n---\n").map(Manifest::parse).collect();
    assert_eq!(ours.len(), 3);
    let charts = rendered("shares");
    assert_eq!(charts.iter().filter(|manifest| manifest.kind == "CustomResourceDefinition").count(), 3);
    for ours in ours {
        let theirs = find(&charts, "CustomResourceDefinition", &ours.name);
        let hint = "run `strata crds --dir charts/strata/files/crds`, then `make manifests`";
        // Through Kubernetes' own type, for Helm writes numbers otherwise.
        let spec = |of: &Manifest| from_value::<CustomResourceDefinitionSpec>(of.at("/spec")).unwrap();
        assert!(spec(theirs) == spec(&ours), "{} is not the program's: {hint}", ours.name);
        assert_eq!(theirs.at("/metadata/annotations"), json!({"helm.sh/resource-policy": "keep"}));
    }
    let without = rendered("everything");
    let definition = without.iter().find(|manifest| manifest.kind == "CustomResourceDefinition").unwrap();
    assert_eq!(definition.at("/metadata/annotations"), Value::Null, "crds.keep is false there");
}

/// Any replica's backup container reads the shares where its controller does.
#[test]
fn the_backup_container_sees_the_shares_as_the_controller_does() {
    for values in ["shares", "everything"] {
        let manifests = rendered(values);
        let pod = find(&manifests, "Deployment", "strata-controller");
        let (controller, backup) = (container(pod, "controller"), container(pod, "backup"));
        for argument in ["data-socket", "shares-file", "agent-tls-dir"] {
            let path = backup.argument(argument).unwrap();
            assert_eq!(Some(&path), controller.argument(argument).as_ref(), "{argument}");
            assert_eq!(backup.mount_of(&path), controller.mount_of(&path), "{argument}");
        }
        let data = find(&manifests, "DaemonSet", "strata-data").containers().next().unwrap();
        let shares = data.argument("dir").unwrap();
        assert!(backup.mount_of(&shares).is_some());
        assert_eq!(backup.mount_of(&shares), controller.mount_of(&shares));
    }
}

/// The kernel kills it only if it takes more than it is told to.
#[test]
fn the_memory_of_backups_is_within_the_limit() {
    let manifests = rendered("shares");
    let backup = container(find(&manifests, "Deployment", "strata-controller"), "backup");
    let number = |name: &str| backup.argument(name).unwrap().parse::<u64>().unwrap();
    let limit = backup.at("/resources/limits/memory");
    let limit: u64 = limit.as_str().unwrap().strip_suffix("Mi").unwrap().parse().unwrap();
    assert!(limit > number("workers") * number("memory") * 5 / 4, "{limit} MiB");
}

/// The Lease that the container asks for is the one that it may use.
#[test]
fn the_lease_is_the_one_that_the_role_names() {
    for values in ["shares", "everything"] {
        let manifests = rendered(values);
        let lease =
            container(find(&manifests, "Deployment", "strata-controller"), "backup").argument("lease-name");
        let rules = find(&manifests, "Role", "strata-backup").at("/rules");
        let named =
            rules.as_array().unwrap().iter().find(|rule| rule["verbs"] == json!(["get", "update"])).unwrap();
        assert_eq!(named["resourceNames"], json!([lease.unwrap()]));
    }
}

/// K14: Secrets are read one by one, in Strata's own namespace, and only the named ones where names are given.
#[test]
fn secrets_are_read_by_name_in_the_own_namespace() {
    let secrets = |manifests: &[Manifest]| {
        let rules =
            manifests.iter().filter(|manifest| manifest.kind.ends_with("Role")).flat_map(|manifest| {
                let rules = manifest.at("/rules").as_array().unwrap().clone();
                rules.into_iter().map(|rule| (manifest.kind.clone(), rule)).collect::<Vec<_>>()
            });
        let is_of_secrets = |rule: &Value| rule["resources"].as_array().unwrap().contains(&json!("secrets"));
        rules.filter(|(_, rule)| is_of_secrets(rule)).collect::<Vec<_>>()
    };
    let any = secrets(&rendered("shares"));
    assert_eq!(
        any,
        [("Role".to_owned(), json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}))]
    );
    let named = secrets(&rendered("everything"));
    assert_eq!(named[0].1["resourceNames"], json!(["off-site-credentials"]));
}

/// Where no objects tell of repositories a Secret does, in a file that nobody else can read.
#[test]
fn without_backups_repositories_come_from_a_secret() {
    let manifests = rendered("bare");
    let pod = find(&manifests, "Deployment", "strata-controller");
    let controller = container(pod, "controller");
    let file = controller.argument("repositories").unwrap();
    assert_eq!(controller.mount_of(&file).unwrap()["name"], "repositories");
    let volumes = pod.at("/spec/template/spec/volumes");
    let volume = volumes.as_array().unwrap().iter().find(|volume| volume["name"] == "repositories").unwrap();
    assert_eq!(volume["secret"], json!({"secretName": "repositories", "defaultMode": 0o400}));
    assert!(
        container(find(&rendered("shares"), "Deployment", "strata-controller"), "controller")
            .argument("repositories")
            .is_none()
    );
}

/// Only what is set is passed on.
#[test]
fn the_limit_per_node_is_passed_on_where_it_is_set() {
    let of = |values: &str| {
        container(find(&rendered(values), "Deployment", "strata-controller"), "backup").argument("per-node")
    };
    assert_eq!((of("shares"), of("everything")), (None, Some("1".to_owned())));
}

#[test]
fn without_backups_there_is_none_of_it() {
    let text = render(&[], &[SHARE, "backup.enabled=false"]).unwrap();
    for absent in ["name: strata-backup", "--lease-name", "--kube-repositories", "backup-tmp"] {
        assert!(!text.contains(absent), "{absent}");
    }
    assert!(text.contains("kind: VolumeBackup"), "the definitions are another matter");
}
