//! The shares that this data plane has mounted, and the list that tells its successor about them.

use crate::gluster::{self, MountOption, Share, ShareKey, Source};
use crate::host::deadline::within;
use crate::host::fsio;
use serde::{Deserialize, Serialize};
use snafu::{OptionExt, ResultExt, Snafu, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a caller waits for another one that is busy with the same source: a mount, its preflight and
/// its test take that long at most.
pub(super) const TURN: Duration = Duration::from_secs(150);
/// A live share answers in milliseconds; while its servers fail over, after some ping timeouts.
const ALIVE: Duration = Duration::from_secs(20);

/// Why a share was not mounted or unmounted.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum SharesError {
    /// Not usable.
    #[snafu(display("{source}"))]
    Open {
        /// Cause.
        source: gluster::ShareError,
    },
    /// A look at it has not come back.
    #[snafu(display("share {share} does not answer: check its servers"))]
    Silent {
        /// Which.
        share: Source,
    },
    /// An option that is refused.
    #[snafu(display("{source}"))]
    Option {
        /// Cause.
        source: gluster::InvalidOption,
    },
    /// Nothing new is mounted any more.
    #[snafu(display("share {share} is not mounted now: the data plane of this node ends"))]
    Ending {
        /// Which.
        share: Source,
    },
    /// Another caller mounts or unmounts it.
    #[snafu(display("share {share} is being mounted or unmounted by another call; ask again"))]
    Busy {
        /// Which.
        share: Source,
    },
    /// Images on it are open.
    #[snafu(display("share {share} is in use: process {pid} has files of it open"))]
    InUse {
        /// Which.
        share: Source,
        /// Whose.
        pid: u32,
    },
    /// The list of shares.
    #[snafu(display("{source}"))]
    List {
        /// Cause.
        source: fsio::FsError,
    },
}

/// One entry of the list on this node's disk. What a newer version added is passed over: else going back to this one
/// would leave running volumes without their shares.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Wanted {
    source: String,
    options: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct List {
    schema: u32,
    shares: Vec<Wanted>,
}

#[derive(Default)]
pub(super) struct State {
    open: BTreeMap<String, (Share, Vec<String>)>,
    options: BTreeMap<String, Vec<String>>,
    pub(super) busy: Vec<String>,
    /// Shares at which a look is under way, perhaps for ever: one thread each, however often they are asked for.
    looks: BTreeMap<String, Arc<AtomicBool>>,
}

/// The shares of this node.
pub struct MountedShares {
    dir: PathBuf,
    state: Mutex<State>,
    pub(super) turns: Condvar,
    /// Nothing new is mounted any more.
    pub(super) ending: AtomicBool,
}

/// The right to work on one source; gives itself back.
struct Turn<'a> {
    shares: &'a MountedShares,
    source: String,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.shares.locked().busy.retain(|other| *other != self.source);
        self.shares.turns.notify_all();
    }
}

impl MountedShares {
    /// Mounts go below `dir`, and so does the list.
    pub fn new(dir: &Path) -> Self {
        let ending = AtomicBool::new(false);
        MountedShares { dir: dir.to_owned(), state: Mutex::default(), turns: Condvar::new(), ending }
    }

    /// Where they are mounted.
    pub(super) fn mounts(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    pub(super) fn locked(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one insert or remove: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, source: &Source) -> Result<Turn<'_>, SharesError> {
        let name = source.to_string();
        let deadline = Instant::now() + TURN;
        let mut state = self.locked();
        while state.busy.contains(&name) {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), BusySnafu { share: source.clone() });
            state = self.turns.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.busy.push(name.clone());
        Ok(Turn { shares: self, source: name })
    }

    /// Reads that file or looks at that folder. None: it did not answer in time, or an earlier look has not come back.
    fn look(&self, source: &str, path: PathBuf) -> Option<io::Result<String>> {
        let under_way = Arc::clone(self.locked().looks.entry(source.to_owned()).or_default());
        if under_way.swap(true, Ordering::SeqCst) {
            return None;
        }
        let look = move || {
            let read = match fs::metadata(&path) {
                Ok(found) if found.is_file() => fs::read_to_string(&path),
                found => found.map(|_| String::new()),
            };
            under_way.store(false, Ordering::SeqCst);
            read
        };
        within(ALIVE, "a look at the share", look).ok()
    }

    /// Mounts a share and proves it safe; mounted and alive already: the same answer.
    pub fn mount(&self, source: &Source, options: &[String]) -> Result<(Share, Vec<String>), SharesError> {
        let parsed = options
            .iter()
            .map(|text| text.parse())
            .collect::<Result<Vec<MountOption>, _>>()
            .context(OptionSnafu)?;
        let turn = self.turn(source)?;
        let mounts = self.mounts();
        let known = self.locked().open.get(&turn.source).cloned();
        let looked = match &known {
            Some((share, _)) => self.look(&turn.source, identity_of(share)),
            // Opening it tells more, but each try would leave a thread behind at a mount that hangs.
            None => self.look(&turn.source, gluster::mount_point(source, &mounts)),
        };
        let answer = looked.context(SilentSnafu { share: source.clone() })?;
        if let Some((share, warnings)) = known
            && answer.is_ok_and(|identity| identity.contains(share.key.as_str()))
        {
            return Ok((share, warnings));
        }
        let wanted = || !self.ending.load(Ordering::SeqCst);
        ensure!(wanted(), EndingSnafu { share: source.clone() });
        let opened = gluster::open_while(source, &parsed, &mounts, &wanted);
        let (share, findings) = opened.context(OpenSnafu)?;
        let warnings: Vec<String> = findings.iter().map(ToString::to_string).collect();
        for warning in &warnings {
            tracing::warn!(share = %source, "{warning}");
        }
        tracing::info!(share = %source, key = %share.key, root = %share.root.display(), "share is mounted");
        let mut state = self.locked();
        state.open.insert(turn.source.clone(), (share.clone(), warnings.clone()));
        state.options.insert(turn.source.clone(), options.to_vec());
        self.save(&state)?;
        Ok((share, warnings))
    }

    /// Unmounts a share. Not mounted: success.
    pub fn unmount(&self, key: &ShareKey) -> Result<(), SharesError> {
        let meant: Vec<Share> = self.list().into_iter().filter(|share| share.key == *key).collect();
        for share in meant {
            let turn = self.turn(&share.source)?;
            if let Some(pid) = user_of(&share.root) {
                return InUseSnafu { share: share.source, pid }.fail();
            }
            gluster::close(&share).context(OpenSnafu)?;
            tracing::info!(share = %share.source, "share is unmounted");
            let mut state = self.locked();
            state.open.remove(&turn.source);
            state.options.remove(&turn.source);
            self.save(&state)?;
        }
        Ok(())
    }

    /// The shares that are mounted.
    pub fn list(&self) -> Vec<Share> {
        self.locked().open.values().map(|(share, _)| share.clone()).collect()
    }

    /// Finds again what an earlier process of this data plane had mounted. A share that does not come back
    /// is reported and does not stop the others.
    pub fn adopt(&self) {
        let wanted = match self.load() {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::warn!(%error, "the list of shares cannot be read; they are mounted when asked for");
                return;
            }
        };
        for Wanted { source, options } in wanted {
            if self.ending.load(Ordering::SeqCst) {
                return;
            }
            let mounted = source
                .parse::<Source>()
                .map_err(|error| error.to_string())
                .and_then(|source| self.mount(&source, &options).map_err(|error| error.to_string()));
            if let Err(error) = mounted {
                tracing::error!(share = source, error, "a share did not come back");
            }
        }
    }

    fn list_file(&self) -> PathBuf {
        self.dir.join("shares.json")
    }

    fn load(&self) -> io::Result<Vec<Wanted>> {
        let bytes = match fs::read(self.list_file()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read?,
        };
        let list: List = serde_json::from_slice(&bytes)?;
        Ok(list.shares)
    }

    fn save(&self, state: &State) -> Result<(), SharesError> {
        let shares = state
            .options
            .iter()
            .map(|(source, options)| Wanted { source: source.clone(), options: options.clone() })
            .collect();
        let list = List { schema: 1, shares };
        let bytes = serde_json::to_vec_pretty(&list).expect("a list has only string keys");
        fsio::write_atomic(&self.list_file(), &bytes).context(ListSnafu)
    }
}

/// What a share that is well can be asked for.
fn identity_of(share: &Share) -> PathBuf {
    share.root.join(".strata/share.json")
}

/// A process that has a file below `root` open: a storage daemon, for all that we start.
fn user_of(root: &Path) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut files = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        files.any(|file| fs::read_link(file.path()).is_ok_and(|link| link.starts_with(root))).then_some(pid)
    })
}

#[cfg(test)]
#[path = "shares_tests.rs"]
mod tests;
