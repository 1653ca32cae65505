//! The steps at which a crash is worth a test: between any two effects that are not one.
//!
//! One list. With the cargo feature `crash-points`, `STRATA_CRASH_AT=<step>` in the environment kills the
//! process, as `kill -9` would, when it gets there; `tests/crash_points/` goes through the list. An
//! unlisted step does not compile, and a listed one that is never reached fails that test.

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A place between two effects.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Step {
            $($(#[$doc])* $name,)*
        }

        impl Step {
            /// Every step there is.
            pub const ALL: &[Step] = &[$(Step::$name,)*];

            /// The name by which a test arms it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Step::$name => $text,)*
                }
            }
        }
    };
}

steps! {
    /// A new volume's record says `creating`; there is no image.
    CreateRecorded = "create-recorded",
    /// The image has its final name; the record does not say `ready`.
    CreateImageMade = "create-image-made",
    /// A clone is named as a child of its source; it has no record.
    CloneAnnounced = "clone-announced",
    /// An import's record says `creating`; nothing was copied.
    ImportRecorded = "import-recorded",
    /// The copied base has its final name; there is no overlay on it.
    ImportCopied = "import-copied",
    /// Both images are there; the record does not say `ready`.
    ImportOverlaid = "import-overlaid",
    /// A restore's record says `restoring`; nobody fetches anything.
    RestoreRecorded = "restore-recorded",
    /// Somebody has the turn to fetch, and the record names the try; nothing was fetched.
    RestoreBegun = "restore-begun",
    /// All is fetched, verified and durable, under a name of the try's own; the record does not say so.
    RestoreFetched = "restore-fetched",
    /// The record says so, and names base and overlay; neither is there.
    RestoreWhole = "restore-whole",
    /// What was fetched has the base's name; there is no overlay on it.
    RestoreNamed = "restore-named",
    /// Both images are there; the record says `restoring`.
    RestoreOverlaid = "restore-overlaid",
    /// Adopted images have second names in the volume's folder; there is no record.
    AdoptLinked = "adopt-linked",
    /// The record of an adopted volume is there; its images still have their old names, too.
    AdoptRecorded = "adopt-recorded",
    /// Some of the old names are gone.
    AdoptUnlinked = "adopt-unlinked",
    /// A damaged record is kept under another name, and still there under its own.
    RepairKept = "repair-kept",
    /// The rebuilt record is there; volume.info is the old one.
    RepairRebuilt = "repair-rebuilt",
    /// An image that the record does not know was moved aside.
    RepairMoved = "repair-moved",
    /// A snapshot's name is claimed for its volume; nothing of the cut is journaled.
    SnapshotNamed = "snapshot-named",
    /// The cut is journaled; there is no overlay.
    CutIntended = "cut-intended",
    /// The overlay has its final name; nothing writes to it.
    CutOverlayMade = "cut-overlay-made",
    /// Nobody writes the layer that is frozen, and nobody can; whether anybody has the overlay was not looked at.
    CutLayerHeld = "cut-layer-held",
    /// On the node: the filesystem is frozen.
    CutFrozen = "cut-frozen",
    /// On the node: the daemon writes to the overlay; the filesystem is still frozen.
    CutSwitched = "cut-switched",
    /// The node has answered; the record still names the frozen layer as active.
    CutReported = "cut-reported",
    /// The record is final; the table beside it is the old one.
    CutRecorded = "cut-recorded",
    /// A pin is in the record; nobody reads what it holds.
    PinWritten = "pin-written",
    /// The snapshot is no longer in the record; its layer is.
    DeleteDropped = "delete-dropped",
    /// A layer that nothing refers to is in the trash; its file is there.
    SweepTrashed = "sweep-trashed",
    /// The share is full: the image of a volume that is to go is gone, its record says `ready`.
    DeleteMadeRoom = "delete-made-room",
    /// The volume is marked deleted; its files are there.
    VolumeMarkedDeleted = "volume-marked-deleted",
    /// A deleted volume's record is gone; its folder is there.
    VolumeRecordRemoved = "volume-record-removed",
    /// What changed up to a frozen layer is kept; nothing is merged.
    DeltaRecorded = "delta-recorded",
    /// A later delta has taken in one that is to go, which is still there.
    DeltaFolded = "delta-folded",
    /// The merge is journaled; nothing was copied.
    MergeIntended = "merge-intended",
    /// The same, and the volume is free: whoever needs it may stop the merge, of which nothing runs yet.
    MergeUnlocked = "merge-unlocked",
    /// All is copied; no header was changed.
    MergeCopied = "merge-copied",
    /// In the daemon that has the volume open, or in the merge's own: the header is changed; nobody was told.
    MergeHeaderWritten = "merge-header-written",
    /// The job is forgotten; what it left open and locked is still so.
    MergeJobDismissed = "merge-job-dismissed",
    /// The header is changed; the record is not.
    MergeFinalized = "merge-finalized",
    /// The record is changed; the old file is in the trash.
    MergeRecorded = "merge-recorded",
    /// The record names the node that the volume is for; nobody was told.
    PublishRecorded = "publish-recorded",
    /// For a reader: its throw-away overlay is made; nothing has it open.
    StageScratchMade = "stage-scratch-made",
    /// The daemon has the image open; the record does not say so.
    StageDaemonStarted = "stage-daemon-started",
    /// The record says `opened`; there is no block device.
    StageOpened = "stage-opened",
    /// There is a block device; nothing is on it.
    StageAttached = "stage-attached",
    /// There is a filesystem; it was never mounted.
    StageFormatted = "stage-formatted",
    /// It is mounted; the record still says `new`.
    StageMounted = "stage-mounted",
    /// The filesystem was found smaller than its device, and checked.
    StageChecked = "stage-checked",
    /// The filesystem fills its device; the volume is not staged yet.
    StageGrown = "stage-grown",
    /// The room for a fully allocated image is taken; the image has its old size.
    GrowReserved = "grow-reserved",
    /// On the node: the daemon's disk has its new size, the device the old one.
    GrowDaemonResized = "grow-daemon-resized",
    /// Image and device have their new size, the record the old one.
    GrowResized = "grow-resized",
    /// On the node: the device has its new size, the filesystem the old one.
    ExpandRefreshed = "expand-refreshed",
    /// The node's note names the pod's path; nothing is there.
    TargetNoted = "target-noted",
    /// There is a folder or file at the pod's path; nothing is mounted on it.
    TargetMade = "target-made",
    /// The pod's path has the volume; nobody was told.
    TargetBound = "target-bound",
    /// Nothing is mounted at the pod's path; the folder or file is there.
    TargetUnmounted = "target-unmounted",
    /// The pod's path is gone; the node's note names it.
    TargetRemoved = "target-removed",
    /// Unstaging: the mount is gone, the device is there.
    UnstageUnmounted = "unstage-unmounted",
    /// Unstaging: mount and device are gone, the daemon has the image open.
    UnstageDetached = "unstage-detached",
    /// Unstaging: the device and the daemon are gone, the record says `opened`.
    UnstageClosed = "unstage-closed",
    /// Nobody has the volume open; the record still names the node.
    UnpublishReleased = "unpublish-released",
}

/// The process has come to this step.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn reached(_step: Step) {}

#[cfg(feature = "crash-points")]
type Planned = (Step, Box<dyn FnOnce()>);

#[cfg(feature = "crash-points")]
thread_local! {
    static MEANWHILE: std::cell::RefCell<Option<Planned>> = const { std::cell::RefCell::new(None) };
}

/// When this thread next comes to that step it first does this work, once: what another process may do there.
#[cfg(feature = "crash-points")]
pub fn meanwhile(step: Step, work: impl FnOnce() + 'static) {
    MEANWHILE.set(Some((step, Box::new(work))));
}

/// The process has come to this step; dies here, or stands still once until it is told to go on, if a test
/// armed it.
#[cfg(feature = "crash-points")]
pub fn reached(step: Step) {
    use rustix::process::{Signal, getpid, kill_process};
    use std::sync::atomic::{AtomicBool, Ordering};
    static STOPPED: AtomicBool = AtomicBool::new(false);
    let due = MEANWHILE.with_borrow_mut(|planned| planned.take_if(|(at, _)| *at == step));
    if let Some((_, work)) = due {
        work();
    }
    let armed = |variable| std::env::var(variable).is_ok_and(|armed| armed == step.name());
    if armed("STRATA_STOP_AT") && !STOPPED.swap(true, Ordering::SeqCst) {
        eprintln!("stop point {} reached", step.name());
        let _ = kill_process(getpid(), Signal::STOP);
    }
    if armed("STRATA_CRASH_AT") {
        eprintln!("crash point {} reached", step.name());
        let _ = kill_process(getpid(), Signal::KILL);
        // The signal ends this thread too, at the latest when it next enters the kernel.
        loop {
            std::thread::park();
        }
    }
}
