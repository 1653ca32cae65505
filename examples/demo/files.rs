//! Files with known contents, and a writer that never stops and checks what it wrote.

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The digest of each file, by its name.
pub type Digests = BTreeMap<String, String>;

/// A cheap generator (xorshift64*), seeded so that every run writes the same bytes.
struct Bytes(u64);

impl Bytes {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A third random, a third text-like, a third one byte: some of it compresses, some does not.
    fn fill(&mut self, buffer: &mut [u8]) {
        for (index, part) in buffer.chunks_mut(8).enumerate() {
            let value = self.next().to_le_bytes();
            for (position, byte) in part.iter_mut().enumerate() {
                *byte = match index / 512 % 3 {
                    0 => value[position],
                    1 => b'a' + value[position] % 16,
                    _ => b'-',
                };
            }
        }
    }
}

/// Writes that many files of about 1 MiB; answers the bytes.
pub fn fill(folder: &Path, count: usize) -> Result<u64> {
    std::fs::create_dir_all(folder)?;
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = Bytes(0x5eed);
    let mut total = 0;
    for number in 0..count {
        let length = (buffer.len() - number * 977 % 300_000).max(1);
        bytes.fill(&mut buffer[..length]);
        let mut file = File::create(folder.join(format!("{number:04}")))?;
        file.write_all(&buffer[..length])?;
        total += length as u64;
    }
    rustix::fs::syncfs(File::open(folder)?)?;
    Ok(total)
}

/// Rewrites a part of some files, removes one and adds one; answers the bytes.
pub fn change(folder: &Path) -> Result<u64> {
    let mut bytes = Bytes(0xc4a6e);
    let mut buffer = vec![0; 128 << 10];
    let mut total = 0;
    for number in (0..240).step_by(10) {
        bytes.fill(&mut buffer);
        let mut file = File::options().write(true).open(folder.join(format!("{number:04}")))?;
        file.seek(SeekFrom::Start(bytes.next() % 500_000))?;
        file.write_all(&buffer)?;
        file.sync_all()?;
        total += buffer.len() as u64;
    }
    std::fs::remove_file(folder.join("0001"))?;
    std::fs::write(folder.join("added"), &buffer)?;
    rustix::fs::syncfs(File::open(folder)?)?;
    Ok(total + buffer.len() as u64)
}

/// The digests of all files of a folder.
pub fn digests(folder: &Path) -> Result<Digests> {
    let mut found = Digests::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let bytes = std::fs::read(entry.path())?;
        let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        found.insert(entry.file_name().to_string_lossy().into_owned(), digest);
    }
    Ok(found)
}

/// What is different, in words.
pub fn compare(expected: &Digests, found: &Digests) -> Vec<String> {
    let mut differences: Vec<String> = expected
        .iter()
        .filter_map(|(name, digest)| match found.get(name) {
            None => Some(format!("{name} is missing")),
            Some(other) if other != digest => Some(format!("{name} has other contents")),
            Some(_) => None,
        })
        .collect();
    differences.extend(
        found
            .keys()
            .filter(|name| !expected.contains_key(*name))
            .map(|name| format!("{name} should not be there")),
    );
    differences
}

/// Appends synced records to a file, and reads each one back.
pub struct Writer {
    stop: Arc<AtomicBool>,
    worker: JoinHandle<Result<Log>>,
}

/// What a writer saw.
pub struct Log {
    pub records: u64,
    pub longest: Duration,
}

impl Log {
    pub fn line(&self) -> String {
        let longest = self.longest.as_secs_f64() * 1e3;
        format!("{} synced writes, each read back, no error; the longest took {longest:.0} ms", self.records)
    }
}

const RECORD: usize = 4096;
/// The file is rewritten from its start after this many records.
const RECORDS: u64 = 1024;

impl Writer {
    pub fn start(path: &Path) -> Result<Writer> {
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, path) = (stop.clone(), path.to_owned());
        let worker = std::thread::spawn(move || write_until(&asked, path));
        Ok(Writer { stop, worker })
    }

    /// The first error that the writer saw, or what it did.
    pub fn stop(self) -> Result<Log> {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().expect("the writer does not panic")
    }
}

fn write_until(stop: &AtomicBool, path: PathBuf) -> Result<Log> {
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    let mut bytes = Bytes(0x109);
    let (mut record, mut back) = (vec![0; RECORD], vec![0; RECORD]);
    let mut log = Log { records: 0, longest: Duration::ZERO };
    while !stop.load(Ordering::Relaxed) {
        bytes.fill(&mut record);
        let position = SeekFrom::Start(log.records % RECORDS * RECORD as u64);
        let begun = Instant::now();
        file.seek(position)?;
        file.write_all(&record).context("the writer's write failed")?;
        file.sync_data().context("the writer's sync failed")?;
        file.seek(position)?;
        file.read_exact(&mut back).context("the writer's read failed")?;
        log.longest = log.longest.max(begun.elapsed());
        ensure!(record == back, "record {} reads back differently", log.records);
        log.records += 1;
    }
    Ok(log)
}
