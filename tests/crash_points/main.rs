//! Every step of every operation, each with the process killed at it: afterwards the driver is started again, the call
//! is repeated as a sidecar would, and every acknowledged write, every snapshot, the records, the images and the
//! machine are compared with what they must be (X6, invariants 1 and 2).

mod attaching;
mod deltas;
#[path = "../support/driver.rs"]
#[allow(dead_code)]
mod driver;
mod growth;
mod imports;
mod lifecycle;
mod points;
mod restores;
mod share;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Instant;
use strata::volume::steps::Step;

/// What goes through a step.
type Scenario = fn(Step);

/// Every way in which operations come to a step. A new step without one does not compile.
fn scenarios(step: Step) -> &'static [(&'static str, Scenario)] {
    match step {
        Step::CreateRecorded | Step::CreateImageMade => {
            &[("new volume", lifecycle::create), ("clone", lifecycle::clone)]
        }
        Step::ImportRecorded | Step::ImportCopied | Step::ImportOverlaid => {
            &[("same file", imports::import), ("another file", imports::import_another)]
        }
        Step::RepairKept | Step::RepairRebuilt | Step::RepairMoved => &[("clone", imports::repair)],
        Step::RestoreRecorded
        | Step::RestoreBegun
        | Step::RestoreFetched
        | Step::RestoreWhole
        | Step::RestoreNamed
        | Step::RestoreOverlaid => &[("qcow2", restores::restore), ("raw, larger", restores::restore_larger)],
        Step::AdoptLinked => &[("cinder", imports::adopt), ("repaired", imports::adopt_repaired)],
        Step::AdoptRecorded | Step::AdoptUnlinked => &[("cinder", imports::adopt)],
        Step::CloneAnnounced => &[("clone", lifecycle::clone)],
        Step::SnapshotNamed => &[("given up", points::claim)],
        Step::CutIntended | Step::CutOverlayMade | Step::CutRecorded => {
            &[("detached", points::cut_detached), ("attached", points::cut_attached)]
        }
        Step::CutReported => &[
            ("detached", points::cut_detached),
            ("attached", points::cut_attached),
            ("out of sight", points::cut_out_of_sight),
        ],
        Step::CutLayerHeld => &[("detached", points::cut_detached)],
        Step::CutFrozen | Step::CutSwitched => &[
            ("ext4", points::cut_attached),
            ("xfs", points::cut_attached_xfs),
            ("torn down", points::teardown_of_a_frozen_filesystem),
        ],
        Step::PinWritten => &[("export", imports::export), ("clone in use", lifecycle::clone_in_use)],
        Step::DeleteDropped => &[("detached", points::delete)],
        Step::DeltaRecorded => &[("after a cut", deltas::recorded), ("in use", deltas::recorded_in_use)],
        Step::DeltaFolded => &[("limit", deltas::folded)],
        Step::MergeIntended
        | Step::MergeUnlocked
        | Step::MergeCopied
        | Step::MergeHeaderWritten
        | Step::MergeJobDismissed
        | Step::MergeFinalized
        | Step::MergeRecorded => &[
            ("commit", points::merge_down),
            ("stream", points::merge_up),
            ("commit in use", points::merge_down_attached),
            ("stream in use", points::merge_up_attached),
            ("flatten", points::flatten),
            ("flatten in use", points::flatten_attached),
        ],
        Step::VolumeMarkedDeleted | Step::VolumeRecordRemoved => &[("delete", lifecycle::delete)],
        Step::DeleteMadeRoom => &[("full share", lifecycle::delete_on_full_share)],
        Step::SweepTrashed => {
            &[("delete", lifecycle::delete), ("with a snapshot", lifecycle::delete_with_snapshot)]
        }
        Step::PublishRecorded => &[("block", attaching::publish)],
        Step::UnpublishReleased => &[("block", attaching::unpublish)],
        Step::TargetNoted | Step::TargetMade | Step::TargetBound => &[("block", attaching::appear)],
        Step::TargetUnmounted | Step::TargetRemoved => &[("block", attaching::vanish)],
        Step::StageDaemonStarted | Step::StageOpened | Step::StageAttached => {
            &[("block", lifecycle::stage_block), ("ext4", lifecycle::stage_new)]
        }
        Step::StageScratchMade => &[("ext4", lifecycle::stage_reader)],
        Step::StageFormatted | Step::StageMounted => {
            &[("ext4", lifecycle::stage_new), ("xfs", lifecycle::stage_new_xfs)]
        }
        Step::StageChecked => &[("ext4", growth::stage_ext4)],
        Step::StageGrown => &[("ext4", growth::stage_ext4), ("xfs", growth::stage_xfs)],
        Step::GrowReserved => {
            &[("detached, full", growth::detached_full), ("attached, full", growth::attached_full)]
        }
        Step::GrowDaemonResized => &[("attached", growth::attached)],
        Step::GrowResized => &[("detached", growth::detached), ("attached", growth::attached)],
        Step::ExpandRefreshed => &[("xfs", growth::mounted)],
        Step::UnstageUnmounted | Step::UnstageDetached => &[
            ("block", lifecycle::unstage_block),
            ("ext4", lifecycle::unstage_mounted),
            ("block, comes back", lifecycle::comes_back_block),
            ("ext4, comes back", lifecycle::comes_back_mounted),
        ],
        Step::UnstageClosed => &[("block", lifecycle::unstage_block), ("ext4", lifecycle::unstage_mounted)],
    }
}

/// Past the capture of a passing test's output: how far it is, and what each step took.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[test]
fn every_step_can_be_a_processes_last() {
    if cfg!(not(feature = "crash-points")) {
        panic!("nothing dies without the feature: cargo test --features crash-points --test crash_points");
    }
    support::need_root();
    let only = std::env::var("STRATA_CRASH_ONLY").ok();
    let wanted = |step: &&Step| only.as_ref().is_none_or(|only| step.name().contains(only.as_str()));
    let table = Step::ALL.iter().filter(wanted).flat_map(|step| {
        assert!(!scenarios(*step).is_empty(), "{} is never reached", step.name());
        scenarios(*step).iter().map(|(name, scenario)| (*step, *name, *scenario))
    });
    let table: Vec<_> = table.collect();
    assert!(!table.is_empty(), "STRATA_CRASH_ONLY={only:?} is part of no step's name");
    let queue = Mutex::new(table.into_iter());
    let failed = Mutex::new(Vec::new());
    let worker = || {
        loop {
            let Some((step, name, scenario)) = queue.lock().unwrap().next() else { break };
            let begun = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| scenario(step)));
            let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
            say(&format!(
                "{:<22} {name:<16} {verdict:<6} {:5.1} s",
                step.name(),
                begun.elapsed().as_secs_f32()
            ));
            if outcome.is_err() {
                failed.lock().unwrap().push(format!("{} ({name})", step.name()));
            }
        }
    };
    // Most of the time is waiting: for sockets, for syncs, for devices.
    std::thread::scope(|scope| (0..WORKERS).for_each(|_| drop(scope.spawn(worker))));
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
}

const WORKERS: usize = 6;
