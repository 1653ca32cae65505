//! Goes through the text of a hash file.

use crate::backup::error::BackupError;
use crate::backup::format::{ENTRY, FormatError, HashHeader, InvalidSnafu, entry_of_text, is_entry};
use crate::backup::store::{Store, StoreError};
use bytes::Bytes;
use snafu::{ResultExt, ensure};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Bytes per request: a round trip to a far store is short against the time that they take.
const PART: u64 = 4 << 20;
/// Of all that is not a digest: names and descriptions. No sane one is near it.
const MAX_HEADER: usize = 1 << 20;

/// A hash file and a place in it.
#[derive(Debug)]
pub(super) struct Scanner {
    store: Arc<dyn Store>,
    key: String,
    /// Read, and from `at` on not gone through yet.
    text: Vec<u8>,
    at: usize,
    /// Of the first byte that is not asked for yet.
    asked: u64,
    ahead: Option<JoinHandle<Result<Bytes, StoreError>>>,
    is_read: bool,
    header: HashHeader,
    names: HashSet<String>,
    header_bytes: usize,
    in_list: bool,
    /// No digest of the list was met yet.
    is_first: bool,
}

impl Drop for Scanner {
    fn drop(&mut self) {
        if let Some(ahead) = self.ahead.take() {
            ahead.abort();
        }
    }
}

impl Scanner {
    pub fn new(store: Arc<dyn Store>, key: String) -> Self {
        Scanner {
            store,
            key,
            text: Vec::new(),
            at: 0,
            asked: 0,
            ahead: None,
            is_read: false,
            header: HashHeader::default(),
            names: HashSet::new(),
            header_bytes: 0,
            in_list: false,
            is_first: true,
        }
    }

    pub fn header(&self) -> &HashHeader {
        &self.header
    }

    /// Goes to the first digest.
    pub async fn read_to_list(&mut self) -> Result<(), BackupError> {
        self.expect(b'{').await?;
        let name = self.member().await?;
        self.members(name).await?;
        match self.in_list {
            true => Ok(()),
            false => Err(self.invalid("it has no list of hashes").into()),
        }
    }

    /// Goes on from the end of the list to the end of the file.
    pub async fn read_to_end(&mut self) -> Result<(), BackupError> {
        ensure!(!self.in_list, InvalidSnafu { key: &self.key, reason: "its list of hashes does not end" });
        match self.next_byte().await? {
            Some(b'}') => {}
            Some(b',') => {
                let name = self.member().await?;
                self.members(name).await?;
                ensure!(!self.in_list, InvalidSnafu { key: &self.key, reason: "it has two lists of hashes" });
            }
            _ => return Err(self.invalid("it is no JSON behind its hashes").into()),
        }
        match self.next_byte().await? {
            None => Ok(()),
            Some(_) => Err(self.invalid("something follows its end").into()),
        }
    }

    /// Passes up to `most` digests, and writes them behind `out` as we would write them. Fewer: the list has ended.
    pub async fn entries(&mut self, most: u64, mut out: Option<&mut Vec<u8>>) -> Result<u64, BackupError> {
        let mut passed = 0;
        while passed < most && self.in_list {
            let (whole, _) = self.text[self.at..].as_chunks::<ENTRY>();
            let most = usize::try_from(most - passed).unwrap_or(usize::MAX);
            let known = whole.iter().take(most).take_while(|entry| is_entry(entry)).count();
            if known > 0 && !self.is_first {
                let end = self.at + known * ENTRY;
                if let Some(out) = out.as_deref_mut() {
                    out.extend_from_slice(&self.text[self.at..end]);
                }
                self.at = end;
                passed += known as u64;
            } else if let Some(entry) = self.slow_entry().await? {
                if let Some(out) = out.as_deref_mut() {
                    out.extend_from_slice(&entry);
                }
                passed += 1;
            }
        }
        Ok(passed)
    }

    /// One digest, however it is written; `None` at the end of the list.
    async fn slow_entry(&mut self) -> Result<Option<[u8; ENTRY]>, BackupError> {
        let mut next = self.next_byte().await?;
        if next == Some(b']') {
            self.in_list = false;
            return Ok(None);
        }
        if !std::mem::take(&mut self.is_first) {
            ensure!(next == Some(b','), InvalidSnafu { key: &self.key, reason: "its list is no JSON" });
            next = self.next_byte().await?;
        }
        let reason = "its list holds something that is no SHA-256";
        ensure!(next == Some(b'"'), InvalidSnafu { key: &self.key, reason });
        let mut text = String::with_capacity(64);
        loop {
            match self.byte().await? {
                Some(b'"') => break,
                Some(byte) if byte.is_ascii_hexdigit() && text.len() < 64 => text.push(byte.into()),
                _ => return Err(self.invalid(reason).into()),
            }
        }
        match entry_of_text(&text) {
            Some(entry) => Ok(Some(entry)),
            None => Err(self.invalid(reason).into()),
        }
    }

    /// Members from this one on: to the object's end, or into the list.
    async fn members(&mut self, mut name: String) -> Result<(), BackupError> {
        loop {
            let reason = || format!("it has {name:?} twice");
            ensure!(self.names.insert(name.clone()), InvalidSnafu { key: &self.key, reason: reason() });
            self.expect(b':').await?;
            if name == "sha256s" {
                self.expect(b'[').await?;
                self.in_list = true;
                return Ok(());
            }
            let value = self.value().await?;
            serde_json::from_slice::<serde::de::IgnoredAny>(&value)
                .context(crate::backup::format::SyntaxSnafu { key: &self.key })
                .map_err(BackupError::from)?;
            if let Some(field) = self.header.field(&name) {
                *field = Some(String::from_utf8_lossy(&value).into_owned());
            }
            match self.next_byte().await? {
                Some(b'}') => return Ok(()),
                Some(b',') => name = self.member().await?,
                _ => return Err(self.invalid("it is no JSON").into()),
            }
        }
    }

    /// The name of a member.
    async fn member(&mut self) -> Result<String, BackupError> {
        let raw = self.value().await?;
        let name = serde_json::from_slice(&raw);
        Ok(name.context(crate::backup::format::SyntaxSnafu { key: &self.key })?)
    }

    /// The text of one value, roughly delimited: whoever uses it parses it.
    async fn value(&mut self) -> Result<Vec<u8>, BackupError> {
        let mut value = Vec::new();
        let (mut depth, mut in_string, mut is_escaped) = (0u32, false, false);
        let mut next = self.next_byte().await?;
        while let Some(byte) = next {
            value.push(byte);
            self.header_bytes += 1;
            let reason = "its header has more than a mebibyte";
            ensure!(self.header_bytes <= MAX_HEADER, InvalidSnafu { key: &self.key, reason });
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' if in_string => is_escaped = true,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
                _ => {}
            }
            let follows = self.peek().await?;
            let ends = matches!(follows, None | Some(b',' | b'}' | b']' | b':'))
                || follows.is_some_and(|b| b.is_ascii_whitespace());
            if !in_string && depth == 0 && ends {
                break;
            }
            next = self.byte().await?;
        }
        Ok(value)
    }

    async fn expect(&mut self, wanted: u8) -> Result<(), BackupError> {
        let found = self.next_byte().await?;
        let reason = format!("it is no JSON of that shape: {:?} is missing", char::from(wanted));
        ensure!(found == Some(wanted), InvalidSnafu { key: &self.key, reason });
        Ok(())
    }

    /// The next byte that is no white space.
    async fn next_byte(&mut self) -> Result<Option<u8>, BackupError> {
        loop {
            match self.byte().await? {
                Some(byte) if byte.is_ascii_whitespace() => {}
                other => return Ok(other),
            }
        }
    }

    async fn byte(&mut self) -> Result<Option<u8>, BackupError> {
        let next = self.peek().await?;
        self.at += usize::from(next.is_some());
        Ok(next)
    }

    async fn peek(&mut self) -> Result<Option<u8>, BackupError> {
        if self.at == self.text.len() {
            self.read().await?;
        }
        Ok(self.text.get(self.at).copied())
    }

    /// Reads the next part, and asks for the one after it.
    async fn read(&mut self) -> Result<(), BackupError> {
        if self.is_read {
            return Ok(());
        }
        let part = match self.ahead.take() {
            Some(ahead) => ahead.await.context(crate::backup::error::WorkerSnafu)??,
            None => {
                let range = self.asked..self.asked + PART;
                self.asked = range.end;
                self.store.get_range(&self.key, range).await?
            }
        };
        self.is_read = (part.len() as u64) < PART;
        if !self.is_read {
            let (store, key, range) =
                (Arc::clone(&self.store), self.key.clone(), self.asked..self.asked + PART);
            self.asked = range.end;
            self.ahead = Some(tokio::spawn(async move { store.get_range(&key, range).await }));
        }
        self.text.drain(..self.at);
        self.at = 0;
        self.text.extend_from_slice(&part);
        Ok(())
    }

    fn invalid(&self, reason: &str) -> FormatError {
        InvalidSnafu { key: &self.key, reason }.build()
    }
}
