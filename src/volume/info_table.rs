//! volume.info, Cinder's table: a snapshot's id → the overlay made with it, and `active` → the image in use. It is
//! derived from the record, but adopted volumes bring one that somebody else wrote.

use super::record::plain_file_name;
use std::collections::BTreeMap;

/// Image files by what they are.
pub type Table = BTreeMap<String, String>;

/// Reads a table; `name` is its file's. None of its names leaves the folder.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Table, String> {
    let table: Table =
        serde_json::from_slice(bytes).map_err(|error| format!("{name} is no table of names: {error}"))?;
    match table.values().find(|file| !plain_file_name(file)) {
        Some(file) => Err(format!("{name} names {file:?}, which is no plain name of an image")),
        None => Ok(table),
    }
}

/// The bytes of a table.
pub fn encode(table: &Table) -> Vec<u8> {
    serde_json::to_vec_pretty(table).expect("the table has only string keys")
}
