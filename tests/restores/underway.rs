//! While data comes back: what is answered, what becomes of it when processes die, and when nobody wants it any more.

use crate::calls::patiently;
use crate::driver::{Driver, eventually, signal};
use crate::faulty::{Fault, Faulty, Request};
use crate::s3_server::S3Server;
use crate::support::qemu_img;
use crate::world::{Original, World, from, node, once, s3, volume_of};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use strata::rpc::csi::controller_client::ControllerClient;
use strata::rpc::csi::*;
use strata::rpc::uds;
use strata::volume::VolumeId;
use tonic::{Code, Status};

/// An S3 server that gives some chunks, and the others when it is told to.
struct Gate {
    _server: S3Server,
    proxy: Faulty,
    open: Arc<AtomicBool>,
    fetched: Arc<AtomicUsize>,
}

impl Gate {
    fn new() -> Gate {
        let server = S3Server::start();
        let (open, fetched) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (is_open, count) = (Arc::clone(&open), Arc::clone(&fetched));
        let proxy = Faulty::start(&server.endpoint, move |request: &Request| {
            if request.method == "GET" && request.is_of_a_chunk() {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let deadline = Instant::now() + Duration::from_secs(60);
                while number > 0 && !is_open.load(Ordering::SeqCst) && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Fault::None
        });
        Gate { _server: server, proxy, open, fetched }
    }

    fn shut(&self) {
        self.open.store(false, Ordering::SeqCst);
        self.fetched.store(0, Ordering::SeqCst);
    }

    fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// Another controller on the same share.
struct Second {
    process: Child,
    socket: PathBuf,
}

impl Second {
    fn start(world: &World) -> Second {
        let dir = world.driver.dir();
        let socket = dir.join("second.sock");
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.arg("controller").arg("--socket").arg(&socket);
        command.arg("--data-socket").arg(dir.join("data.sock"));
        command.arg("--share").arg(format!("dir:{}", world.driver.share_root().display()));
        command.arg("--repositories").arg(world.repositories()).arg("--qemu-img").arg(qemu_img());
        let second = Second { process: command.spawn().unwrap(), socket };
        eventually("a second controller", Duration::from_secs(60), || uds::answers(&second.socket));
        second
    }

    async fn create(&self, request: CreateVolumeRequest) -> Result<Volume, Status> {
        let mut client = ControllerClient::new(uds::channel(&self.socket).unwrap());
        Ok(client.create_volume(request).await?.into_inner().volume.unwrap())
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn prepare() -> (Gate, World, Original) {
    let gate = Gate::new();
    let world = World::new(s3(&gate.proxy.endpoint));
    let original = world.backed_up("source", 1, "qcow2").await;
    gate.shut();
    (gate, world, original)
}

/// The percentage of an answer that says "ask again", within 5 s.
async fn percent(call: impl Future<Output = Result<Volume, Status>>) -> u64 {
    let begun = Instant::now();
    let status = call.await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(status.code(), Code::Aborted, "{status}");
    let words: Vec<&str> = status.message().split(' ').collect();
    let at = words.iter().position(|word| *word == "%").unwrap_or_else(|| panic!("{status}"));
    words[at - 1].parse().unwrap()
}

/// Until so much is back that it shows.
async fn half_way(driver: &Driver, request: &CreateVolumeRequest) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let now = percent(once(driver, request.clone())).await;
        if now > 0 {
            return now;
        }
        assert!(Instant::now() < deadline, "no progress is shown");
    }
}

fn tries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.contains(".restore-")).collect()
}

/// Invariants 4 and 5: ABORTED with a percentage, from whichever controller is asked; neither listed nor published. The
/// controller that fetches is killed: another one goes on, and the volume is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_outlives_its_controller() {
    let (gate, mut world, original) = prepare().await;
    let request = from(&original.handle, "restored", 1);
    let before = half_way(&world.driver, &request).await;
    assert!((1..100).contains(&before), "{before} %");
    let listed = world.driver.controller().list_volumes(ListVolumesRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().entries.len(), 1, "the source alone");
    let share = original_share(&world);
    let id = format!("{share}/{}", VolumeId::from_name("restored"));
    let published = world.driver.publish_to(&id, node()).await.unwrap_err();
    assert_eq!(published.code(), Code::FailedPrecondition);

    let second = Second::start(&world);
    // It sees that another one is at work, and leaves it the work.
    let home = world.driver.share_root().join("volumes").join(volume_of(&id));
    let fetched = gate.fetched.load(Ordering::SeqCst);
    assert!(percent(second.create(request.clone())).await > 0);
    assert_eq!((gate.fetched.load(Ordering::SeqCst), tries(&home).len()), (fetched, 1));
    let controller = first_controller(&world.driver);
    signal(controller, libc::SIGKILL);
    eventually("its end", Duration::from_secs(10), || {
        !Path::new(&format!("/proc/{controller}/stat")).exists()
            || first_controller_gone(&world.driver, controller)
    });
    percent(second.create(request.clone())).await;
    eventually("a second fetch", Duration::from_secs(20), || gate.fetched.load(Ordering::SeqCst) > fetched);
    assert_eq!(tries(&home).len(), 1, "what the dead one has left is gone");
    gate.open();
    let volume = patiently(|| second.create(request.clone())).await.unwrap();
    assert_eq!(volume.volume_id, id);
    assert_eq!(tries(&home), Vec::<String>::new());
    drop(second);
    world.driver.stop();
    world.driver.start_again();
    world.verify(&id, &original.digest).await;
}

fn original_share(world: &World) -> String {
    let path = world.driver.share_root().join(".strata/share.json");
    let identity: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    identity["key"].as_str().unwrap().to_owned()
}

/// Standalone's own: the second one has the word `controller` in its command line, too.
fn first_controller(driver: &Driver) -> u32 {
    let lines = crate::support::leftovers::processes(&driver.dir()).into_iter();
    let mut own = lines.filter(|(_, line)| {
        line.iter().any(|word| word == "controller") && !line.iter().any(|word| word.contains("second.sock"))
    });
    own.next().expect("a controller").0
}

fn first_controller_gone(driver: &Driver, pid: u32) -> bool {
    !crate::support::leftovers::processes(&driver.dir()).iter().any(|(other, _)| *other == pid)
}

/// B9: who deletes the volume ends its restore, and nothing of it comes later; the same name begins a new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_ends_the_restore() {
    let (gate, world, original) = prepare().await;
    let request = from(&original.handle, "restored", 1);
    half_way(&world.driver, &request).await;
    let id = format!("{}/{}", original_share(&world), VolumeId::from_name("restored"));
    world.driver.delete(&id).await.unwrap();
    world.driver.delete(&id).await.unwrap();
    let source = original.handle.split('/').nth(3).unwrap().to_owned();
    let source = format!("x/{source}");
    let begun = Instant::now();
    eventually("its folder goes", Duration::from_secs(20), || {
        !world.driver.share_root().join("volumes").join(volume_of(&id)).exists()
    });
    // The job has noticed, before any further chunk came.
    assert!(begun.elapsed() < Duration::from_secs(15));
    gate.open();
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.holds_only(&[&source]);
    let volume = world.driver.create(request).await.unwrap();
    assert_eq!(volume.volume_id, id);
    world.verify(&id, &original.digest).await;
}
