//! The backup engine, from outside: against what Cinder wrote, over each kind of store, and through
//! the command line.

#[macro_use]
mod forward;

mod asked;
mod bad_input;
mod broken_off;
mod cinder;
mod cli;
mod clone;
mod compare;
mod delta;
mod engine;
mod export;
mod gc;
mod gc_bent;
mod meddled;
mod on_share;
mod prune;
#[path = "../model/random.rs"]
#[allow(dead_code)]
mod random;
mod rebase;
mod removed;
mod repair;
mod restore;
mod restore_large;
mod resume;
mod s3_server;
mod sizes;
mod snapshot;
mod split;
#[path = "../support/mod.rs"]
mod support;
mod util;
mod verbs;
mod verify;
