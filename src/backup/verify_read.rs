//! Sends the chunks of a volume's backups on their way to be verified, each with its hashes.

use super::catalog::{BackupSet, Catalog};
use super::error::BackupError;
use super::format::{Extent, Manifest};
use super::hash_reader::HashReader;
use super::restore::check::Job;
use super::restore::flow::Flow;
use super::restore::hash_window::HashWindow;
use super::verify::{Damage, Findings};
use super::verify_set::Family;
use std::collections::HashMap;
use std::ops::Range;
use uuid::Uuid;

/// Looks at each backup of a volume that is wanted, and sends its chunks on their way.
pub(super) async fn verify_family(
    catalog: &Catalog,
    family: &Family,
    wanted: &[Uuid],
    flow: &mut Flow<Findings>,
    sampled: &impl Fn(&Extent) -> bool,
) -> Result<Vec<Damage>, BackupError> {
    let mut damage = family.structure(wanted);
    for id in wanted {
        let (Some((set, _)), Some(manifest)) = (family.member(*id), family.manifest(*id)) else { continue };
        let key = set.prefix.hashes();
        if !set.objects.iter().any(|object| object.key == key) {
            // Already told by the structure; the chunks still have an md5.
            send_unhashed(set, manifest.extents.iter().filter(|extent| sampled(extent)), flow).await?;
            continue;
        }
        match send(catalog, family, set, manifest, flow, sampled).await {
            Ok(()) => {}
            Err(e) if e.is_about_the_set() && !matches!(e, BackupError::Cancelled) => {
                damage.push(family.damage(*id, key, e.to_string(), Vec::new()));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(damage)
}

/// Reads the hash file to its end, and sends the chosen chunks on their way with their hashes; without, from where on
/// it cannot be read: its damage is answered after all of them were sent.
async fn send(
    catalog: &Catalog,
    family: &Family,
    set: &BackupSet,
    manifest: &Manifest,
    flow: &mut Flow<Findings>,
    sampled: &impl Fn(&Extent) -> bool,
) -> Result<(), BackupError> {
    let mut extents: Vec<&Extent> = manifest.extents.iter().filter(|extent| sampled(extent)).collect();
    extents.sort_unstable_by_key(|extent| extent.offset);
    let reader = match flow.cancel().or(HashReader::open(catalog, &set.prefix)).await {
        Ok(reader) => reader,
        Err(e) => {
            send_unhashed(set, extents.into_iter(), flow).await?;
            return Err(e);
        }
    };
    let mut hashes = flow.cancel().or(HashWindow::new(reader, set.prefix.hashes())).await?;
    let (block, zeros) = (hashes.block(), hashes.zeros());
    let sizes = sizes(set);
    for (at, extent) in extents.iter().copied().enumerate() {
        let Some(stored) = listed(&sizes, extent) else { continue };
        let parts: Vec<Range<u64>> = vec![extent.offset..extent.end()];
        let digests = match flow.cancel().or(hashes.digests(&parts)).await {
            Ok(digests) => Some(digests),
            Err(e) => {
                send_unhashed(set, extents[at..].iter().copied(), flow).await?;
                return Err(e);
            }
        };
        flow.push(Job { extent: extent.clone(), stored, parts, digests, block, zeros }).await?;
    }
    match family.size(set.prefix.backup()) {
        Some(size) => hashes.finish(size).await,
        None => Ok(()),
    }
}

/// Without hashes, by their md5 alone.
async fn send_unhashed<'a>(
    set: &BackupSet,
    extents: impl Iterator<Item = &'a Extent>,
    flow: &mut Flow<Findings>,
) -> Result<(), BackupError> {
    let sizes = sizes(set);
    for extent in extents {
        let Some(stored) = listed(&sizes, extent) else { continue };
        flow.push(Job::unhashed(extent.clone(), stored, Vec::new())).await?;
    }
    Ok(())
}

fn sizes(set: &BackupSet) -> HashMap<&str, u64> {
    set.objects.iter().map(|object| (object.key.as_str(), object.size)).collect()
}

/// What is missing or too large was told by the structure, and is not fetched.
fn listed(sizes: &HashMap<&str, u64>, extent: &Extent) -> Option<u64> {
    sizes.get(extent.key.as_str()).copied().filter(|size| *size <= extent.length)
}
