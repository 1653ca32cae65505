use super::*;
use crate::backup::format::{HashList, ZoneName, digest_of};
use crate::backup::store::{ObjectBacked, Store};
use proptest::prelude::*;
use rstest::rstest;
use std::sync::Arc;
use uuid::Uuid;

fn prefix() -> Prefix {
    Prefix::new(Uuid::nil(), "20261121194302", &ZoneName::default(), Uuid::max())
}

fn digests(count: u32) -> Vec<Digest> {
    (0..count).map(|n| digest_of(&n.to_le_bytes())).collect()
}

fn encoded(digests: &[Digest]) -> String {
    let list = HashList { block: 4096, digests: digests.to_vec() };
    String::from_utf8(list.encode(&prefix(), Some("na]me"), None, "now").unwrap()).unwrap()
}

async fn open(text: impl Into<Vec<u8>>) -> Result<HashReader, BackupError> {
    let store: Arc<dyn Store> = Arc::new(ObjectBacked::memory());
    store.put(&prefix().hashes(), text.into().into()).await.unwrap();
    HashReader::open(&Catalog::new(store), &prefix()).await
}

/// The error of whatever comes first: opening, taking, finishing.
async fn error(text: String) -> String {
    let read = async {
        let mut reader = open(text).await?;
        reader.take(0..2).await?;
        reader.finish().await
    };
    read.await.unwrap_err().to_string()
}

/// More than one request's worth.
#[tokio::test]
async fn a_long_list_in_steps() {
    let digests = digests(130_000);
    let mut reader = open(encoded(&digests)).await.unwrap();
    assert_eq!(reader.block(), 4096);
    assert_eq!(reader.take(0..3).await.unwrap(), digests[..3]);
    assert_eq!(reader.take(3..70_000).await.unwrap(), digests[3..70_000]);
    assert_eq!(reader.take(90_000..90_001).await.unwrap(), digests[90_000..90_001]);
    assert_eq!(reader.take(129_999..130_005).await.unwrap(), digests[129_999..]);
    assert_eq!(reader.take(130_005..130_009).await.unwrap(), Vec::<Digest>::new());
    assert_eq!(reader.finish().await.unwrap(), 130_000);
}

proptest! {
    /// Any white space, any order of the keys, any case of the digits.
    #[test]
    fn other_ways_to_write_it(count in 0u32..9, order in 0usize..5040, compact: bool, upper: bool, cut in 0u64..9) {
        let digests = digests(count);
        let value: serde_json::Value = serde_json::from_str(&encoded(&digests)).unwrap();
        let mut left: Vec<_> = value.as_object().unwrap().iter().collect();
        let (mut members, mut order) = (Vec::new(), order);
        while !left.is_empty() {
            let (name, value) = left.remove(order % left.len());
            order /= left.len() + 1;
            let mut value = if compact { value.to_string() } else { format!("{value:#}") };
            if upper && name == "sha256s" {
                value = value.to_uppercase();
            }
            members.push(format!("\"{name}\"{}:{value}", if compact { "" } else { " \n\t" }));
        }
        let text = format!("{{{}}}\n", members.join(if compact { "," } else { " ,\r\n" }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut reader = open(text).await.unwrap();
            assert_eq!(reader.block(), 4096);
            let cut = cut.min(count.into());
            assert_eq!(reader.take(0..cut).await.unwrap(), digests[..cut as usize]);
            assert_eq!(reader.take(cut..99).await.unwrap(), digests[cut as usize..]);
            assert_eq!(reader.finish().await.unwrap(), u64::from(count));
        });
    }
}

/// What lies is refused in words, wherever it stands.
#[rstest]
#[case("\"1.0.0\"", "\"2.0.0\"", "version \"2.0.0\"")]
#[case("\"version\"", "\"virgin\"", "no version")]
#[case("\"volume_id\": \"0", "\"volume_id\": \"1", "another volume's")]
#[case("\"chunk_size\": 4096", "\"chunk_size\": 7", "hash block of 7 bytes")]
#[case("\"chunk_size\": 4096", "\"chunk_size\": 1073741825", "hash block of 1073741825 bytes")]
#[case("\"chunk_size\": 4096", "\"chunk_size\": -1", "cannot be read")]
#[case("\"chunk_size\": 4096", "\"chunk_size\": {\"a\": 4096}", "cannot be read")]
#[case("\"sha256s\": [", "\"sha256s\": {", "'[' is missing")]
#[case("\"sha256s\": [", "\"sha256s\": [\"00\", ", "no SHA-256")]
#[case("\"sha256s\": [", "\"sha256s\": [1, ", "no SHA-256")]
#[case("\"sha256s\": [", "\"sha256s\": [, ", "no SHA-256")]
#[case("\n}", "\n} }", "follows its end")]
#[case("\n}", "", "no JSON")]
#[case("\n}", ", \"version\": \"1.0.0\"}", "twice")]
#[case("\n}", ", \"sha256s\": []}", "twice")]
#[case("\n  ]", "\n  ", "no SHA-256")]
#[case("{\n", "[\n", "'{' is missing")]
#[tokio::test]
async fn hostile(#[case] from: &str, #[case] to: &str, #[case] says: &str) {
    let text = encoded(&digests(3));
    assert!(text.contains(from), "{text}");
    let said = error(text.replacen(from, to, 1)).await;
    assert!(said.contains(says), "{said}");
}

/// Nothing but digests may be long, and an end in the middle is no end.
#[tokio::test]
async fn endless_or_broken_off() {
    let text = encoded(&digests(3));
    let long = format!("\"na{}", "x".repeat(2 << 20));
    assert!(error(text.replacen("\"na", &long, 1)).await.contains("more than a mebibyte"));
    for end in 0..text.len() {
        error(text[..end].to_owned()).await;
    }
}
