//! libFuzzer over one entry point, named by STRATA_FUZZ_TARGET (scripts/run-fuzz).
#![no_main]

mod entries;

use entries::{Entry, TARGETS};
use std::sync::LazyLock;

static ENTRY: LazyLock<Entry> = LazyLock::new(|| {
    let wanted = std::env::var("STRATA_FUZZ_TARGET").unwrap_or_default();
    match TARGETS.iter().find(|(name, _)| *name == wanted) {
        Some((_, entry)) => *entry,
        None => {
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            eprintln!("set STRATA_FUZZ_TARGET to one of: {}", names.join(" "));
            std::process::exit(2);
        }
    }
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| ENTRY(data));
