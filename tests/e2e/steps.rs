//! Steps that a person can follow.

use anyhow::{Context, Result};
use std::time::Instant;

pub struct Steps {
    begun: Instant,
    done: usize,
}

impl Steps {
    pub fn new() -> Steps {
        Steps { begun: Instant::now(), done: 0 }
    }

    /// Runs a step, and says how long it took.
    pub fn run<T>(&mut self, what: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        let answer = step().with_context(|| what.to_owned())?;
        self.done += 1;
        println!("{:3}. {what}: {:.1} s", self.done, begun.elapsed().as_secs_f64());
        Ok(answer)
    }

    pub fn note(&self, line: &str) {
        println!("     {line}");
    }

    pub fn summary(&self) -> String {
        format!("all {} steps went well, {:.0} s", self.done, self.begun.elapsed().as_secs_f64())
    }
}
