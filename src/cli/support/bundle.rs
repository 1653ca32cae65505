//! The file itself: parts that came about, and a list of those that did not.

use super::redact::Redactor;
use crate::host::deadline::within;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde_json::Value;
use std::fmt::Display;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// The folder that the bundle unpacks to.
const FOLDER: &str = "strata-support";
/// Of one part: what is longer loses its begin.
const LONGEST: usize = 32 << 20;

/// A bundle that is being written.
pub(super) struct Bundle<W: Write> {
    tar: tar::Builder<GzEncoder<W>>,
    redactor: Redactor,
    now: u64,
    files: usize,
    errors: Vec<String>,
}

/// What was put together.
pub(super) struct Done {
    pub files: usize,
    pub errors: Vec<String>,
}

/// Does the work of one part, whatever becomes of it.
pub(super) fn attempt<T: Send + 'static, E: Display>(
    limit: Duration,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    let guarded = move || {
        let done = catch_unwind(AssertUnwindSafe(work));
        done.map_err(|_| "it broke off".to_owned()).and_then(|done| done.map_err(|error| error.to_string()))
    };
    within(limit, "it", guarded).map_err(|late| late.to_string()).flatten()
}

impl<W: Write> Bundle<W> {
    pub fn new(out: W, redactor: Redactor) -> Self {
        let tar = tar::Builder::new(GzEncoder::new(out, Compression::default()));
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
        Bundle { tar, redactor, now, files: 0, errors: Vec::new() }
    }

    /// Puts a document in, or why there is none. An error: the bundle cannot be written.
    pub fn json(&mut self, path: &str, made: Result<Value, String>) -> io::Result<()> {
        match made {
            Ok(mut value) => {
                self.redactor.json(&mut value);
                let text = serde_json::to_string_pretty(&value).map_err(io::Error::other)?;
                self.put(path, &text)
            }
            Err(reason) => {
                self.failed(path, &reason);
                Ok(())
            }
        }
    }

    /// Puts a text in, or why there is none.
    pub fn text(&mut self, path: &str, made: Result<String, String>) -> io::Result<()> {
        match made {
            Ok(text) => {
                let text = self.redactor.text(tail(&text, LONGEST));
                self.put(path, &text)
            }
            Err(reason) => {
                self.failed(path, &reason);
                Ok(())
            }
        }
    }

    /// A part, or a piece of one, is missing.
    pub fn failed(&mut self, what: &str, reason: &str) {
        let line = self.redactor.text(&format!("{what}: {reason}")).replace('\n', " ");
        self.errors.push(line);
    }

    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    fn put(&mut self, path: &str, text: &str) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.now);
        self.tar.append_data(&mut header, format!("{FOLDER}/{path}"), text.as_bytes())?;
        self.files += 1;
        Ok(())
    }

    /// Writes what is missing, and ends the file.
    pub fn finish(mut self) -> io::Result<Done> {
        let errors = std::mem::take(&mut self.errors);
        self.put("errors.txt", &errors.iter().map(|line| format!("{line}\n")).collect::<String>())?;
        self.tar.into_inner()?.finish()?.flush()?;
        Ok(Done { files: self.files, errors })
    }
}

/// The end of a text, from the begin of a line or at least of a character.
pub(super) fn tail(text: &str, longest: usize) -> &str {
    let Some(cut) = text.len().checked_sub(longest).filter(|cut| *cut > 0) else { return text };
    let cut = (cut..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let rest = &text[cut..];
    rest.split_once('\n').map_or(rest, |(_, lines)| if lines.is_empty() { rest } else { lines })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use serde_json::json;
    use std::io::Read;

    #[test]
    fn what_fails_hangs_or_breaks_off_is_a_line() {
        let mut out = Vec::new();
        let mut bundle = Bundle::new(&mut out, Redactor::new([]));
        let slow = attempt(Duration::from_millis(50), || {
            std::thread::sleep(Duration::from_secs(5));
            Ok::<_, String>(Value::Null)
        });
        bundle.json("slow.json", slow).unwrap();
        let broken = attempt(Duration::from_secs(5), || -> Result<Value, String> { panic!("a test's") });
        bundle.json("broken.json", broken).unwrap();
        bundle.text("refused.txt", Err("see https://u:p@h/\nthere".to_owned())).unwrap();
        bundle.json("good.json", Ok(json!({"a": 1}))).unwrap();
        let done = bundle.finish().unwrap();
        assert!(done.errors[0].starts_with("slow.json: it did not finish within"), "{:?}", done.errors);
        assert_eq!(
            done.errors[1..],
            ["broken.json: it broke off", "refused.txt: see https://[redacted]@h/ there"]
        );
        let mut unpacked = tar::Archive::new(GzDecoder::new(&out[..]));
        let mut found = Vec::new();
        for entry in unpacked.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            found.push((entry.path().unwrap().display().to_string(), text.lines().count()));
        }
        let expected =
            [("strata-support/good.json".to_owned(), 3), ("strata-support/errors.txt".to_owned(), 3)];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_end_of_a_text_begins_with_a_line() {
        assert_eq!(tail("one\ntwo\nthree", 9), "three");
        assert_eq!(tail("short", 9), "short");
        assert_eq!(tail("überlang", 8), "berlang");
    }
}
