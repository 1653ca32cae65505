//! The shares of this process: which are open, which are not and why.

use crate::gluster::{Share, ShareKey, Source};
use crate::volume::{Error, Room, Tools, VolumeId, VolumeKind, Volumes};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tonic::Status;

/// Of a thinly made volume, what its first metadata and writes take.
const THIN_START: u64 = 64 << 20;

/// A share as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareSpec {
    /// Where it comes from.
    pub source: Source,
    /// Mount options beyond those that safety demands.
    pub options: Vec<String>,
}

/// Makes shares ready; blocking. The error is for a person.
pub trait OpenShare: Send + Sync {
    /// Mounts and proves a share. Done already: the same answer, once it was seen to be alive.
    fn open(&self, spec: &ShareSpec) -> Result<Share, String>;
}

/// The shares that this process was given.
pub struct Shares {
    specs: Vec<ShareSpec>,
    opener: Arc<dyn OpenShare>,
    tools: Tools,
    state: Mutex<BTreeMap<String, Slot>>,
}

/// What became of one source.
enum Slot {
    Open(Volumes),
    Failed(String),
}

impl Shares {
    /// None is open yet: see [`Shares::refresh`].
    pub fn new(specs: Vec<ShareSpec>, opener: Arc<dyn OpenShare>, tools: Tools) -> Self {
        Shares { specs, opener, tools, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        // Changed by whole inserts only.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens what is not open, and looks whether the others are still alive, all at the same time: one that
    /// hangs or fails is reported, and does not stop the others (G1). Blocking.
    pub fn refresh(&self) {
        std::thread::scope(|scope| {
            for spec in &self.specs {
                scope.spawn(|| self.refresh_one(spec));
            }
        });
    }

    fn refresh_one(&self, spec: &ShareSpec) {
        let name = spec.source.to_string();
        let result = self.opener.open(spec);
        let mut state = self.state();
        match (result, state.get(&name)) {
            (Ok(share), Some(Slot::Open(known)))
                if known.share().key == share.key && known.share().root == share.root => {}
            (Ok(share), _) => {
                tracing::info!(share = name, key = %share.key, "share is open");
                state.insert(name, Slot::Open(Volumes::new(share, self.tools.clone())));
            }
            (Err(reason), known) => {
                if !matches!(known, Some(Slot::Failed(before)) if *before == reason) {
                    tracing::error!(share = name, reason, "share is not usable");
                }
                state.insert(name, Slot::Failed(reason));
            }
        }
    }

    /// The open shares; two sources with one key are one share.
    pub fn open(&self) -> Vec<Volumes> {
        let mut by_key = BTreeMap::new();
        for slot in self.state().values() {
            if let Slot::Open(volumes) = slot {
                by_key.entry(volumes.share().key.clone()).or_insert_with(|| volumes.clone());
            }
        }
        by_key.into_values().collect()
    }

    /// Whether all shares are open.
    pub fn complete(&self) -> bool {
        self.missing().is_none()
    }

    /// Why not all shares are open.
    fn missing(&self) -> Option<String> {
        let state = self.state();
        let reasons: Vec<String> = self
            .specs
            .iter()
            .filter_map(|spec| match state.get(&spec.source.to_string()) {
                Some(Slot::Open(_)) => None,
                Some(Slot::Failed(reason)) => Some(format!("{}: {reason}", spec.source)),
                None => Some(format!("{}: it is still being mounted", spec.source)),
            })
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// The volumes of the share with that key. Unknown while a share is away: perhaps that one has it.
    pub(super) fn get(&self, key: &ShareKey) -> Result<Volumes, Status> {
        let found = self.open().into_iter().find(|volumes| volumes.share().key == *key);
        found.ok_or_else(|| match self.missing() {
            Some(missing) => Status::unavailable(format!("share {key} is not usable now ({missing})")),
            None => Error::ShareNotFound { share: key.to_string() }.into(),
        })
    }

    /// All shares; an error when one is away, so that a listing is never silently short.
    pub(super) fn all(&self) -> Result<Vec<Volumes>, Status> {
        match self.missing() {
            Some(missing) => Err(Status::unavailable(format!("not all shares are usable now ({missing})"))),
            None => Ok(self.open()),
        }
    }

    /// The share for a new volume (G3): the one that has it already, else the one that its class names,
    /// else the one with the most room.
    pub(super) fn choose(
        &self,
        name: &str,
        wanted: Option<&str>,
        kind: VolumeKind,
        size: u64,
    ) -> Result<Volumes, Status> {
        if let Some(wanted) = wanted {
            return self.named(wanted);
        }
        let open = self.open();
        if open.is_empty() {
            return Err(match self.missing() {
                Some(missing) => Status::unavailable(format!("no share is mounted ({missing})")),
                None => Error::NoShare.into(),
            });
        }
        let id = VolumeId::from_name(name);
        for volumes in &open {
            match volumes.get(id) {
                Ok(_) => return Ok(volumes.clone()),
                Err(Error::VolumeNotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut roomiest: Option<(u64, Volumes)> = None;
        for volumes in open {
            let Room { free, .. } = volumes.room()?;
            if roomiest.as_ref().is_none_or(|(most, _)| free > *most) {
                roomiest = Some((free, volumes));
            }
        }
        let Some((free, volumes)) = roomiest else { return Err(Error::NoShare.into()) };
        let needed = if kind == VolumeKind::RawFull { size } else { THIN_START };
        if free < needed {
            return Err(Error::NoRoom { needed, free }.into());
        }
        Ok(volumes)
    }

    fn named(&self, wanted: &str) -> Result<Volumes, Status> {
        let matches = |volumes: &Volumes| {
            volumes.share().key.as_str() == wanted || volumes.share().source.to_string() == wanted
        };
        if let Some(volumes) = self.open().into_iter().find(matches) {
            return Ok(volumes);
        }
        match self.missing() {
            Some(missing) => {
                Err(Status::unavailable(format!("share {wanted} is not usable now ({missing})")))
            }
            None => Err(Status::invalid_argument(format!(
                "the StorageClass names the share {wanted:?}, which is none of this driver's shares"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{AgentClient, CUT_LIMIT};
    use crate::qsd::LocalDaemons;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    /// The first share hangs until it is told to fail; the second opens at once.
    struct Scripted {
        release: Mutex<Receiver<()>>,
    }

    impl OpenShare for Scripted {
        fn open(&self, spec: &ShareSpec) -> Result<Share, String> {
            if spec.source.to_string() == "dead:/v" {
                let told = self.release.lock().unwrap().recv_timeout(Duration::from_secs(20));
                return Err(format!("no answer ({told:?})"));
            }
            let key = "s1".parse().unwrap();
            Ok(Share { key, source: spec.source.clone(), root: "/nowhere".into() })
        }
    }

    fn shares(runtime: &tokio::runtime::Runtime) -> (Arc<Shares>, Sender<()>) {
        let (tell, release) = channel();
        let tools = Tools {
            qemu_img: "qemu-img".into(),
            daemons: Arc::new(LocalDaemons::new("none".into(), "/nowhere".into())),
            agents: Arc::new(AgentClient::new(runtime.handle().clone(), CUT_LIMIT)),
        };
        let spec = |source: &str| ShareSpec { source: source.parse().unwrap(), options: Vec::new() };
        let opener = Arc::new(Scripted { release: Mutex::new(release) });
        (Arc::new(Shares::new(vec![spec("dead:/v"), spec("live:/v")], opener, tools)), tell)
    }

    /// G1: one that hangs does not keep the others waiting, and what may be on it is not "not found".
    #[test]
    fn a_share_that_hangs_stops_nobody() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (shares, tell) = shares(&runtime);
        let refreshing = Arc::clone(&shares);
        let round = std::thread::spawn(move || refreshing.refresh());
        let (known, unknown): (ShareKey, ShareKey) = ("s1".parse().unwrap(), "s2".parse().unwrap());
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while shares.get(&known).is_err() {
            assert!(std::time::Instant::now() < deadline, "the live share waits for the dead one");
            std::thread::sleep(Duration::from_millis(5));
        }
        let away = shares.get(&unknown).err().unwrap();
        assert_eq!(away.code(), tonic::Code::Unavailable);
        assert!(!shares.complete() && shares.all().is_err());
        tell.send(()).unwrap();
        round.join().unwrap();
        let away = shares.get(&unknown).err().unwrap();
        assert!(away.message().contains("no answer"), "{}", away.message());
    }
}
