//! How results are shown: text for people, JSON for programs.

use super::exit::Failure;
pub use super::progress::with_bar;
use clap::ValueEnum;
use serde::Serialize;
use std::io::{self, Write};
use std::process::ExitCode;

/// The shape of the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// Prints a result, or an error (as text on the standard error; with JSON also as
/// `{"error": …, "exit_code": …}` on the standard output).
pub fn finish<T: Serialize>(output: Output, result: Result<T, Failure>, text: fn(&T) -> String) -> ExitCode {
    let shown = match (output, &result) {
        (Output::Text, Ok(value)) => text(value),
        (Output::Text, Err(_)) => String::new(),
        (Output::Json, Ok(value)) => json(value),
        (Output::Json, Err(e)) => json(&serde_json::json!({"error": e.message, "exit_code": e.code})),
    };
    let written = io::stdout().write_all(shown.as_bytes()).and_then(|()| io::stdout().flush());
    match (result, written) {
        (Err(failure), _) => {
            eprintln!("error: {}", failure.message);
            failure.exit_code()
        }
        // Nobody learns what was done: to a script that is a failure.
        (Ok(_), Err(e)) => {
            eprintln!("error: the result cannot be printed: {e}");
            ExitCode::FAILURE
        }
        (Ok(_), Ok(())) => ExitCode::SUCCESS,
    }
}

fn json<T: Serialize>(value: &T) -> String {
    let text = serde_json::to_string_pretty(value).expect("results have text keys and always become JSON");
    format!("{text}\n")
}

/// Lines of `key: value`; empty values are left out.
pub fn lines(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 1;
    let shown = pairs.iter().filter(|(_, value)| !value.is_empty());
    shown.map(|(key, value)| format!("{:width$} {value}\n", format!("{key}:"))).collect()
}

/// Columns, as wide as their widest cell.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}
