//! The versions of the upstream sidecars.

use crate::helm::rendered;

/// Major and minor.
fn version(image: &str) -> (u32, u32) {
    let tag = image.rsplit_once(":v").expect("a version").1;
    let mut numbers = tag.split('.').map(|number| number.parse().expect("a number"));
    (numbers.next().expect("a major version"), numbers.next().expect("a minor version"))
}

/// csi-provisioner 5.2 logs answers by the names of their enums' values (csi-lib-utils 0.20), and ends with a nil pointer at one
/// that is newer than itself: at GET_SNAPSHOT among the driver's capabilities, again after each restart.
#[test]
fn the_provisioner_takes_capabilities_that_are_newer_than_itself() {
    let manifests = rendered("shares");
    let containers = manifests.iter().flat_map(|manifest| manifest.containers());
    let all = containers.map(|container| container.image());
    let images: Vec<String> = all.filter(|image| image.contains("csi-provisioner")).collect();
    assert_eq!(images.len(), 1, "{images:?}");
    assert!(version(&images[0]) >= (5, 3), "{images:?}");
}
