//! Sets that somebody changed: what each verb answers, and that nothing else suffers.

use crate::util::{Repository, noise, restore, restored, small};
use jiff::Timestamp;
use rstest::rstest;
use serde_json::{Value, json};
use std::fs::{self, File};
use strata::backup::format::Compression;
use strata::backup::{
    BackupError, Cancel, CreateReport, Damage as Found, ErrorKind, GcOptions, Limits, ParentChoice, Progress,
    VerifyOptions, Which,
};
use strata::image::Format;
use uuid::Uuid;

const SIZE: usize = 80_000;

/// A chain of three backups of one volume, and a backup of another one.
struct World {
    repository: Repository,
    volume: Uuid,
    chain: Vec<CreateReport>,
    /// What the volume held at each.
    points: Vec<Vec<u8>>,
    other: CreateReport,
}

impl World {
    async fn new() -> World {
        let (repository, volume) = (Repository::new(), Uuid::new_v4());
        let mut data = noise(1, SIZE);
        let (mut chain, mut points): (Vec<CreateReport>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
        for change in 0..3u8 {
            data[usize::from(change) * 20_000..][..5000].fill(change);
            let parent = chain.last().map_or(ParentChoice::None, |made| ParentChoice::Backup(made.backup_id));
            chain.push(repository.create(&data, &small(volume, parent)).await.unwrap());
            points.push(data.clone());
        }
        let other = small(Uuid::new_v4(), ParentChoice::None);
        let other = repository.create(&noise(2, SIZE), &other).await.unwrap();
        World { repository, volume, chain, points, other }
    }

    fn key(&self, of: usize, end: &str) -> String {
        format!("{}{end}", self.chain[of].prefix)
    }

    fn write(&self, of: usize, end: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.repository.file(&self.key(of, end)), bytes).unwrap();
    }

    /// Changes a manifest's or a hash file's JSON.
    fn edit(&self, of: usize, end: &str, change: impl FnOnce(&mut Value)) {
        let path = self.repository.file(&self.key(of, end));
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
    }

    /// Changes the fields of the first chunk of the second backup.
    fn edit_chunk(&self, change: impl FnOnce(&mut Value)) {
        let name = self.key(1, "-00001");
        self.edit(1, "_metadata", |manifest| change(&mut manifest["objects"][0][name]));
    }
}

/// When damage is noticed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    /// In a listing, and so by all else.
    Listed,
    /// Where the chain is looked at.
    Chain,
    /// Where the hashes are read.
    Hashes,
    /// Where the chunk is.
    Chunk,
}

/// One way to damage a set.
struct Damage {
    /// Which backup of the chain, and the end of the name of the object that the message has.
    of: usize,
    object: &'static str,
    seen: Seen,
    /// What the message has: one of these, between bars.
    says: &'static str,
    done: fn(&World),
}

const MANIFEST: Damage =
    Damage { of: 1, object: "_metadata", seen: Seen::Listed, says: "bring it back", done: |_| {} };
const CHAIN: Damage = Damage { object: "", seen: Seen::Chain, ..MANIFEST };
const HASHES: Damage = Damage { of: 2, object: "_sha256file", seen: Seen::Hashes, ..MANIFEST };

/// The object's name, and one of the words between bars.
fn right_words(text: &str, key: &str, says: &str) -> bool {
    text.contains(key) && says.split('|').any(|words| text.contains(words))
}

#[rstest]
#[case::later_version(Damage {
    says: "version \"2.0.0\"; this program reads 1.0.0: use a newer one",
    done: |w| w.edit(1, "_metadata", |m| m["version"] = json!("2.0.0")), ..MANIFEST })]
#[case::later_volume_metadata(Damage {
    says: "use a newer strata",
    done: |w| w.edit(1, "_metadata", |m| m["volume_meta"] = json!("{\"version\": 3}")), ..MANIFEST })]
#[case::no_json(Damage { done: |w| w.write(1, "_metadata", "<html>"), ..MANIFEST })]
#[case::empty(Damage { done: |w| w.write(1, "_metadata", ""), ..MANIFEST })]
#[case::deep(Damage { done: |w| w.write(1, "_metadata", "[".repeat(100_000)), ..MANIFEST })]
#[case::cut_short(Damage {
    done: |w| { let t = fs::read(w.repository.file(&w.key(1, "_metadata"))).unwrap(); w.write(1, "_metadata", &t[..t.len() - 3]) },
    ..MANIFEST })]
#[case::another_backups(Damage {
    says: "its name says",
    done: |w| w.write(1, "_metadata", fs::read(w.repository.file(&w.key(0, "_metadata"))).unwrap()), ..MANIFEST })]
#[case::two_gigabytes(Damage {
    says: "can be right",
    done: |w| File::create(w.repository.file(&w.key(1, "_metadata"))).unwrap().set_len(2 << 30).unwrap(), ..MANIFEST })]
#[case::negative_offset(Damage { done: |w| w.edit_chunk(|c| c["offset"] = json!(-1)), ..MANIFEST })]
#[case::negative_length(Damage { done: |w| w.edit_chunk(|c| c["length"] = json!(-5)), ..MANIFEST })]
#[case::no_length(Damage { says: "cannot have offset", done: |w| w.edit_chunk(|c| c["length"] = json!(0)), ..MANIFEST })]
#[case::beyond_all_numbers(Damage {
    says: "cannot have offset", done: |w| w.edit_chunk(|c| c["offset"] = json!(u64::MAX - 5)), ..MANIFEST })]
#[case::a_bomb_by_its_length(Damage {
    says: "cannot have offset", done: |w| w.edit_chunk(|c| c["length"] = json!(1u64 << 40)), ..MANIFEST })]
#[case::overlapping(Damage {
    says: "overlap",
    done: |w| w.edit(1, "_metadata", |m| {
        let mut again = m["objects"][0].as_object().unwrap().values().next().unwrap().clone();
        again["length"] = json!(1);
        let name = w.key(1, "-00077");
        m["objects"].as_array_mut().unwrap().push(json!({name: again}));
    }), ..MANIFEST })]
#[case::twice(Damage {
    says: "twice",
    done: |w| w.edit(1, "_metadata", |m| { let o = m["objects"][0].clone(); m["objects"].as_array_mut().unwrap().push(o) }),
    ..MANIFEST })]
#[case::leaves_its_prefix(Damage {
    says: "no chunk of this backup",
    done: |w| w.edit(1, "_metadata", |m| {
        let mut fields = m["objects"][0].as_object().unwrap().values().next().unwrap().clone();
        fields["length"] = json!(10);
        let name = format!("{}-00001/../../../../etc/passwd", w.chain[1].prefix);
        m["objects"][0] = json!({name: fields});
    }), ..MANIFEST })]
#[case::anothers_chunk(Damage {
    says: "no chunk of this backup",
    done: |w| w.edit(1, "_metadata", |m| {
        let fields = m["objects"][0].as_object().unwrap().values().next().unwrap().clone();
        let name = format!("{}-00001", w.other.prefix);
        m["objects"][0] = json!({name: fields});
    }), ..MANIFEST })]
#[case::unknown_compression(Damage {
    says: "unknown compression \"lzma\"", done: |w| w.edit_chunk(|c| c["compression"] = json!("lzma")), ..MANIFEST })]
#[case::no_md5(Damage { says: "for an md5", done: |w| w.edit_chunk(|c| c["md5"] = json!("zz")), ..MANIFEST })]
#[case::parent_that_is_no_id(Damage {
    says: "no UUID", done: |w| w.edit(1, "_metadata", |m| m["parent_id"] = json!("../x")), ..MANIFEST })]
#[case::parent_of_another_volume(Damage {
    says: "is a backup of volume|not among the backups of this volume",
    done: |w| w.edit(1, "_metadata", |m| m["parent_id"] = json!(w.other.backup_id)), ..CHAIN })]
#[case::parent_that_is_nowhere(Damage {
    says: "which is not in the repository|not among the backups of this volume",
    done: |w| w.edit(1, "_metadata", |m| m["parent_id"] = json!(Uuid::nil())), ..CHAIN })]
#[case::cycle(Damage {
    of: 0, says: "is its own ancestor|go round",
    done: |w| w.edit(0, "_metadata", |m| m["parent_id"] = json!(w.chain[2].backup_id)), ..CHAIN })]
#[case::foreign_object(Damage {
    object: "-00001.bak", says: "remove it from the repository|the manifest does not name it", done: |w| w.write(1, "-00001.bak", "mine"), ..CHAIN })]
#[case::chunk_is_gone(Damage {
    object: "-00001", says: "bring it back|--damaged zero|it is missing", done: |w| fs::remove_file(w.repository.file(&w.key(1, "-00001"))).unwrap(), ..CHAIN })]
#[case::chunk_of_more_bytes(Damage {
    object: "-00001", says: "can be right|larger than it can be", done: |w| w.write(1, "-00001", vec![0; 50_000]), ..CHAIN })]
#[case::beyond_the_volume(Damage {
    object: "", says: "do not fit|no backup stores|splits a hash block", seen: Seen::Hashes, done: |w| w.edit_chunk(|c| c["offset"] = json!(1u64 << 40)), ..CHAIN })]
#[case::wrong_hash_block(Damage {
    object: "", says: "do not fit|splits a hash block",
    done: |w| w.edit(2, "_sha256file", |h| h["chunk_size"] = json!(2048)), ..HASHES })]
#[case::no_hash_block(Damage {
    says: "a hash block of 0 bytes", done: |w| w.edit(2, "_sha256file", |h| h["chunk_size"] = json!(0)), ..HASHES })]
#[case::hashes_of_a_later_version(Damage {
    says: "use a newer one", done: |w| w.edit(2, "_sha256file", |h| h["version"] = json!("3")), ..HASHES })]
#[case::hashes_of_another_backup(Damage {
    says: "another backup", done: |w| w.edit(2, "_sha256file", |h| h["backup_id"] = json!(Uuid::nil())), ..HASHES })]
#[case::hashes_that_are_none(Damage {
    done: |w| w.edit(2, "_sha256file", |h| h["sha256s"][3] = json!("no hash")), ..HASHES })]
#[case::a_bomb(Damage {
    object: "-00001", seen: Seen::Chunk, says: "it holds ",
    done: |w| w.write(1, "-00001", Compression::Zstd.compress(&vec![0; 30 << 20]).unwrap().unwrap()), ..MANIFEST })]
#[case::other_bytes(Damage {
    object: "-00001", seen: Seen::Chunk, says: "is damaged", done: |w| w.write(1, "-00001", "other"), ..MANIFEST })]
#[tokio::test]
async fn each_verb_stands_a_damaged_set(#[case] damage: Damage) {
    let world = World::new().await;
    (damage.done)(&world);
    let Damage { of, object, seen, says, .. } = damage;
    let key = if object.is_empty() { String::new() } else { world.key(of, object) };
    let engine = &world.repository.engine;
    let newest = world.chain[2].backup_id;
    let right = |text: &str| assert!(right_words(text, &key, says), "{key}, {says}: {text}");

    // The list has all, and says which one is damaged.
    let listed = engine.list(None).await.unwrap();
    assert_eq!(listed.len(), 4);
    for info in &listed {
        let at = world.chain.iter().position(|made| made.backup_id == info.backup_id);
        let rests_on_it = at.is_some_and(|at| at >= of);
        match seen {
            Seen::Listed => assert_eq!(info.damage.is_some(), rests_on_it, "{info:?}"),
            Seen::Chain => assert!(info.damage.is_none() || rests_on_it, "{info:?}"),
            Seen::Hashes | Seen::Chunk => assert_eq!(info.damage, None),
        }
        if seen == Seen::Listed && at == Some(of) {
            info.damage.iter().for_each(|text| right(text));
        }
    }

    // So does who looks at every byte; and what does not rest on it is good.
    let verify = async |which| {
        let options = VerifyOptions { which, data: 1.0, seed: 1, limits: Limits::default() };
        engine.verify(&options, &Progress::default(), &Cancel::never()).await.unwrap()
    };
    let found = verify(Which::All).await;
    assert!(!found.good && !found.damage.is_empty(), "{found:?}");
    for damage in &found.damage {
        assert!(!damage.affects.contains(&world.other.backup_id), "{damage:?}");
    }
    let tells = |found: &Found| right_words(&format!("{}: {}", found.object, found.reason), &key, says);
    assert!(found.damage.iter().any(tells), "{key}, {says}: {:?}", found.damage);
    assert!(verify(Which::Backup(world.other.backup_id)).await.good);
    assert!(!verify(Which::Backup(newest)).await.good);

    // What rests on it is refused in words; what does not, is whole.
    let shown = engine.show(newest).await;
    match seen {
        Seen::Listed | Seen::Chain => {
            let error = shown.unwrap_err();
            right(&error.to_string());
            assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        }
        Seen::Hashes | Seen::Chunk => assert_eq!(shown.unwrap().chain.len(), 3),
    }
    let error = world.repository.restore_to(newest, &world.repository.path("new")).await.unwrap_err();
    right(&error.to_string());
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert_eq!(world.repository.leftovers(), Vec::<String>::new());
    if seen != Seen::Chunk {
        let old = world.repository.path("old");
        fs::write(&old, vec![0xee; 2 * SIZE]).unwrap();
        restore(engine, newest, &old, Format::Raw, true).await.unwrap_err();
        // Nothing, but where the hashes themselves are read on the way: there nothing that is not right.
        let (found, right) = (fs::read(&old).unwrap(), &world.points[2]);
        let of_it = |at: usize| seen == Seen::Hashes && right.get(at) == Some(&found[at]);
        assert!((0..found.len()).all(|at| found[at] == 0xee || of_it(at)));
    }
    assert!(restored(engine, world.other.backup_id).await == noise(2, SIZE));
    if of > 0 {
        assert!(restored(engine, world.chain[0].backup_id).await == world.points[0]);
    }

    // The next backup is a full one, and says why; of a chunk's own bytes nobody looks then.
    let next = small(world.volume, ParentChoice::Backup(newest));
    let made = match world.repository.create(&world.points[2], &next).await {
        // What could as well be true is refused, with what to do.
        Err(BackupError::Shrunk { .. } | BackupError::OtherHashBlock { .. }) if seen == Seen::Hashes => {
            return;
        }
        made => made.unwrap(),
    };
    match seen {
        Seen::Chunk => assert_eq!(made.full_because, None),
        _ => right(&made.full_because.expect("its parent is damaged")),
    }
    // What cannot be read may rest on any backup but those that it is told to be under.
    match engine.delete(made.backup_id).await {
        Err(error) if seen == Seen::Listed => right(&error.to_string()),
        deleted => assert_eq!(deleted.unwrap().backup_id, made.backup_id),
    }
}

/// A chain can be deleted from its end, whichever of its backups is damaged; others stay.
#[rstest]
#[tokio::test]
async fn damaged_chains_are_deleted(#[values(0, 1, 2)] of: usize, #[values(true, false)] large: bool) {
    let world = World::new().await;
    match large {
        true => File::create(world.repository.file(&world.key(of, "_metadata")))
            .unwrap()
            .set_len(2 << 30)
            .unwrap(),
        false => world.write(of, "_metadata", "{}"),
    }
    world.write(1, "-00001.bak", "a foreign object");
    let engine = &world.repository.engine;
    for made in world.chain.iter().rev() {
        engine.delete(made.backup_id).await.unwrap();
    }
    let left = engine.list(None).await.unwrap();
    assert_eq!(left.iter().map(|info| info.backup_id).collect::<Vec<_>>(), [world.other.backup_id]);
    let volume = world.repository.file(&format!("volume_{}", world.volume));
    assert!(!volume.exists(), "nothing of it is left");
}

/// What is no backup in the same bucket is nobody's: not listed, not read, not deleted.
#[tokio::test]
async fn foreign_objects_elsewhere_are_left_alone() {
    let world = World::new().await;
    let foreign = [
        "readme.txt".to_owned(),
        "volume_1/20261121194302/az_nova_backup_1_metadata".to_owned(),
        format!("volume_{}/notes", world.volume),
        format!("volume_{}/20261121194302/az_nova_backup_{}", world.volume, "not-an-id"),
        format!("volume_{}/2026/az_nova_backup_{}_metadata", world.volume, Uuid::nil()),
    ];
    for key in &foreign {
        let path = world.repository.file(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "{").unwrap();
    }
    let engine = &world.repository.engine;
    assert_eq!(engine.list(None).await.unwrap().len(), 4);
    assert!(restored(engine, world.chain[2].backup_id).await == world.points[2]);
    for made in world.chain.iter().rev() {
        engine.delete(made.backup_id).await.unwrap();
    }
    assert!(foreign.iter().all(|key| world.repository.file(key).exists()));
}

/// Gives a set another zone, as a Cinder of that zone would have made it.
fn move_to_zone(world: &World, of: usize, zone: &str) {
    let old = &world.chain[of].prefix;
    let new = old.replace("/az_nova_", &format!("/az_{zone}_"));
    let folder = world.repository.file(old).parent().unwrap().to_owned();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let Some(text) = path.to_str().filter(|text| text.contains(old.as_str())) else { continue };
        fs::rename(text, text.replace(old.as_str(), &new)).unwrap();
    }
    let manifest = world.repository.file(&format!("{new}_metadata"));
    let text = fs::read_to_string(&manifest).unwrap();
    let in_json = |name: &str| serde_json::to_string(name).unwrap().trim_matches('"').to_owned();
    fs::write(manifest, text.replace(old.as_str(), &in_json(&new))).unwrap();
}

/// Cinder's zones are free text.
#[tokio::test]
async fn a_zone_of_any_text_is_a_zone() {
    let world = World::new().await;
    move_to_zone(&world, 0, "my zone 100%");
    move_to_zone(&world, 1, "Zürich\\*?");
    let engine = &world.repository.engine;
    let listed = engine.list(None).await.unwrap();
    assert!(listed.len() == 4 && listed.iter().all(|info| info.damage.is_none()), "{listed:?}");
    assert!(restored(engine, world.chain[2].backup_id).await == world.points[2]);
    let options = VerifyOptions { which: Which::All, data: 1.0, seed: 1, limits: Limits::default() };
    let found = engine.verify(&options, &Progress::default(), &Cancel::never()).await.unwrap();
    assert!(found.good, "{found:?}");
    for made in world.chain.iter().rev() {
        engine.delete(made.backup_id).await.unwrap();
    }
    assert!(!world.repository.file(&format!("volume_{}", world.volume)).exists(), "nothing of it is left");
}

/// A name that no store of ours can be asked for: that set is damaged, and no other one.
#[tokio::test]
async fn a_name_that_cannot_be_asked_for_stops_nobody() {
    let world = World::new().await;
    move_to_zone(&world, 2, "a\tb");
    let engine = &world.repository.engine;
    let listed = engine.list(None).await.unwrap();
    let damaged: Vec<Uuid> =
        listed.iter().filter(|info| info.damage.is_some()).map(|info| info.backup_id).collect();
    assert_eq!((listed.len(), damaged), (4, vec![world.chain[2].backup_id]));
    let options = VerifyOptions { which: Which::All, data: 1.0, seed: 1, limits: Limits::default() };
    let found = engine.verify(&options, &Progress::default(), &Cancel::never()).await.unwrap();
    assert!(!found.good && found.damage.iter().all(|damage| damage.backup_id == world.chain[2].backup_id));
    let gc = GcOptions { before: Timestamp::MAX, dry_run: false };
    let report = engine.gc(gc, &Cancel::never()).await.unwrap();
    assert_eq!((report.removed.len(), report.unread), (0, vec![world.chain[2].backup_id]));
    // What is no backup either is none of ours.
    fs::remove_file(world.repository.file(&world.key(2, "_metadata").replace("az_nova", "az_a\tb"))).unwrap();
    let report = engine.gc(gc, &Cancel::never()).await.unwrap();
    assert_eq!((report.removed.len(), report.foreign.is_empty()), (0, false), "{report:?}");
    assert!(restored(engine, world.chain[1].backup_id).await == world.points[1]);
}
