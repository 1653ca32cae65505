//! Verifying: each kind of damage is found, named, and laid to the backups that need the object.

use crate::restore::{Counting, Harm, harm};
use crate::util::{Repository, noise, small};
use rstest::rstest;
use serde_json::Value;
use std::process::Command;
use strata::backup::{
    BackupError, Cancel, Damage, Engine, ErrorKind, Limits, ParentChoice, Progress, VerifyOptions,
    VerifyReport, Which,
};
use uuid::Uuid;

async fn verify(repository: &Repository, which: Which, data: f64) -> VerifyReport {
    let options = VerifyOptions { which, data, seed: 7, limits: Limits::default() };
    repository.engine.verify(&options, &Progress::default(), &Cancel::never()).await.unwrap()
}

/// A full backup and two on it, the second of which overwrites chunk 2 of the first.
struct Three {
    repository: Repository,
    volume: Uuid,
    prefixes: [String; 3],
    ids: [Uuid; 3],
}

async fn three() -> Three {
    let repository = Repository::new();
    let (volume, mut data) = (Uuid::new_v4(), noise(1, 100_003));
    let full = repository.create(&data, &small(volume, ParentChoice::None)).await.unwrap();
    data[50_000] ^= 1;
    let second = repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap();
    data[16_384..32_768].copy_from_slice(&noise(2, 16_384));
    let third = repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap();
    let ids = [full.backup_id, second.backup_id, third.backup_id];
    Three { repository, volume, prefixes: [full.prefix, second.prefix, third.prefix], ids }
}

#[tokio::test]
async fn good_backups() {
    let three = three().await;
    let all = verify(&three.repository, Which::All, 1.0).await;
    assert_eq!((all.good, all.damage.len(), all.backups.len()), (true, 0, 3));
    assert_eq!((all.objects, all.objects_read, all.bytes_checked), (9, 9, 100_003 + 1024 + 16_384));
    let chain = verify(&three.repository, Which::Backup(three.ids[1]), 0.0).await;
    assert_eq!((chain.good, chain.backups.len(), chain.objects, chain.objects_read), (true, 2, 8, 0));
    let part = verify(&three.repository, Which::Volume(three.volume), 0.5).await;
    assert!(part.good && (1..9).contains(&part.objects_read), "{part:?}");
    let again = verify(&three.repository, Which::Volume(three.volume), 0.5).await;
    assert_eq!(part.bytes_fetched, again.bytes_fetched);
    let options =
        VerifyOptions { which: Which::Backup(Uuid::nil()), data: 0.0, seed: 0, limits: Limits::default() };
    let gone = three.repository.engine.verify(&options, &Progress::default(), &Cancel::never()).await;
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
}

/// A chunk: the newest backup has overwritten it, so only the two others are hurt.
#[rstest]
#[tokio::test]
async fn a_damaged_chunk(
    #[values(Harm::BitFlip, Harm::Truncated, Harm::Missing, Harm::Swapped, Harm::Bomb)] kind: Harm,
) {
    let three = three().await;
    let key = harm(&three.repository, &three.prefixes[0], 2, kind);
    for which in [Which::All, Which::Volume(three.volume), Which::Backup(three.ids[2])] {
        let found = verify(&three.repository, which, 1.0).await;
        let [Damage { backup_id, object, ranges, affects, .. }] = &found.damage[..] else {
            panic!("{found:?}")
        };
        assert_eq!((found.good, *backup_id, object), (false, three.ids[0], &key));
        assert_eq!((&ranges[..], &affects[..]), (&[(16_384, 32_768)][..], &three.ids[..2]));
    }
    // Without the data only what the listing tells: a bomb this large is more than the chunk could ever have.
    let listed = verify(&three.repository, Which::All, 0.0).await;
    assert_eq!(listed.good, matches!(kind, Harm::BitFlip | Harm::Truncated | Harm::Swapped | Harm::Bomb));
}

/// The files beside the chunks, and objects that nobody named.
#[tokio::test]
async fn damaged_files() {
    let cases: [(&str, Option<&[u8]>, &str, usize); 5] = [
        ("_sha256file", None, "missing", 1),
        ("_sha256file", Some(b"{"), "_sha256file", 1),
        ("_metadata", Some(b"{}"), "cannot be read", 3),
        ("-00077", Some(b"x"), "does not name it", 1),
        ("-00003", None, "missing", 3),
    ];
    for (end, content, reason, affected) in cases {
        let three = three().await;
        let key = format!("{}{end}", three.prefixes[0]);
        match content {
            Some(bytes) => std::fs::write(three.repository.file(&key), bytes).unwrap(),
            None => std::fs::remove_file(three.repository.file(&key)).unwrap(),
        }
        let found = verify(&three.repository, Which::All, 1.0).await;
        let damage =
            found.damage.iter().find(|damage| damage.object == key).unwrap_or_else(|| panic!("{found:?}"));
        assert!(damage.reason.contains(reason), "{damage:?}");
        assert_eq!(damage.affects.len(), affected, "{damage:?}");
    }
}

/// A hash that is wrong is laid to the hash file: the chunk has its md5.
#[tokio::test]
async fn a_wrong_hash() {
    let three = three().await;
    let key = format!("{}_sha256file", three.prefixes[0]);
    let text = std::fs::read_to_string(three.repository.file(&key)).unwrap();
    let at = text.find('[').unwrap();
    let at = at + text[at..].find('"').unwrap() + 1;
    let other = if text.as_bytes()[at + 5] == b'0' { "1" } else { "0" };
    std::fs::write(three.repository.file(&key), format!("{}{other}{}", &text[..at + 5], &text[at + 6..]))
        .unwrap();
    let found = verify(&three.repository, Which::All, 1.0).await;
    let [damage] = &found.damage[..] else { panic!("{found:?}") };
    assert_eq!((&damage.object, damage.backup_id), (&key, three.ids[0]));
    assert_eq!(damage.ranges.len(), 1);
}

/// A parent that is gone, and a set that is still being made.
#[tokio::test]
async fn broken_chains_and_begun_sets() {
    let three = three().await;
    std::fs::remove_file(three.repository.file(&format!("{}_metadata", three.prefixes[1]))).unwrap();
    let found = verify(&three.repository, Which::All, 1.0).await;
    assert_eq!(found.incomplete, [three.ids[1]]);
    let [damage] = &found.damage[..] else { panic!("{found:?}") };
    assert!(damage.reason.contains(&three.ids[1].to_string()), "{damage:?}");
    assert_eq!(damage.affects, [three.ids[2]]);
    // Told as by all other commands.
    let which = Which::Backup(three.ids[1]);
    let options = VerifyOptions { which, data: 0.0, seed: 0, limits: Limits::default() };
    let engine = &three.repository.engine;
    let begun = engine.verify(&options, &Progress::default(), &Cancel::never()).await.unwrap_err();
    let shown = engine.show(three.ids[1]).await.unwrap_err();
    assert!(begun.to_string().contains("incomplete") && begun.to_string() == shown.to_string(), "{begun}");
}

/// A backup that goes while it is read is no damaged one.
#[rstest]
#[case::its_manifest("_metadata")]
#[case::its_first_chunk("-00001")]
#[case::a_later_one("-00004")]
#[tokio::test]
async fn deleted_meanwhile(#[case] at: &str) {
    let repository = Repository::new();
    let data = noise(3, 100_003);
    let full = repository.create(&data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    let stays = repository.create(&data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    let trigger = format!("{}{at}", full.prefix);
    for which in [Which::All, Which::Backup(full.backup_id)] {
        let folder = repository.file(&full.prefix).parent().unwrap().to_owned();
        let (trigger, aside) = (trigger.clone(), repository.path("aside"));
        let (from, to) = (folder.clone(), aside.clone());
        let counting = Counting::new(&repository.store, move |_, key| {
            if key == trigger {
                std::fs::rename(&from, &to).unwrap();
            }
        });
        let options = VerifyOptions { which, data: 1.0, seed: 0, limits: Limits::default() };
        let engine = Engine::new(counting as _);
        let found = engine.verify(&options, &Progress::default(), &Cancel::never()).await;
        if which == Which::All {
            let found = found.unwrap();
            assert!(found.good && found.changed == [full.backup_id], "{found:?}");
            assert!(found.backups.contains(&stays.backup_id), "{found:?}");
        } else {
            let error = found.unwrap_err();
            assert!(matches!(error, BackupError::Changed { backup } if backup == full.backup_id), "{error}");
        }
        std::fs::rename(&aside, &folder).unwrap();
    }
}

/// The commands: exit code 5 and a list of what is damaged, until it is repaired.
#[tokio::test]
async fn the_commands() {
    let three = three().await;
    let repository = format!("--repository=file://{}", three.repository.path("repo").display());
    let run = |code: i32, args: &[&str]| -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        let output =
            command.args(["backup", args[0], &repository, "-o", "json"]).args(&args[1..]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let newest = three.ids[2].to_string();
    assert_eq!(run(0, &["verify", "--all", "--data"])["good"], true);
    assert!(run(0, &["verify", "--all", "--sample", "50%"])["seed"].is_u64());
    let key = harm(&three.repository, &three.prefixes[0], 3, Harm::Truncated);
    assert_eq!(run(0, &["verify", "--all"])["good"], true);
    let found = run(5, &["verify", "--backup", &newest, "--data", "--memory", "1M"]);
    assert_eq!(
        (&found["damage"][0]["object"], &found["damage"][1]),
        (&Value::from(key.as_str()), &Value::Null)
    );
    let to = three.repository.path("to");
    let to = to.to_str().unwrap();
    let failed = run(5, &["restore", "--backup", &newest, "--to", to]);
    assert!(failed["error"].as_str().unwrap().contains("32768-49152"), "{failed}");
    assert!(!std::path::Path::new(to).exists());
    let part = run(0, &["restore", "--backup", &newest, "--to", to, "--range", "16K+16K"]);
    assert_eq!(part["range"], serde_json::json!([16_384, 32_768]));
    let lossy = run(5, &["restore", "--backup", &newest, "--to", to, "--in-place", "--damaged", "zero"]);
    assert_eq!(lossy["losses"][0]["ranges"], serde_json::json!([[32_768, 49_152]]));
    assert_eq!(run(5, &["repair", "--backup", &newest])["good"], false);
    let image = three.repository.path("image");
    std::fs::write(&image, noise(1, 100_003)).unwrap();
    let image = image.to_str().unwrap();
    let repaired = run(0, &["repair", "--backup", &newest, "--image", image, "--format", "raw"]);
    assert_eq!(repaired["repaired"][0]["object"], key.as_str());
    assert_eq!(run(0, &["verify", "--backup", &newest, "--data"])["good"], true);
    for bad in [
        &["verify"][..],
        &["verify", "--all", "--sample", "0"],
        &["verify", "--all", "--data", "--sample", "5"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_strata"))
            .args(["backup", bad[0], &repository])
            .args(&bad[1..])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
    }
}
