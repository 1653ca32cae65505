use super::*;
use proptest::prelude::*;
use rstest::rstest;

/// A version 3 header as qemu-img lays it out.
fn image(backing: Option<(&str, &str)>, features: u64) -> Vec<u8> {
    let mut bytes = vec![0; 65536];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&16u32.to_be_bytes());
    bytes[24..32].copy_from_slice(&(1u64 << 30).to_be_bytes());
    bytes[72..80].copy_from_slice(&features.to_be_bytes());
    bytes[100..104].copy_from_slice(&112u32.to_be_bytes());
    if let Some((name, format)) = backing {
        bytes[112..116].copy_from_slice(&EXTENSION_BACKING_FORMAT.to_be_bytes());
        bytes[116..120].copy_from_slice(&(format.len() as u32).to_be_bytes());
        bytes[120..120 + format.len()].copy_from_slice(format.as_bytes());
        bytes[8..16].copy_from_slice(&512u64.to_be_bytes());
        bytes[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        bytes[512..512 + name.len()].copy_from_slice(name.as_bytes());
    }
    bytes
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn a_header_is_read_as_written() {
    let header = Header::read(file(&image(Some(("base", "raw")), 0)).path()).unwrap();
    assert_eq!((header.size, header.cluster_bits, header.version), (1 << 30, 16, 3));
    assert_eq!(header.backing_file.as_deref(), Some("base"));
    assert_eq!(header.backing_format.as_deref(), Some("raw"));
}

#[rstest]
#[case::another_file(Some(("../other", "raw")), 0, "\"../other\"")]
#[case::another_format(Some(("base", "qcow2")), 0, "format qcow2")]
#[case::an_absolute_name(Some(("/base", "raw")), 0, "\"/base\"")]
#[case::no_backing(None, 0, "none")]
#[case::external_data(Some(("base", "raw")), DATA_FILE, "external data")]
#[case::corrupt(Some(("base", "raw")), CORRUPT, "corrupt")]
#[case::from_the_future(Some(("base", "raw")), 1 << 40, "0x10000000000")]
fn a_layer_that_is_not_what_the_record_says_is_refused(
    #[case] backing: Option<(&str, &str)>,
    #[case] features: u64,
    #[case] named: &str,
) {
    let file = file(&image(backing, features));
    let error = verify(file.path(), Some(("base", Format::Raw))).unwrap_err();
    assert!(error.to_string().contains(named), "{error}");
}

#[test]
fn the_expected_layer_is_accepted() {
    verify(file(&image(Some(("base", "raw")), 0)).path(), Some(("base", Format::Raw))).unwrap();
    verify(file(&image(None, 0)).path(), None).unwrap();
}

#[test]
fn an_external_data_file_named_without_its_feature_bit_is_refused() {
    let mut bytes = image(None, 0);
    bytes[112..116].copy_from_slice(&EXTENSION_DATA_FILE.to_be_bytes());
    bytes[116..120].copy_from_slice(&4u32.to_be_bytes());
    assert!(verify(file(&bytes).path(), None).is_err());
}

#[test]
fn names_are_relative_to_the_overlays_folder() {
    let name = |overlay: &str, backing: &str| relative_name(Path::new(overlay), Path::new(backing));
    assert_eq!(name("/s/volumes/a/top", "/s/volumes/a/base").as_deref(), Some("base"));
    assert_eq!(name("/s/volumes/b/top", "/s/volumes/a/base").as_deref(), Some("../a/base"));
}

proptest! {
    #[test]
    fn no_bytes_at_all_make_the_parser_panic(
        flips in proptest::collection::vec((0usize..600, any::<u8>()), 0..24),
        length in 0usize..66000,
    ) {
        let mut bytes = image(Some(("base", "raw")), 0);
        for (at, value) in flips {
            bytes[at] = value;
        }
        bytes.truncate(length);
        let _ = parse(&bytes);
    }
}

/// A fresh overlay has no cluster of its own; a table that points beyond the file is an error, no answer.
#[test]
fn an_image_that_was_never_written_to_is_told() {
    let table = |offset: u64, entry: u64| {
        let mut bytes = image(None, 0);
        bytes.resize(128 << 10, 0);
        bytes[36..40].copy_from_slice(&2u32.to_be_bytes());
        bytes[40..48].copy_from_slice(&offset.to_be_bytes());
        bytes[(64 << 10) + 8..(64 << 10) + 16].copy_from_slice(&entry.to_be_bytes());
        file(&bytes)
    };
    assert!(has_no_data(table(64 << 10, 0).path()).unwrap());
    assert!(!has_no_data(table(64 << 10, 1 << 63 | 0x5_0000).path()).unwrap());
    assert!(has_no_data(table(1 << 40, 0).path()).is_err());
}
