//! Arguments that several roles take.

use crate::csi::ShareSpec;
use crate::gluster::{MountOption, Source};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The driver's name unless told otherwise.
pub const DRIVER: &str = "csi.strata.dev";

/// The shares that volumes live on.
#[derive(Clone, Debug, Args)]
pub struct ShareArgs {
    /// A share: HOST:/VOLUME (GlusterFS) or dir:/ABSOLUTE/PATH (a directory). Several: repeat the option,
    /// or separate them with commas.
    #[arg(
        long = "share",
        env = "STRATA_SHARES",
        value_name = "SOURCE",
        value_delimiter = ',',
        required = true
    )]
    shares: Vec<Source>,
    /// Mount options of one share, beyond those that safety demands:
    /// --share-options server1:/volume=backup-volfile-servers=server2:server3,log-level=WARNING
    #[arg(long, value_name = "SOURCE=OPTION[,OPTION…]")]
    share_options: Vec<String>,
}

impl ShareArgs {
    /// Shares and their options, checked.
    pub fn specs(&self) -> Result<Vec<ShareSpec>> {
        let mut options: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in &self.share_options {
            let (source, list) = text
                .split_once('=')
                .with_context(|| format!("--share-options {text:?}: write SOURCE=OPTION[,OPTION…]"))?;
            for option in list.split(',') {
                option.parse::<MountOption>().with_context(|| format!("--share-options {text:?}"))?;
                options.entry(source.to_owned()).or_default().push(option.to_owned());
            }
        }
        let mut specs: Vec<ShareSpec> = Vec::new();
        for source in &self.shares {
            let of_this = options.remove(&source.to_string()).unwrap_or_default();
            ensure!(
                of_this.is_empty() || !matches!(source, Source::Dir(_)),
                "--share-options: {source} is a directory, which is not mounted"
            );
            if specs.iter().all(|spec| spec.source != *source) {
                specs.push(ShareSpec { source: source.clone(), options: of_this });
            }
        }
        if let Some(source) = options.keys().next() {
            bail!("--share-options names {source}, which is none of the shares given with --share");
        }
        Ok(specs)
    }

    /// The same arguments for a child process.
    pub fn to_args(&self) -> Vec<String> {
        let shares = self.shares.iter().flat_map(|source| ["--share".to_owned(), source.to_string()]);
        let options = self.share_options.iter().flat_map(|text| ["--share-options".to_owned(), text.clone()]);
        shares.chain(options).collect()
    }
}

/// QEMU's programs.
#[derive(Clone, Debug, Args)]
pub struct QemuImgArg {
    /// The program qemu-img.
    #[arg(long, env = "STRATA_QEMU_IMG", value_name = "PROGRAM", default_value = "qemu-img")]
    pub qemu_img: PathBuf,
}

/// QEMU's storage daemon.
#[derive(Clone, Debug, Args)]
pub struct QemuStorageDaemonArg {
    /// The program qemu-storage-daemon, of a version that is known to be sound.
    #[arg(
        long,
        env = "STRATA_QEMU_STORAGE_DAEMON",
        value_name = "PROGRAM",
        default_value = "qemu-storage-daemon"
    )]
    pub qemu_storage_daemon: PathBuf,
}

/// Where the data plane listens.
#[derive(Clone, Debug, Args)]
pub struct DataSocketArg {
    /// The data plane's socket.
    #[arg(long, env = "STRATA_DATA_SOCKET", value_name = "PATH", default_value = "/run/strata/data.sock")]
    pub data_socket: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        shares: ShareArgs,
    }

    fn specs(args: &[&str]) -> Result<Vec<ShareSpec>> {
        Line::try_parse_from(std::iter::once("x").chain(args.iter().copied()))?.shares.specs()
    }

    /// G1: options per share, several shares.
    #[test]
    fn options_belong_to_their_share() {
        let specs = specs(&[
            "--share",
            "a:/v",
            "--share",
            "dir:/srv/x",
            "--share-options",
            "a:/v=backup-volfile-servers=b:c,log-level=WARNING",
        ])
        .unwrap();
        assert_eq!(specs[0].options, ["backup-volfile-servers=b:c", "log-level=WARNING"]);
        assert!(specs[1].options.is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(specs(&[]).is_err());
        assert!(specs(&["--share", "nonsense"]).is_err());
        assert!(specs(&["--share", "a:/v", "--share-options", "b:/v=log-level=INFO"]).is_err());
        assert!(specs(&["--share", "dir:/x", "--share-options", "dir:/x=log-level=INFO"]).is_err());
        assert!(specs(&["--share", "a:/v", "--share-options", "a:/v=attribute-timeout=1"]).is_err());
    }

    #[test]
    fn a_child_gets_the_same_shares() {
        let line = ["--share", "a:/v", "--share-options", "a:/v=log-level=INFO"];
        let parsed = Line::try_parse_from(std::iter::once("x").chain(line)).unwrap().shares;
        assert_eq!(parsed.to_args(), line);
    }
}
