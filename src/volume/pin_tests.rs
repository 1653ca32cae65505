use super::*;
use crate::gluster::{self, ShareKey, Source};
use crate::qsd::LocalDaemons;
use crate::volume::record::{Record, encode, tests::sample};
use crate::volume::*;

/// No node is asked for a pin.
struct Nobody;

impl Agents for Nobody {
    fn cut(&self, _: &NodeId, _: &str, _: &CutOrder) -> Result<CutReport, AgentError> {
        unreachable!()
    }
    fn grow(&self, _: &NodeId, _: &str, _: &GrowOrder) -> Result<GrowReport, AgentError> {
        unreachable!()
    }
    fn merge(&self, _: &NodeId, _: &str, _: &MergeCall) -> Result<MergeReport, AgentError> {
        unreachable!()
    }
    fn status(
        &self,
        _: &NodeId,
        _: &str,
        _: &ShareKey,
        _: VolumeId,
        _: u64,
    ) -> Result<Option<OpenImage>, AgentError> {
        unreachable!()
    }
    fn release(&self, _: &NodeId, _: &str, _: &ShareKey, _: VolumeId) -> Result<(), AgentError> {
        unreachable!()
    }
}

/// A backup that goes on after others have taken its pin away is told at its next renewal, not when the lease would have ended.
#[test]
fn a_pin_that_was_taken_away_is_lost_at_its_next_renewal() {
    let dir = tempfile::tempdir().unwrap();
    let (share, _) = gluster::open(&Source::Dir(dir.path().to_owned()), &[], dir.path()).unwrap();
    let daemons = Arc::new(LocalDaemons::new("none".into(), "/nowhere".into()));
    let tools =
        Tools { qemu_img: "none".into(), daemons, agents: Arc::new(Nobody), policy: Policy::default() };
    let volumes = Volumes::new(share, tools);
    let record = Record { intent: None, ..sample() };
    let (volume, layer) = (record.id, record.layers[0].id);
    std::fs::create_dir(volumes.layout.volume(volume)).unwrap();
    std::fs::write(volumes.layout.record(volume), encode(&record)).unwrap();
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    for id in [one, other] {
        volumes.lock(volume).unwrap().add_pin(layer, id, "a backup").unwrap();
    }
    let lease = Lease::since(Moment::now());
    volumes.renew_all(&[volume], one, &lease);
    volumes.unpin(volume, other);
    volumes.renew_all(&[volume], one, &lease);
    assert!(!lease.is_lost());
    volumes.unpin(volume, one);
    volumes.renew_all(&[volume], one, &lease);
    assert!(lease.is_lost());
    assert_eq!(volumes.read(volume).unwrap().unwrap().pins, []);
}
