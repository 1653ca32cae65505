//! Figures as Markdown tables, and the few statistics that they need.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where the tables go.
pub struct Report {
    begun: Instant,
    file: Option<File>,
}

impl Report {
    /// Standard output, and a file beside it if one is named.
    pub fn new(file: Option<PathBuf>) -> Result<Report> {
        let create =
            |path: PathBuf| File::create(&path).with_context(|| format!("cannot write {}", path.display()));
        Ok(Report { begun: Instant::now(), file: file.map(create).transpose()? })
    }

    /// Says on standard error what goes on.
    pub fn progress(&self, text: &str) {
        eprintln!("{:>6.1} s  {text}", self.begun.elapsed().as_secs_f64());
    }

    /// A line below or above a table.
    pub fn line(&mut self, text: &str) -> Result<()> {
        println!("{text}");
        if let Some(file) = &mut self.file {
            writeln!(file, "{text}")?;
        }
        Ok(())
    }

    pub fn table(&mut self, title: &str, heads: &[&str], rows: &[Vec<String>]) -> Result<()> {
        self.line(&format!("\n### {title}\n"))?;
        self.line(&format!("| {} |", heads.join(" | ")))?;
        self.line(&format!("|{}", "---|".repeat(heads.len())))?;
        for row in rows {
            self.line(&format!("| {} |", row.join(" | ")))?;
        }
        self.line("")
    }
}

/// The middle one.
pub fn median<T: Copy + PartialOrd>(values: &[T]) -> T {
    quantile(values, 50)
}

/// The smallest value that so many percent of all are not above. Of 20 values, the 99 % one is the largest.
pub fn quantile<T: Copy + PartialOrd>(values: &[T], percent: usize) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).expect("figures are numbers"));
    sorted[(sorted.len() * percent).div_ceil(100).saturating_sub(1)]
}

/// Milliseconds, to a tenth.
pub fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

/// Median and 99th percentile, in milliseconds.
pub fn median_p99(times: &[Duration]) -> [String; 2] {
    [ms(median(times)), ms(quantile(times, 99))]
}
