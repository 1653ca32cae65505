use super::*;
use crate::agent::{AgentClient, CUT_LIMIT};
use crate::csi::placement::Wish;
use crate::gluster;
use crate::qsd::LocalDaemons;
use crate::volume::{CreateVolume, Policy, VolumeId, VolumeKind};
use std::path::Path;
use std::time::Duration;
use tonic::Code;

/// Directories are opened; everything else is dead.
struct Directories;

impl OpenShare for Directories {
    fn open(&self, spec: &ShareSpec) -> Result<Share, String> {
        match &spec.source {
            Source::Dir(_) => {
                let opened = gluster::open(&spec.source, &[], Path::new("/unused"));
                opened.map(|(share, _)| share).map_err(|error| error.to_string())
            }
            Source::Gluster { .. } => Err("no answer".to_owned()),
        }
    }
}

struct World {
    _runtime: tokio::runtime::Runtime,
    _dirs: Vec<tempfile::TempDir>,
    shares: Shares,
}

/// So many directories, and one that is dead if so wished. Nothing was looked at yet.
fn world(directories: usize, dead: bool) -> World {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dirs: Vec<_> = (0..directories).map(|_| tempfile::tempdir().unwrap()).collect();
    let tools = Tools {
        // Cannot be run: a volume that is begun stays half made.
        qemu_img: "/no/such/qemu-img".into(),
        daemons: Arc::new(LocalDaemons::new("none".into(), "/nowhere".into())),
        agents: Arc::new(AgentClient::new(runtime.handle().clone(), CUT_LIMIT)),
        policy: Policy::default(),
    };
    let mut sources: Vec<String> = dirs.iter().map(|dir| format!("dir:{}", dir.path().display())).collect();
    sources.extend(dead.then(|| "dead:/v".to_owned()));
    let spec = |source: &String| ShareSpec { source: source.parse().unwrap(), options: Vec::new() };
    let shares = Shares::new(sources.iter().map(spec).collect(), Arc::new(Directories), tools);
    World { _runtime: runtime, _dirs: dirs, shares }
}

impl World {
    fn looked(self) -> World {
        self.shares.specs().iter().for_each(|spec| self.shares.look(spec));
        self
    }
}

const ANY: Wish<'static> = Wish::Any { kind: VolumeKind::Qcow2, size: 1 << 30 };

fn code(result: Result<OnShare, Status>) -> Code {
    result.map(|volumes| volumes.share().source.to_string()).unwrap_err().code()
}

/// G1: one that is dead does not keep the others waiting, and what may be on it is not "not found".
#[test]
fn a_share_that_is_away_may_have_what_is_not_found() {
    let World { shares, .. } = &world(1, true);
    shares.look(&shares.specs()[0]);
    let known = shares.open()[0].share().key.clone();
    assert!(shares.get(&known).is_ok());
    let unknown: ShareKey = "s2".parse().unwrap();
    assert_eq!(code(shares.get(&unknown)), Code::Unavailable);
    shares.look(&shares.specs()[1]);
    let away = shares.get(&unknown).map(drop).unwrap_err();
    assert!(away.code() == Code::Unavailable && away.message().contains("no answer"), "{away}");
    assert!(shares.all().is_err());
}

/// A share whose look does not come back is nobody's any more, and is itself again after the next one.
#[test]
fn a_share_that_hangs_is_not_used_until_it_answers() {
    let World { shares, .. } = &world(1, false).looked();
    let key = shares.open()[0].share().key.clone();
    shares.hangs(&shares.specs()[0], "it hangs".to_owned());
    assert_eq!(code(shares.get(&key)), Code::Unavailable);
    shares.look(&shares.specs()[0]);
    assert!(shares.get(&key).is_ok());
}

/// G3, invariant 4: the second try of a call finds what the first one began, on whichever share that was;
/// the same name with the wish for another share is taken.
#[test]
fn a_volume_that_was_begun_wins_over_a_roomier_share() {
    let World { shares, .. } = &world(2, false).looked();
    let open = shares.open();
    // Not the one that would be chosen; which it is follows the room of folders that other tests fill as well.
    let first = shares.place("fresh", ANY).unwrap().share().key == open[0].share().key;
    let (chosen, other) = if first { (&open[0], &open[1]) } else { (&open[1], &open[0]) };
    let request = CreateVolume {
        name: "pvc-1".to_owned(),
        required: Some(1 << 30),
        limit: None,
        kind: VolumeKind::Qcow2,
        source: None,
        parameters: [].into(),
    };
    other.create(&request).unwrap_err();
    let id = VolumeId::from_name("pvc-1");
    assert!(other.get(id).is_err(), "it is not ready");
    assert_eq!(shares.place("pvc-1", ANY).unwrap().share().key, other.share().key);
    let there = other.share().source.to_string();
    assert_eq!(shares.place("pvc-1", Wish::Named(&there)).unwrap().share().key, other.share().key);
    let elsewhere = chosen.share().source.to_string();
    assert_eq!(code(shares.place("pvc-1", Wish::Named(&elsewhere))), Code::AlreadyExists);
    assert_eq!(code(shares.place("pvc-1", Wish::Of(&chosen.share().key))), Code::AlreadyExists);
}

/// A dead share stops no unrelated volume, but every one that may lie on it already.
#[test]
fn what_may_lie_on_a_share_that_is_away_waits() {
    let World { shares, .. } = &world(1, true);
    shares.look(&shares.specs()[0]);
    // The other one has not answered yet: an earlier process may have placed anything there.
    assert_eq!(code(shares.place("pvc-1", ANY)), Code::Unavailable);
    shares.look(&shares.specs()[1]);
    shares.place("pvc-1", ANY).unwrap();
    let away: ShareKey = "gone".parse().unwrap();
    shares.memory.put(VolumeId::from_name("pvc-2"), away);
    assert_eq!(code(shares.place("pvc-2", ANY)), Code::Unavailable);
    shares.place("pvc-3", ANY).unwrap();
}

const LIMIT: Duration = Duration::from_millis(500);

/// A share that hangs, without a word yet: what does not concern it is done without it.
#[test]
fn a_share_that_does_not_answer_stops_no_unrelated_volume() {
    let World { shares, .. } = &world(2, false).looked();
    let open = shares.open();
    let (hangs, other) = (&open[0], &open[1]);
    let (release, held) = std::sync::mpsc::channel::<()>();
    let silent = shares.lane(hangs).glance(hangs, LIMIT, move |_| {
        let _ = held.recv();
        Ok(())
    });
    assert!(silent.is_none());
    assert_eq!(shares.place("pvc-1", ANY).unwrap().share().key, other.share().key);
    let there = other.share().source.to_string();
    assert_eq!(shares.place("pvc-2", Wish::Named(&there)).unwrap().share().key, other.share().key);
    shares.memory.put(VolumeId::from_name("pvc-3"), hangs.share().key.clone());
    assert_eq!(code(shares.place("pvc-3", ANY)), Code::Unavailable);
    drop(release);
    while shares.lane(hangs).glance(hangs, LIMIT, |_| Ok(())).is_none() {
        std::thread::yield_now();
    }
    shares.place("pvc-3", ANY).unwrap();
}
