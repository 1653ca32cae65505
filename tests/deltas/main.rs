//! What changed since an earlier state of a volume is known exactly, whatever has become of that state's snapshot: for as
//! long as a backup may stand on it, an incremental one reads no more than that (X2).

mod backups;
mod clones;
mod engine;
mod history;
mod limits;
mod map;
mod wanted;

#[path = "../model/random.rs"]
mod random;
#[path = "../support/mod.rs"]
mod support;
mod world;
