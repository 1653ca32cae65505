//! What the image is made of, and what it says of itself.

use crate::helm::{chart, render};
use crate::support::need_root;
use crate::unpacked::Image;
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found
}

/// What `make image` builds is what the chart asks for, unless told otherwise.
#[test]
fn the_chart_asks_for_this_version() {
    let chart = render(&[chart().join("ci/bare-values.yaml")], &[]).unwrap();
    let images: BTreeSet<&str> =
        chart.lines().filter_map(|line| line.trim().strip_prefix("image: strata")).collect();
    assert_eq!(images, BTreeSet::from([concat!(":", env!("CARGO_PKG_VERSION"))]));
}

/// A number needs no look into the image's own users, which `runAsNonRoot` cannot take.
#[test]
fn it_says_who_it_is_and_is_nobody_special() {
    let image = Image::get();
    assert_eq!(image.label("org.opencontainers.image.version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(image.label("org.opencontainers.image.licenses"), "Apache-2.0");
    image.label("org.opencontainers.image.created").parse::<jiff::Timestamp>().expect("a time");
    let (user, group) = image.config["User"].as_str().unwrap().split_once(':').unwrap();
    assert!(user.parse::<u32>().unwrap() > 0 && group.parse::<u32>().unwrap() > 0);
    let entry = image.words("Entrypoint");
    assert_eq!(entry.last().unwrap(), "/usr/local/bin/strata");
    for program in entry.iter().filter(|word| word.starts_with('/')) {
        let mut start = [0; 4];
        let file = std::fs::File::open(image.root.join(&program[1..])).unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut start, 0).unwrap();
        assert_eq!(&start, b"\x7fELF", "{program} is no script");
    }
}

#[test]
fn it_is_small_and_has_no_way_to_install_or_to_become_root() {
    let image = Image::get();
    let mut bytes = 0;
    for path in files_below(&image.root) {
        let meta = path.symlink_metadata().unwrap();
        bytes += meta.len();
        assert!(
            meta.is_symlink() || meta.permissions().mode() & 0o6000 == 0,
            "{} is set-uid",
            path.display()
        );
    }
    let program = image.root.join("usr/local/bin/strata").metadata().unwrap().len();
    assert!(bytes - program < 70 << 20, "{} bytes beside the program", bytes - program);
    for program in ["apt-get", "dpkg", "perl", "python3", "bash", "su", "passwd", "qemu-nbd", "glusterd"] {
        for folder in ["usr/bin", "usr/sbin"] {
            assert!(!image.root.join(folder).join(program).exists(), "{program}");
        }
    }
}

/// Each package that has a file in the image, each crate at the version that was built.
#[test]
fn its_bill_of_materials_is_whole_and_true() {
    let image = Image::get();
    let path = image.root.join(&image.label("dev.strata.sbom")[1..]);
    let bill: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let components = bill["components"].as_array().unwrap();
    let urls: BTreeSet<&str> = components.iter().map(|part| part["purl"].as_str().unwrap()).collect();
    assert_eq!(urls.len(), components.len(), "each once");
    for package in
        ["qemu-utils", "glusterfs-client", "libglusterfs0", "libc6", "e2fsprogs", "xfsprogs", "tini"]
    {
        let lead = format!("pkg:deb/debian/{package}@");
        assert!(urls.iter().any(|url| url.starts_with(&lead)), "{package}");
        assert!(image.root.join("usr/share/doc").join(package).join("copyright").exists(), "{package}");
    }
    assert!(!urls.iter().any(|url| url.contains("/python3") || url.contains("/perl")), "what is not in it");

    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let crates = components.iter().filter(|part| part["purl"].as_str().unwrap().starts_with("pkg:cargo/"));
    let mut names = BTreeSet::new();
    for part in crates {
        let (name, version) = (part["name"].as_str().unwrap(), part["version"].as_str().unwrap());
        assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")), "{name} {version}");
        if let Some(digest) = part["hashes"][0]["content"].as_str() {
            assert!(lock.contains(&format!("checksum = \"{digest}\"")), "{name}");
        }
        names.insert(name);
    }
    for name in ["strata", "md5-lanes", "tokio", "tonic", "object_store", "zstd"] {
        assert!(names.contains(name), "{name} is built in");
    }
    assert!(!names.contains("proptest"), "tests' crates are not");
}

/// As `docker run strata …` starts it: as the image's user, who may do nothing.
#[test]
fn its_commands_need_no_rights() {
    need_root();
    let image = Image::get();
    let (user, group) = image.config["User"].as_str().unwrap().split_once(':').unwrap();
    for words in [
        &["--version"][..],
        &["backup", "serve", "--help"],
        &["controller", "--help"],
        &["node", "--help"],
        &["data", "--help"],
        &["standalone", "--help"],
    ] {
        let mut command = Command::new("chroot");
        command.arg(format!("--userspec={user}:{group}")).arg("--groups=").arg(&image.root);
        command.args(image.words("Entrypoint")).args(words).env_clear();
        command.envs(image.words("Env").iter().map(|pair| pair.split_once('=').unwrap()));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("strata"), "{words:?}");
    }
}
