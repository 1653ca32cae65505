//! The least that format v1 can cost: its digests and its compression, on one thread, with nothing around them. MD5s are
//! computed side by side, as the program does it: of one message alone they cost six times as much.

use crate::image::Change;
use crate::measure::{self, Cost};
use crate::world::World;
use anyhow::{Context, Result, bail};
use sha2::Digest as _;
use sha2::Sha256;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK: u64 = 32 << 10;
/// Read and compressed at a time: what a chunk of an image with holes has in it, about.
const PIECE: u64 = 32 << 20;

/// What the floor was.
pub struct Floor {
    pub cost: Cost,
    /// Bytes that were digested and compressed.
    pub bytes: u64,
    /// What zstd 3 makes of them; never more than they are.
    pub compressed: u64,
}

/// Of all bytes of an image that are no holes.
pub fn full(world: &World, image: &Path) -> Result<Floor> {
    measured(world, &[image.to_string_lossy().into_owned()])
}

/// Of what changed, and of writing the hash file of the whole volume.
pub fn changed(world: &World, image: &Path, changes: &[Change]) -> Result<Floor> {
    let ranges = world.dir().join("changed");
    let lines = changes.iter().map(|change| format!("{} {}\n", change.at, change.bytes.len()));
    std::fs::write(&ranges, lines.collect::<String>())?;
    let hashes = world.dir().join("hashes");
    let arguments = [image, &ranges, &hashes].map(|path| path.to_string_lossy().into_owned());
    let floor = measured(world, &arguments)?;
    std::fs::remove_file(&hashes)?;
    std::fs::remove_file(&ranges)?;
    Ok(floor)
}

fn measured(world: &World, arguments: &[String]) -> Result<Floor> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("floor").args(arguments);
    let (cost, said) = measure::run(&mut command, &world.log())?;
    let mut numbers = said.split_whitespace().map(str::parse::<u64>);
    let mut next =
        || numbers.next().context("the floor's process said nothing")?.map_err(anyhow::Error::from);
    Ok(Floor { cost, bytes: next()?, compressed: next()? })
}

/// `floor IMAGE [CHANGED HASHES]`, in a process of its own.
pub fn child(arguments: &[String]) -> Result<()> {
    let (image, changed) = match arguments {
        [image] => (image, None),
        [image, ranges, hashes] => (image, Some((ranges, hashes))),
        _ => bail!("usage: floor IMAGE [CHANGED HASHES]"),
    };
    let file = File::open(image)?;
    let ranges = match &changed {
        None => data_ranges(&file)?,
        Some((ranges, _)) => listed(Path::new(ranges))?,
    };
    let mut compressor = zstd::bulk::Compressor::new(3)?;
    let (mut bytes, mut compressed) = (0, 0);
    let mut buffer = vec![0; PIECE as usize];
    for range in ranges {
        for at in (range.start..range.end).step_by(PIECE as usize) {
            let part = &mut buffer[..(range.end - at).min(PIECE) as usize];
            file.read_exact_at(part, at)?;
            for block in part.chunks(BLOCK as usize) {
                std::hint::black_box(Sha256::digest(block));
            }
            let lanes: Vec<&[u8]> = part.chunks(part.len().div_ceil(md5_lanes::LANES)).collect();
            std::hint::black_box(md5_lanes::md5_many(&lanes));
            bytes += part.len() as u64;
            compressed += compressor.compress(part)?.len().min(part.len()) as u64;
        }
    }
    if let Some((_, hashes)) = changed {
        write_hashes(Path::new(hashes), file.metadata()?.len())?;
    }
    println!("{bytes} {compressed}");
    Ok(())
}

fn listed(path: &Path) -> Result<Vec<Range<u64>>> {
    let text = std::fs::read_to_string(path)?;
    let range = |line: &str| -> Result<Range<u64>> {
        let (at, length) = line.split_once(' ').context("a place and a length")?;
        let at: u64 = at.parse()?;
        Ok(at..at + length.parse::<u64>()?)
    };
    text.lines().map(range).collect()
}

/// What the filesystem says is no hole.
fn data_ranges(file: &File) -> Result<Vec<Range<u64>>> {
    use rustix::fs::{SeekFrom, seek};
    let size = file.metadata()?.len();
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Err(rustix::io::Errno::NXIO) => break,
            found => found?,
        };
        at = seek(file, SeekFrom::Hole(start))?;
        ranges.push(start..at);
    }
    Ok(ranges)
}

/// As long as format v1's hash file, which has one line for each block of the volume.
fn write_hashes(path: &Path, size: u64) -> Result<()> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Vec::new();
    for block in 0..size.div_ceil(BLOCK) {
        text.extend_from_slice(b"\n    \"");
        for number in 0..32u64 {
            let byte = (block.wrapping_mul(31) ^ number) as u8;
            text.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        text.extend_from_slice(b"\",");
    }
    let mut file = File::create(path)?;
    file.write_all(&text)?;
    Ok(file.sync_all()?)
}
