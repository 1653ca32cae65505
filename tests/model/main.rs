//! Random histories against a model that holds the expected bytes of every point: create, write, discard, snapshot, delete,
//! clone, restore, grow, attach, detach, export, and kill -9 of every kind of process in the middle of a call. A real
//! driver over its CSI socket, real qemu-img and storage daemons (invariants 1, 2 and 4, X6).
//!
//! `STRATA_MODEL_SEED` repeats a sequence of operations, `STRATA_MODEL_STEPS` sets its length; `make soak` runs
//! fresh seeds for hours.

#[path = "../support/driver.rs"]
#[allow(dead_code)]
mod driver;
mod machine;
mod random;
mod steps;
#[path = "../support/mod.rs"]
mod support;

use machine::Machine;
use random::Random;

const STEPS: u64 = 200;
/// Any number is as good; one that stays makes a failure in CI repeatable.
const SEED: u64 = 20_261;

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    if text.is_empty() {
        default
    } else {
        text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number"))
    }
}

#[test]
fn whatever_happens_every_point_reads_back_what_it_held() {
    support::need_root();
    let (seed, length) = (setting("STRATA_MODEL_SEED", SEED), setting("STRATA_MODEL_STEPS", STEPS));
    eprintln!("STRATA_MODEL_SEED={seed} STRATA_MODEL_STEPS={length}");
    let mut machine = Machine::new(Random::new(seed));
    for number in 0..length {
        let step = machine.choose();
        machine.say(&format!("{number:4} {step:?}"));
        machine.run(step);
    }
    machine.finish();
}
