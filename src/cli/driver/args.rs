//! Arguments that several roles take.

use crate::backup::repositories::FileRepositories;
use crate::csi::ShareSpec;
use crate::gluster::{MountOption, Source};
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
        required_unless_present = "shares_file"
    )]
    shares: Vec<Source>,
    /// Mount options of one share, beyond those that safety demands:
    /// --share-options server1:/volume=backup-volfile-servers=server2:server3,log-level=WARNING
    #[arg(long, value_name = "SOURCE=OPTION[,OPTION…]")]
    share_options: Vec<String>,
    /// A file with more shares, one a line: SOURCE [OPTION[,OPTION…]]; # begins a comment. It is read again all
    /// the time: a line that is added counts within seconds, one that is removed at the next start.
    #[arg(long, env = "STRATA_SHARES_FILE", value_name = "FILE")]
    shares_file: Option<PathBuf>,
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
        if let Some(path) = &self.shares_file {
            for spec in read_shares(path)? {
                if specs.iter().all(|known| known.source != spec.source) {
                    specs.push(spec);
                }
            }
        }
        Ok(specs)
    }

    /// The file that is read again, if there is one.
    pub fn file(&self) -> Option<PathBuf> {
        self.shares_file.clone()
    }

    /// The same arguments for a child process.
    pub fn to_args(&self) -> Vec<String> {
        let shares = self.shares.iter().flat_map(|source| ["--share".to_owned(), source.to_string()]);
        let options = self.share_options.iter().flat_map(|text| ["--share-options".to_owned(), text.clone()]);
        let file = self.shares_file.iter().flat_map(|path| {
            // The roles may have another current folder than whoever typed the path.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            ["--shares-file".to_owned(), path.to_string_lossy().into_owned()]
        });
        shares.chain(options).chain(file).collect()
    }
}

/// The shares of a file: all of it is right, or none of it counts.
pub fn read_shares(path: &Path) -> Result<Vec<ShareSpec>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split('#').next().unwrap_or("").trim()));
    lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(number, line)| share_of(line).with_context(|| format!("{}, line {number}", path.display())))
        .collect()
}

fn share_of(line: &str) -> Result<ShareSpec> {
    let (source, options) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let source: Source = source.parse()?;
    let options: Vec<String> = options
        .split(',')
        .map(|option| option.trim().to_owned())
        .filter(|option| !option.is_empty())
        .collect();
    for option in &options {
        option.parse::<MountOption>()?;
    }
    ensure!(
        options.is_empty() || !matches!(source, Source::Dir(_)),
        "{source} is a directory, which is not mounted with options"
    );
    Ok(ShareSpec { source, options })
}

/// The repositories that backups' handles name.
#[derive(Clone, Debug, Args)]
pub struct RepositoriesArg {
    /// A JSON file with the repositories by name, for restores of bak://NAME/VOLUME/BACKUP and cinder://NAME/VOLUME/BACKUP:
    /// {"NAME": {"repository": "s3://BUCKET", "endpoint": …}}. It is read again at each use.
    #[arg(long, env = "STRATA_REPOSITORIES", value_name = "FILE")]
    repositories: Option<PathBuf>,
}

impl RepositoriesArg {
    /// Checked: a file that cannot be used at the start is somebody's slip.
    pub fn get(&self) -> Result<FileRepositories> {
        let repositories = match &self.repositories {
            Some(file) => FileRepositories::new(file),
            None => FileRepositories::none(),
        };
        repositories.check().map_err(|reason| anyhow!("--repositories: {reason}"))?;
        Ok(repositories)
    }

    /// The same argument for a child process.
    pub fn to_args(&self) -> Option<String> {
        // The role may have another current folder than whoever typed the path.
        let path = |file: &PathBuf| std::path::absolute(file).unwrap_or_else(|_| file.clone());
        self.repositories.as_ref().map(|file| format!("--repositories={}", path(file).display()))
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

    /// G1: a file of shares; one line that is wrong is named, and nothing of the file counts.
    #[test]
    fn a_file_of_shares_is_read_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("shares");
        std::fs::write(&file, "# ours\na:/v log-level=INFO,backup-volfile-servers=b\n\ndir:/srv/x # fast\n")
            .unwrap();
        let path = file.to_str().unwrap();
        let found = specs(&["--shares-file", path, "--share", "dir:/srv/x"]).unwrap();
        let sources: Vec<String> = found.iter().map(|spec| spec.source.to_string()).collect();
        assert_eq!(sources, ["dir:/srv/x", "a:/v"]);
        assert_eq!(found[1].options, ["log-level=INFO", "backup-volfile-servers=b"]);
        std::fs::write(&file, "dir:/srv/x\na:/v attribute-timeout=1\n").unwrap();
        let wrong = format!("{:#}", specs(&["--shares-file", path]).unwrap_err());
        assert!(wrong.contains("line 2"), "{wrong}");
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
