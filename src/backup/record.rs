//! What `cinder backup-import` wants of a backup: Cinder walks a chain in its own database, so each backup of the
//! chain needs its record there, parents first.

use super::catalog::Chain;
use super::engine::Engine;
use super::error::BackupError;
use super::format::Manifest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

/// The driver, as Cinder names it when it exports a record.
const SERVICE: &str = "cinder.backup.drivers.s3.S3BackupDriver";
const GIB: u64 = 1 << 30;

/// The arguments of one `cinder backup-import`.
#[derive(Clone, Debug, Serialize)]
pub struct ImportRecord {
    /// Which backup.
    pub backup_id: Uuid,
    /// Cinder's driver.
    pub backup_service: &'static str,
    /// Base64 of the record, in JSON.
    pub backup_url: String,
}

impl Engine {
    /// The records of a backup and of all that it rests on, in the order in which they have to be imported.
    /// `container` is the bucket.
    pub async fn import_records(
        &self,
        backup: Uuid,
        container: &str,
    ) -> Result<Vec<ImportRecord>, BackupError> {
        let Chain { mut links } = self.catalog().chain(backup).await?;
        let (mut size, mut records) = (0, Vec::with_capacity(links.len()));
        links.reverse();
        for (_, manifest) in &links {
            let end = manifest.extents.iter().map(|extent| extent.end()).max().unwrap_or(0);
            size = end.max(size);
            records.push(record(manifest, size, container));
        }
        Ok(records)
    }
}

fn record(manifest: &Manifest, size: u64, container: &str) -> ImportRecord {
    let created: Option<Timestamp> = manifest.created_at.parse().ok();
    let fields = json!({
        "container": container,
        "data_timestamp": created.map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        "display_description": manifest.description,
        "display_name": manifest.name,
        "driver_info": {},
        "encryption_key_id": null,
        "id": manifest.prefix.backup(),
        "metadata": {},
        "object_count": manifest.extents.len(),
        "parent_id": manifest.parent,
        "service_metadata": manifest.prefix.as_str(),
        "size": size.div_ceil(GIB),
        "snapshot_id": null,
        "volume_id": manifest.prefix.volume(),
    });
    let backup_url = STANDARD.encode(fields.to_string());
    ImportRecord { backup_id: manifest.prefix.backup(), backup_service: SERVICE, backup_url }
}
