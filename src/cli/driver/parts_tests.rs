use super::*;
use crate::agent::{AgentClient, CUT_LIMIT};
use crate::gluster;
use crate::qsd::LocalDaemons;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// Directories are opened; everything else hangs until it is told to fail.
struct Scripted {
    looks: AtomicU32,
    release: Mutex<Receiver<()>>,
}

impl OpenShare for Scripted {
    fn open(&self, spec: &ShareSpec) -> Result<Share, String> {
        if matches!(spec.source, gluster::Source::Dir(_)) {
            let opened = gluster::open(&spec.source, &[], Path::new("/unused"));
            return opened.map(|(share, _)| share).map_err(|error| error.to_string());
        }
        self.looks.fetch_add(1, Ordering::SeqCst);
        let told = self.release.lock().unwrap().recv_timeout(Duration::from_secs(60));
        Err(format!("no answer ({told:?})"))
    }
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !reached() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// G1: round after round of the live share, while the dead one hangs in its first and is tried no second time.
#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_hangs_stops_no_other_ones_rounds() {
    let live = tempfile::tempdir().unwrap();
    let (tell, release) = channel();
    let opener = Arc::new(Scripted { looks: AtomicU32::new(0), release: Mutex::new(release) });
    let spec = |text: String| ShareSpec { source: text.parse().unwrap(), options: Vec::new() };
    let specs = vec![spec("dead:/v".to_owned()), spec(format!("dir:{}", live.path().display()))];
    let tools = Tools {
        qemu_img: "qemu-img".into(),
        daemons: Arc::new(LocalDaemons::new("none".into(), "/nowhere".into())),
        agents: Arc::new(AgentClient::new(Handle::current(), CUT_LIMIT)),
        policy: Policy::default(),
    };
    let shares = Arc::new(Shares::new(specs.clone(), Arc::clone(&opener) as _, tools));
    let rounds = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&rounds);
    let quick = Duration::from_millis(10);
    let pace = Pace { round: quick, retry: quick, limit: Duration::from_millis(200), first: quick * 10 };
    let count = move |_: Volumes| {
        counted.fetch_add(1, Ordering::SeqCst);
    };
    look_after_at(pace, Arc::clone(&shares), Arc::new(count)).await;
    until("the live share waits for the dead one", || rounds.load(Ordering::SeqCst) > 50).await;
    assert_eq!(opener.looks.load(Ordering::SeqCst), 1);
    assert!(shares.open_one(&specs[0]).is_none() && shares.open_one(&specs[1]).is_some());
    tell.send(()).unwrap();
    until("the share that answered is not looked at again", || opener.looks.load(Ordering::SeqCst) > 1).await;
    // Ends the look that is under way, so that the runtime can end.
    drop(tell);
}
