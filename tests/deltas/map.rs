//! The map of one layer is what `qemu-img map` says of it.

use crate::support::{qemu_img, qemu_io, run, scratch};
use rstest::rstest;
use serde_json::Value;
use std::ops::Range;
use strata::image::{Format, ImageRef, written};

/// Also in images of compat=0.10, which have no clusters of zeros: there a discard is no change in a bottom image, and not
/// possible in an overlay.
#[rstest]
fn a_layers_own_clusters(
    #[values("1.1", "0.10")] compat: &str,
    #[values("512", "64k", "2M")] cluster: &str,
    #[values("raw", "qcow2")] below: &str,
) {
    let folder = scratch();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (img, io) = (qemu_img(), qemu_io());
    let (img, io) = (img.to_str().unwrap(), io.to_str().unwrap());
    run(img, &["create", "-q", "-f", below, &path("base"), "64M"]);
    run(io, &["-f", below, "-c", "write -P 1 0 16M", &path("base")]);
    let options = format!("compat={compat},cluster_size={cluster},backing_fmt={below}");
    run(img, &["create", "-q", "-f", "qcow2", "-b", "base", "-o", &options, &path("top"), "80M"]);
    let commands = [
        "write -P 2 4M 128k",
        "write -P 3 5000k 4k",
        "write -z 8M 1M",
        "discard 10M 2M",
        "write -P 4 20M 1M",
        "discard 20M 2M",
        "write -P 5 70M 64k",
        "discard 72M 2M",
    ];
    let mut words = vec!["-d", "unmap", "-f", "qcow2"];
    words.extend(commands.iter().flat_map(|command| ["-c", command]));
    let top = path("top");
    words.push(&top);
    // A discard that is refused changes nothing.
    std::process::Command::new(io).args(&words).output().unwrap();
    let map: Vec<Value> =
        serde_json::from_str(&run(img, &["map", "--output=json", "-f", "qcow2", &top])).unwrap();
    let mut wanted: Vec<Range<u64>> = Vec::new();
    for part in map.iter().filter(|part| part["depth"] == 0 && part["present"] == true) {
        let start = part["start"].as_u64().unwrap();
        join(&mut wanted, start..start + part["length"].as_u64().unwrap());
    }
    let mut found = Vec::new();
    let image = ImageRef { path: top.clone().into(), format: Format::Qcow2 };
    assert_eq!(written(&image, |range| join(&mut found, range)).unwrap(), 80 << 20);
    assert!(!found.is_empty());
    assert_eq!(found, wanted);
    // Whatever reads otherwise than below is among them.
    run(img, &["convert", "-q", "-f", below, "-O", "raw", &path("base"), &path("then")]);
    run(img, &["convert", "-q", "-f", "qcow2", "-O", "raw", &top, &path("now")]);
    let (mut then, now) = (std::fs::read(path("then")).unwrap(), std::fs::read(path("now")).unwrap());
    then.resize(now.len(), 0);
    for (index, (then, now)) in then.chunks(512).zip(now.chunks(512)).enumerate() {
        let at = index as u64 * 512;
        assert!(then == now || found.iter().any(|range| range.contains(&at)), "sector at {at}");
    }
}

#[test]
fn what_stands_on_nothing_has_no_map() {
    let folder = scratch();
    let path = folder.path().join("base");
    run(qemu_img().to_str().unwrap(), &["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "1M"]);
    for format in [Format::Qcow2, Format::Raw] {
        let error = written(&ImageRef { path: path.clone(), format }, |_| ()).unwrap_err();
        assert!(error.to_string().contains("stands on nothing"), "{error}");
    }
}

fn join(ranges: &mut Vec<Range<u64>>, next: Range<u64>) {
    match ranges.last_mut().filter(|last| last.end == next.start) {
        Some(last) => last.end = next.end,
        None => ranges.push(next),
    }
}
