//! Whose turn it is: one backup of a volume at a time, the oldest snapshot first, and so many in all, per repository and per
//! node.

use crate::volume::NodeId;
use jiff::Timestamp;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use uuid::Uuid;

/// One backup that waits or runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    /// The VolumeBackup.
    pub backup: String,
    /// When its snapshot was taken.
    pub taken: Timestamp,
    pub volume: Uuid,
    pub repository: String,
    /// How many its repository takes at a time.
    pub limit: usize,
    /// The nodes that use the volume while it gets in line: their disks share the servers with what reads it.
    pub nodes: Vec<NodeId>,
}

/// How many backups may run at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub workers: usize,
    /// Of volumes that one node uses.
    pub per_node: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Ticket>,
    running: Vec<Ticket>,
}

impl State {
    fn may_run(&self, ticket: &Ticket, bounds: Bounds) -> bool {
        let before = |other: &&Ticket| {
            other.volume == ticket.volume && (other.taken, &other.backup) < (ticket.taken, &ticket.backup)
        };
        let of_repository = self.running.iter().filter(|other| other.repository == ticket.repository);
        let of_node = |node: &NodeId| self.running.iter().filter(|other| other.nodes.contains(node)).count();
        self.running.len() < bounds.workers
            && of_repository.count() < ticket.limit
            && ticket.nodes.iter().all(|node| of_node(node) < bounds.per_node)
            && self.running.iter().all(|other| other.volume != ticket.volume)
            && !self.waiting.iter().any(|other| before(&other))
    }
}

/// The line.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    bounds: Bounds,
}

/// A place in the line, or the right to run; given back when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    queue: Queue,
    backup: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.waiting.retain(|ticket| ticket.backup != self.backup);
        state.running.retain(|ticket| ticket.backup != self.backup);
        drop(state);
        self.queue.changed.notify_waiters();
    }
}

impl Queue {
    pub fn new(bounds: Bounds) -> Self {
        Queue { state: Arc::default(), changed: Arc::default(), bounds }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changed by whole inserts and removals only.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this one may run. Dropped before, it leaves the line.
    pub async fn enter(&self, ticket: Ticket) -> Turn {
        let turn = Turn { queue: self.clone(), backup: ticket.backup.clone() };
        self.state().waiting.push(ticket.clone());
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no word is missed.
            changed.as_mut().enable();
            {
                let mut state = self.state();
                if state.may_run(&ticket, self.bounds) {
                    state.waiting.retain(|other| other.backup != ticket.backup);
                    state.running.push(ticket);
                    drop(state);
                    // The next of another volume may have waited behind nothing but this one's place.
                    self.changed.notify_waiters();
                    return turn;
                }
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(backup: &str, taken: i64, volume: u128, repository: &str) -> Ticket {
        Ticket {
            backup: backup.to_owned(),
            taken: Timestamp::from_second(taken).unwrap(),
            volume: Uuid::from_u128(volume),
            repository: repository.to_owned(),
            limit: 2,
            nodes: Vec::new(),
        }
    }

    fn bounds(workers: usize) -> Bounds {
        Bounds { workers, per_node: usize::MAX }
    }

    #[test]
    fn one_of_a_volume_and_so_many_in_all() {
        let mut state = State { running: vec![ticket("a", 1, 1, "r")], ..State::default() };
        assert!(!state.may_run(&ticket("b", 2, 1, "s"), bounds(9)), "the same volume");
        assert!(state.may_run(&ticket("b", 2, 2, "r"), bounds(9)));
        assert!(!state.may_run(&ticket("b", 2, 2, "r"), bounds(1)), "no worker");
        state.running.push(ticket("b", 2, 2, "r"));
        assert!(!state.may_run(&ticket("c", 3, 3, "r"), bounds(9)), "the repository is full");
        assert!(state.may_run(&ticket("c", 3, 3, "s"), bounds(9)));
        state.waiting.push(ticket("d", 1, 3, "s"));
        assert!(!state.may_run(&ticket("c", 3, 3, "s"), bounds(9)), "an older snapshot waits");
    }

    #[test]
    fn so_many_of_the_volumes_of_one_node() {
        let on = |nodes: &[&str], of: Ticket| {
            let nodes = nodes.iter().map(|node| node.parse().unwrap()).collect();
            Ticket { nodes, limit: 9, ..of }
        };
        let bounds = Bounds { workers: 9, per_node: 2 };
        let running = vec![on(&["n1"], ticket("a", 1, 1, "r")), on(&["n1", "n2"], ticket("b", 1, 2, "r"))];
        let mut state = State { running, ..State::default() };
        assert!(!state.may_run(&on(&["n1"], ticket("c", 1, 3, "r")), bounds));
        assert!(state.may_run(&on(&["n2"], ticket("c", 1, 3, "r")), bounds));
        assert!(
            !state.may_run(&on(&["n2", "n1"], ticket("c", 1, 3, "r")), bounds),
            "each of its nodes counts"
        );
        assert!(state.may_run(&ticket("c", 1, 3, "s"), bounds), "no node uses it");
        state.running.pop();
        assert!(state.may_run(&on(&["n1"], ticket("c", 1, 3, "r")), bounds));
    }

    #[tokio::test]
    async fn the_next_one_is_let_in_when_one_ends_or_leaves() {
        let queue = Queue::new(bounds(4));
        let first = queue.enter(ticket("a", 1, 1, "r")).await;
        let (second, third) = (queue.clone(), queue.clone());
        let second = tokio::spawn(async move { second.enter(ticket("b", 2, 1, "r")).await });
        while queue.state().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        let third = tokio::spawn(async move { third.enter(ticket("c", 3, 1, "r")).await });
        while queue.state().waiting.len() < 2 {
            tokio::task::yield_now().await;
        }
        second.abort();
        assert!(second.await.unwrap_err().is_cancelled());
        drop(first);
        let third = third.await.unwrap();
        assert_eq!(queue.state().running[0].backup, "c");
        drop(third);
        assert!(queue.state().running.is_empty() && queue.state().waiting.is_empty());
    }
}
