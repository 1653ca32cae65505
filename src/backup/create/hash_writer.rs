//! Writes `_sha256file` as a stream.

use crate::backup::BackupError;
use crate::backup::format::{ENTRY, HashFrame};
use crate::backup::store::{ObjectWriter, Store};
use bytes::{Bytes, BytesMut};

/// Handed to the store at a time.
const PART: usize = 1 << 20;

/// A hash file on its way.
pub(in crate::backup) struct HashWriter {
    writer: Box<dyn ObjectWriter>,
    frame: HashFrame,
    waiting: BytesMut,
    entries: u64,
    bytes: u64,
}

impl HashWriter {
    /// Begins the object.
    pub async fn begin(store: &dyn Store, key: &str, frame: HashFrame) -> Result<Self, BackupError> {
        let writer = store.begin(key).await?;
        let waiting = BytesMut::from(&frame.head[..]);
        Ok(HashWriter { writer, frame, waiting, entries: 0, bytes: 0 })
    }

    /// Takes entries, each with its comma.
    pub async fn write(&mut self, mut text: Bytes) -> Result<(), BackupError> {
        if text.is_empty() {
            return Ok(());
        }
        let is_first = self.entries == 0;
        self.entries += (text.len() / ENTRY) as u64;
        if is_first {
            text = text.slice(1..);
        }
        if self.waiting.len() + text.len() > PART {
            self.flush().await?;
        }
        match text.len() >= PART {
            true => self.send(text).await,
            false => {
                self.waiting.extend_from_slice(&text);
                Ok(())
            }
        }
    }

    /// Ends the object; answers its bytes.
    pub async fn finish(mut self) -> Result<u64, BackupError> {
        self.end().await?;
        self.writer.finish().await?;
        Ok(self.bytes)
    }

    /// The same, over one that is there.
    pub async fn replace(mut self) -> Result<(), BackupError> {
        self.end().await?;
        Ok(self.writer.replace().await?)
    }

    async fn end(&mut self) -> Result<(), BackupError> {
        if self.entries > 0 {
            self.waiting.extend_from_slice(b"\n  ");
        }
        self.waiting.extend_from_slice(&self.frame.tail);
        self.flush().await
    }

    /// Removes what was written of it.
    pub async fn abort(self) -> Result<(), BackupError> {
        Ok(self.writer.abort().await?)
    }

    /// Digests so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    async fn flush(&mut self) -> Result<(), BackupError> {
        let bytes = self.waiting.split().freeze();
        self.send(bytes).await
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), BackupError> {
        self.bytes += bytes.len() as u64;
        Ok(self.writer.write(bytes).await?)
    }
}
