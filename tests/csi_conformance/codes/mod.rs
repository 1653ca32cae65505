//! Every row of docs/grpc-codes.md, over the socket.

mod attaching;
mod backups;
mod inventory;
mod node;
mod volumes;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use strata::image::lock::ImageLock;
use strata::rpc::csi::*;
use strata::volume::{VolumeId, record};
use tonic::{Code, Status};

const DOCUMENT: &str = include_str!("../../../docs/grpc-codes.md");

/// RPC, code, situation.
type Row = [&'static str; 3];

fn documented() -> Vec<Row> {
    let cells = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = cells.filter_map(|line| <Row>::try_from(line.split(" | ").collect::<Vec<_>>()).ok());
    rows.filter(|row| row[0] != "RPC").collect()
}

/// The rows of some RPCs, and which of them were held.
pub struct Rows {
    rows: Vec<Row>,
    held: BTreeSet<usize>,
}

impl Rows {
    pub fn of(rpcs: &[&str]) -> Rows {
        let rows: Vec<Row> = documented().into_iter().filter(|row| rpcs.contains(&row[0])).collect();
        assert!(
            rpcs.iter().all(|rpc| rows.iter().any(|row| row[0] == *rpc)),
            "{rpcs:?} are not all documented"
        );
        Rows { rows, held: BTreeSet::new() }
    }

    /// Holds an answer to the row of that RPC and situation. A few words tell which one is meant.
    #[track_caller]
    pub fn hold<T: std::fmt::Debug>(&mut self, rpc: &str, words: &str, answer: Result<T, Status>) {
        let meant = |row: &&Row| row[0] == rpc && row[2].contains(words);
        let found: Vec<usize> = (0..self.rows.len()).filter(|index| meant(&&self.rows[*index])).collect();
        let [index] = found[..] else { panic!("{rpc}, {words:?}: {} rows", found.len()) };
        let (code, message) = match &answer {
            Ok(_) => (Code::Ok, String::new()),
            Err(status) => (status.code(), status.message().to_owned()),
        };
        assert_eq!(name(code), self.rows[index][1], "{rpc}, {words:?}: {message}");
        assert!(code == Code::Ok || message.len() > 10, "a message that helps: {message:?}");
        self.held.insert(index);
    }

    /// Every row was held.
    pub fn complete(self) {
        let open = (0..self.rows.len()).filter(|index| !self.held.contains(index));
        let open: Vec<Row> = open.map(|index| self.rows[index]).collect();
        assert!(open.is_empty(), "rows that no call was held to: {open:#?}");
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Aborted => "ABORTED",
        Code::Unimplemented => "UNIMPLEMENTED",
        _ => "another one",
    }
}

/// Every RPC that is documented is held by one of the tests here.
#[test]
fn no_rpc_is_left_out() {
    let tested = [volumes::RPCS, attaching::RPCS, inventory::RPCS, node::RPCS].concat();
    let documented: BTreeSet<&str> = documented().iter().map(|row| row[0]).collect();
    assert_eq!(documented, tested.into_iter().collect());
}

/// What another controller does while it works on a volume.
pub fn lock(share: &Path, volume: VolumeId) -> File {
    let path = share.join("locks").join(volume.to_string());
    let file = File::options().write(true).create(true).truncate(false).open(path).unwrap();
    file.lock().unwrap();
    file
}

/// What a daemon holds that has the volume open and that nobody can ask.
pub fn hold_image(share: &Path, volume: VolumeId) -> ImageLock {
    let record = record::decode(&std::fs::read(record_file(share, volume)).unwrap()).unwrap();
    let image = share.join("volumes").join(volume.to_string()).join(&record.active_layer().unwrap().file);
    ImageLock::write(&image).unwrap()
}

/// The note that a node makes when it opens the volume that it was given. Then it is gone.
pub fn open_where_attached(share: &Path, volume: VolumeId) {
    let file = record_file(share, volume);
    let mut record = record::decode(&std::fs::read(&file).unwrap()).unwrap();
    record.generation += 1;
    record.epoch += 1;
    let [attachment] = &mut record.attachments[..] else { panic!("{:?}", record.attachments) };
    attachment.opened = Some(record.epoch);
    std::fs::write(file, record::encode(&record)).unwrap();
}

fn record_file(share: &Path, volume: VolumeId) -> PathBuf {
    share.join("volumes").join(volume.to_string()).join("volume.json")
}

/// The volume of a handle.
pub fn id_of(handle: &str) -> VolumeId {
    handle.split('/').nth(1).unwrap().parse().unwrap()
}

/// A volume of that share that does not exist.
pub fn absent(handle: &str) -> String {
    format!("{}/00000000-0000-4000-8000-000000000000", handle.split('/').next().unwrap())
}

pub fn range(required: i64, limit: i64) -> Option<CapacityRange> {
    Some(CapacityRange { required_bytes: required, limit_bytes: limit })
}
