//! How far a command is, on the standard error: a bar, lines of text, or lines of JSON.

use super::size::human;
use crate::backup::{Progress, ProgressState};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// A bar on a terminal; elsewhere a line now and then.
    #[default]
    Auto,
    /// A line of text every few seconds, and one at the end.
    Plain,
    /// A line of JSON every second, and one at the end.
    Json,
    /// Not at all.
    None,
}

/// Where nobody watches.
const SELDOM: Duration = Duration::from_secs(30);
const PLAIN: Duration = Duration::from_secs(5);
const JSON: Duration = Duration::from_secs(1);
const BAR: Duration = Duration::from_millis(100);

/// A moment, as scripts read it.
#[derive(Debug, Serialize)]
struct Moment {
    bytes_total: u64,
    bytes_done: u64,
    percent: f64,
    bytes_transferred: u64,
    bytes_per_second: u64,
    elapsed_seconds: f64,
    /// Absent while it cannot be told.
    eta_seconds: Option<u64>,
}

impl Moment {
    fn new(state: ProgressState, elapsed: Duration) -> Self {
        let ProgressState { total, done, transferred, .. } = state;
        let seconds = elapsed.as_secs_f64();
        let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        let left = total.saturating_sub(done) as f64;
        Moment {
            bytes_total: total,
            bytes_done: done,
            percent: if total > 0 { 100.0 * done.min(total) as f64 / total as f64 } else { 0.0 },
            bytes_transferred: transferred,
            bytes_per_second: rate as u64,
            elapsed_seconds: seconds,
            eta_seconds: (rate > 0.0 && total > 0).then(|| (left / rate).ceil() as u64),
        }
    }

    fn plain(&self) -> String {
        let eta = self.eta_seconds.map_or("-".to_owned(), |seconds| format!("{seconds} s"));
        format!(
            "{:.1}%  {} of {}  {}/s  transferred {}  eta {eta}",
            self.percent,
            human(self.bytes_done),
            human(self.bytes_total),
            human(self.bytes_per_second),
            human(self.bytes_transferred),
        )
    }

    fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers under text keys always become JSON")
    }
}

/// As the command line says: one command is all that a process runs.
static CHOSEN: OnceLock<ProgressMode> = OnceLock::new();

/// Before anything is shown; the first choice counts.
pub fn choose(mode: ProgressMode) {
    CHOSEN.get_or_init(|| mode);
}

/// Runs `work` and shows how far it is, as was chosen.
pub async fn with_bar<T>(progress: &Progress, work: impl Future<Output = T>) -> T {
    match CHOSEN.get().copied().unwrap_or_default() {
        ProgressMode::None => work.await,
        ProgressMode::Auto if io::stderr().is_terminal() => with_terminal(progress, work).await,
        ProgressMode::Auto => with_lines(progress, work, SELDOM, Moment::plain, false).await,
        ProgressMode::Plain => with_lines(progress, work, PLAIN, Moment::plain, true).await,
        ProgressMode::Json => with_lines(progress, work, JSON, Moment::json, true).await,
    }
}

async fn with_lines<T>(
    progress: &Progress,
    work: impl Future<Output = T>,
    every: Duration,
    line: fn(&Moment) -> String,
    at_the_end: bool,
) -> T {
    let started = Instant::now();
    let show = || eprintln!("{}", line(&Moment::new(progress.state(), started.elapsed())));
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    loop {
        tokio::select! {
            done = &mut work => {
                if at_the_end {
                    show();
                }
                return done;
            }
            _ = ticks.tick() => show(),
        }
    }
}

async fn with_terminal<T>(progress: &Progress, work: impl Future<Output = T>) -> T {
    let bar = ProgressBar::new(0);
    let template =
        "{bar:30} {percent:>3}% {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {eta} {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(BAR);
    loop {
        tokio::select! {
            done = &mut work => {
                bar.finish_and_clear();
                return done;
            }
            _ = ticks.tick() => {
                let state = progress.state();
                bar.set_length(state.total);
                bar.set_position(state.done);
                bar.set_message(format!("transferred {}", human(state.transferred)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B8: a true percentage, a rate and an estimate; nothing is divided by nothing.
    #[test]
    fn moments() {
        let progress = Progress::default();
        progress.set_total(4 << 20);
        progress.add_done(1 << 20);
        let moment = Moment::new(progress.state(), Duration::from_secs(2));
        assert_eq!((moment.percent, moment.bytes_per_second, moment.eta_seconds), (25.0, 1 << 19, Some(6)));
        assert_eq!(moment.plain(), "25.0%  1.0 MiB of 4.0 MiB  512.0 KiB/s  transferred 0 B  eta 6 s");
        let json: serde_json::Value = serde_json::from_str(&moment.json()).unwrap();
        assert_eq!((&json["percent"], &json["bytes_transferred"]), (&25.0.into(), &0.into()));
        let begun = Moment::new(ProgressState::default(), Duration::ZERO);
        assert_eq!((begun.percent, begun.bytes_per_second, begun.eta_seconds), (0.0, 0, None));
    }
}
