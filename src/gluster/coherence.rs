//! The proof that two mounts of one share see the same files at the same time.

use rustix::fs::{Mode, OFlags};
use snafu::{ResultExt, Snafu, ensure};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A cache that expires meanwhile would hide behind a single try.
const ROUNDS: u32 = 3;
/// A file that only the kernel's pages showed old is tried so often. On a mount with the client's metadata cache every
/// try fails, for up to a second; without it one in some hundreds was seen to, and images are read past those pages.
const TRIES: u32 = 3;
const ALIGN: usize = 4096;

/// Why two mounts are not known to be coherent.
#[derive(Debug, Snafu)]
pub enum CoherenceError {
    /// One mount showed what was no longer true.
    #[snafu(display(
        "two mounts of the share disagree: after {change} through one, the other still showed the old file \
         ({again}); images would be opened without their last writes"
    ))]
    Incoherent {
        /// What had been done.
        change: &'static str,
        /// What further looks showed: where the old file came from.
        again: String,
        /// Past the kernel's pages the file was the new one.
        only_pages: bool,
    },
    /// The test itself failed.
    #[snafu(display("the coherence test cannot {action} {}: {source}", path.display()))]
    Probe {
        /// The step.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// From the kernel.
        source: io::Error,
    },
}

/// Changes files through one mount and reads them at once through the other, which had looked at them
/// before: a rename, a rewrite in place, a growing file; in both directions. `folder` is there already,
/// relative to both roots; what is made in it is removed.
pub fn prove(one: &Path, other: &Path, folder: &Path) -> Result<(), CoherenceError> {
    let name = format!("coherence-{}", uuid::Uuid::new_v4().simple());
    let made = one.join(folder).join(&name);
    fs::create_dir(&made).context(ProbeSnafu { action: "make", path: &made })?;
    let seen = other.join(folder).join(&name);
    let result = (0..ROUNDS).try_for_each(|round| {
        certain(|attempt| watch(&made, &seen, &format!("there-{round}-{attempt}")))?;
        certain(|attempt| watch(&seen, &made, &format!("back-{round}-{attempt}")))
    });
    let removed = fs::remove_dir_all(&made).context(ProbeSnafu { action: "remove", path: &made });
    result.and(removed)
}

/// Tries again where only the kernel's pages were behind, and believes what the last try says.
fn certain(mut look: impl FnMut(u32) -> Result<(), CoherenceError>) -> Result<(), CoherenceError> {
    for attempt in 1..TRIES {
        match look(attempt) {
            Err(error @ CoherenceError::Incoherent { only_pages: true, .. }) => {
                tracing::warn!(%error, "looking once more");
            }
            seen => return seen,
        }
    }
    look(TRIES)
}

fn watch(writer: &Path, reader: &Path, name: &str) -> Result<(), CoherenceError> {
    let (ours, theirs) = (writer.join(name), reader.join(name));
    let replacement = writer.join(format!("{name}.new"));

    write(&ours, b"first")?;
    look(&theirs)?;
    write(&replacement, b"other")?;
    fs::rename(&replacement, &ours).context(ProbeSnafu { action: "rename", path: &ours })?;
    ensure!(look(&theirs)? == b"other", stale("a rename", &theirs, b"other"));

    overwrite(&ours, b"third", 0)?;
    ensure!(look(&theirs)? == b"third", stale("a rewrite in place", &theirs, b"third"));

    let growth = vec![0x5a; 256 << 10];
    overwrite(&ours, &growth, 5)?;
    let size = fs::metadata(&theirs).context(ProbeSnafu { action: "look at", path: &theirs })?.len();
    let grown = look(&theirs)?;
    ensure!(
        size == 5 + growth.len() as u64 && grown[..5] == *b"third" && grown[5..] == growth[..],
        stale("growth", &theirs, b"third")
    );
    Ok(())
}

/// Looks again, past the kernel's pages and then a little later: the servers, the client and the kernel can each be what
/// is behind.
fn stale(change: &'static str, path: &Path, new: &[u8]) -> IncoherentSnafu<&'static str, String, bool> {
    let begins = |seen: io::Result<Vec<u8>>| match seen {
        Ok(bytes) if bytes.starts_with(new) => "new".to_owned(),
        Ok(_) => "old".to_owned(),
        Err(error) => error.to_string(),
    };
    let direct = begins(look_past_the_cache(path));
    std::thread::sleep(Duration::from_millis(200));
    let later = begins(fs::read(path));
    IncoherentSnafu {
        change,
        only_pages: direct == "new" && later == "new",
        again: format!("at once without the kernel's cache: {direct}; 200 ms later: {later}"),
    }
}

fn look_past_the_cache(path: &Path) -> io::Result<Vec<u8>> {
    let file =
        File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())?);
    // O_DIRECT asks for aligned memory.
    let mut buffer = vec![0; 2 * ALIGN];
    let start = buffer.as_ptr().align_offset(ALIGN);
    let read = file.read_at(&mut buffer[start..start + ALIGN], 0)?;
    Ok(buffer[start..start + read].to_vec())
}

fn look(path: &Path) -> Result<Vec<u8>, CoherenceError> {
    fs::read(path).context(ProbeSnafu { action: "read", path })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), CoherenceError> {
    let file = File::create(path).context(ProbeSnafu { action: "create", path })?;
    file.write_all_at(bytes, 0).and_then(|()| file.sync_all()).context(ProbeSnafu { action: "write", path })
}

fn overwrite(path: &Path, bytes: &[u8], offset: u64) -> Result<(), CoherenceError> {
    let file = OpenOptions::new().write(true).open(path).context(ProbeSnafu { action: "open", path })?;
    file.write_all_at(bytes, offset)
        .and_then(|()| file.sync_all())
        .context(ProbeSnafu { action: "write", path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_folder_agrees_with_itself_and_is_left_empty() {
        let dir = tempfile::tempdir().unwrap();
        prove(dir.path(), dir.path(), Path::new("")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// Pages that were behind once are no verdict; behind every time they are, and so is an old file beneath them.
    #[test]
    fn old_pages_are_looked_at_again() {
        let tries = |only_pages: bool, stale: u32| {
            let mut calls = 0;
            let result = certain(|_| {
                calls += 1;
                let seen = IncoherentSnafu { change: "a change", again: "", only_pages };
                if calls <= stale { seen.fail() } else { Ok(()) }
            });
            (result.is_ok(), calls)
        };
        assert_eq!(tries(true, 0), (true, 1));
        assert_eq!(tries(true, 2), (true, 3));
        assert_eq!(tries(true, 3), (false, 3));
        assert_eq!(tries(false, 1), (false, 1));
    }

    #[test]
    fn two_folders_do_not_pass_for_one() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert!(prove(one.path(), other.path(), Path::new("")).is_err());
        assert_eq!(fs::read_dir(one.path()).unwrap().count(), 0);
    }
}
