//! Two nodes never write to one image, and a share that is dead or hangs stops nobody else (G14, invariant 3): three
//! servers and two nodes with network namespaces of their own, and links that are really cut.

mod away;
mod cutoff;
#[path = "../support/driver.rs"]
#[allow(dead_code)]
mod driver;
mod partition;
mod space;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::io::Write;
use std::time::{Duration, Instant};
use world::World;

/// Waits for something to come true.
pub fn eventually(what: &str, limit: Duration, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !check() {
        assert!(Instant::now() < deadline, "{what}: not within {} s", limit.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Past the capture of a passing test's output: how far it is.
pub fn say(begun: Instant, line: &str) {
    let _ = writeln!(std::io::stderr(), "{:6.1} s  {line}", begun.elapsed().as_secs_f32());
}

/// One after the other in one world: it takes a while to make.
#[test]
fn nodes_that_are_cut_off_are_fenced_and_shares_that_hang_stop_nobody() {
    let begun = Instant::now();
    let mut world = World::new();
    say(begun, "three servers with a volume");
    world.add_nodes();
    partition::weak_locks_are_refused(&world);
    say(begun, "a share with weak locks is refused");
    partition::start(&mut world);
    say(begun, "two nodes");
    partition::a_node_that_is_cut_off_never_writes_again(&world);
    say(begun, "a node that was cut off is fenced");
    cutoff::a_controller_that_lost_its_lock_writes_nothing(&world);
    say(begun, "a controller that was cut off is fenced");
    away::a_mount_hangs(&world);
    say(begun, "a mount that hangs stops nobody else");
    away::a_brick_hangs(&world);
    say(begun, "a brick that hangs is done without");
    away::a_share_goes_away_and_comes_back(&world);
    say(begun, "a share that went away came back");
}
