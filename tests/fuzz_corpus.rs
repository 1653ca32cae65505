//! Every input that fuzzing began with or found (fuzz/corpus), tried again on what reads such bytes.

#[path = "../fuzz/entries.rs"]
mod entries;

use entries::{Entry, TARGETS};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use strata::backup::format::{HashList, Manifest};
use strata::image::header::Header;
use strata::volume::delta_file::Delta;
use strata::volume::{info_table, record};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn each_entry_point_has_a_corpus_and_each_corpus_an_entry_point() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&corpus()), targets);
}

/// Whole, cut short at several places, and with a byte turned: the readers of each kind stand all of it.
#[test]
fn nothing_breaks_a_reader() {
    for (target, entry) in TARGETS {
        try_all(target, *entry);
    }
}

fn try_all(target: &str, entry: Entry) {
    let folder = corpus().join(target);
    let inputs = names(&folder);
    assert!(!inputs.is_empty(), "{target} has no input");
    for name in inputs {
        let input = fs::read(folder.join(name)).unwrap();
        entry(&input);
        for part in 1..8 {
            entry(&input[..input.len() * part / 8]);
            let mut turned = input.clone();
            if let Some(byte) = turned.get_mut(input.len() * part / 8) {
                *byte ^= 1 << part;
                entry(&turned);
            }
        }
    }
}

/// A corpus of refused inputs alone would show the fuzzer nothing but the way to the first error.
#[test]
fn the_corpus_has_inputs_that_are_accepted() {
    let file = |name: &str| fs::read(corpus().join(name)).unwrap();
    Manifest::parse(&entries::prefix(), &file("manifest/full")).unwrap();
    Manifest::parse(&entries::prefix(), &file("manifest/incremental")).unwrap();
    HashList::parse(&entries::prefix(), &file("hashes/two")).unwrap();
    record::decode(&file("record/volume")).unwrap();
    for (name, blocks) in [("one", 1), ("table", 5000), ("runs", 300)] {
        assert_eq!(Delta::decode(&file(&format!("delta/{name}"))).unwrap().blocks.len(), blocks);
    }
    info_table::parse("volume.info", &file("volume_info/snapshots")).unwrap();
    assert_eq!(Header::read(&corpus().join("qcow2/over")).unwrap().backing_file.as_deref(), Some("base"));
}
