//! `strata support-bundle`: what helps to understand an installation, in one file, without its credentials.

mod bundle;
mod cluster;
mod machine;
mod redact;
mod shares;

use super::backup::OpenShare;
use super::driver::{DRIVER, DataSocketArg, KubeArgs, QemuImgArg, QemuStorageDaemonArg, tools};
use crate::agent::{AgentClient, CUT_LIMIT};
use crate::data::DataClient;
use crate::gluster::{Share, Source};
use crate::volume::{Policy, Volumes};
use anyhow::{Context, Result};
use bundle::{Bundle, attempt};
use clap::Args;
use cluster::{Part, Wanted};
use redact::Redactor;
use serde_json::{Value, json};
use shares::What;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};

/// Writes a .tar.gz with what helps to understand an installation: versions, processes and their flags, shares and their
/// volumes, storage daemons, mounts, loop devices, logs, metrics and, where the API can be asked, Strata's objects and the
/// storage objects of its driver. Never credentials: Secrets are not read, and what looks like one is taken out. What cannot
/// be had is a line of errors.txt in it.
#[derive(Debug, Args)]
pub struct SupportArgs {
    /// The file to write, which must not be there yet; - is the standard output. By default strata-support-HOST-TIME.tar.gz in the
    /// current folder.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A share to look at that this machine's data plane has not mounted: HOST:/VOLUME or dir:/PATH. Several: repeat the option.
    #[arg(long = "share", value_name = "SOURCE")]
    shares: Vec<Source>,
    #[command(flatten)]
    data: DataSocketArg,
    /// The data plane's folder, for the logs of daemons and mounts.
    #[arg(long, env = "STRATA_DATA_DIR", value_name = "FOLDER", default_value = "/var/lib/strata/data")]
    data_dir: PathBuf,
    /// More files with logs: their last 512 KiB go in.
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
    /// Where metrics are. Several: repeat the option.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9810/metrics")]
    metrics_url: Vec<String>,
    #[command(flatten)]
    kube: KubeArgs,
    /// The driver's name.
    #[arg(long, env = "STRATA_DRIVER_NAME", default_value = DRIVER)]
    driver_name: String,
    /// Lines of each container's log.
    #[arg(long, value_name = "NUMBER", default_value_t = 5000)]
    log_lines: u32,
    /// Seconds that each part may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    limit: u64,
    #[command(flatten)]
    qemu_img: QemuImgArg,
    #[command(flatten)]
    qemu_storage_daemon: QemuStorageDaemonArg,
}

impl SupportArgs {
    /// Writes the bundle.
    pub fn run(self) -> Result<()> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let path =
            self.file.clone().unwrap_or_else(|| format!("strata-support-{host}-{stamp}.tar.gz").into());
        let out: Box<dyn Write> = if path == Path::new("-") {
            Box::new(io::stdout().lock())
        } else {
            // It may hold what was not recognised: for its owner alone.
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            Box::new(file.with_context(|| format!("cannot make {}", path.display()))?)
        };
        let redactor = Redactor::new(std::env::vars());
        let mut bundle = Bundle::new(out, redactor);
        let runtime = Runtime::new().context("cannot start")?;
        self.fill(&mut bundle, &runtime).context("the bundle cannot be written")?;
        let done = bundle.finish().context("the bundle cannot be written")?;
        // What hangs is not waited for.
        runtime.shutdown_background();
        for line in &done.errors {
            eprintln!("missing: {line}");
        }
        eprintln!("{}: {} files, {} parts are missing", path.display(), done.files, done.errors.len());
        Ok(())
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.limit)
    }

    fn fill<W: Write>(&self, bundle: &mut Bundle<W>, runtime: &Runtime) -> io::Result<()> {
        self.machine(bundle)?;
        let mounted = self.data_plane(bundle, runtime)?;
        for share in &mounted {
            self.check(bundle, &share.source)?;
            self.volumes(bundle, runtime, share)?;
        }
        let is_mounted = |source: &&Source| mounted.iter().any(|share| share.source == **source);
        for source in self.shares.iter().filter(|source| !is_mounted(source)) {
            self.check(bundle, source)?;
            self.opened(bundle, source)?;
        }
        self.metrics(bundle, runtime)?;
        self.cluster(bundle, runtime)
    }

    fn machine<W: Write>(&self, bundle: &mut Bundle<W>) -> io::Result<()> {
        let programs = [
            self.qemu_img.qemu_img.clone(),
            self.qemu_storage_daemon.qemu_storage_daemon.clone(),
            "glusterfs".into(),
        ];
        bundle.json(
            "versions.json",
            attempt(self.limit(), move || Ok::<_, String>(machine::versions(&programs))),
        )?;
        let processes = machine::processes(bundle.redactor());
        bundle.json("processes.json", processes)?;
        bundle.json("loop-devices.json", attempt(self.limit(), machine::loop_devices))?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string());
        bundle.text("mounts.txt", mounts)?;
        let folder = self.data_dir.clone();
        let logs = attempt(self.limit(), move || Ok::<_, String>(machine::logs(&folder)));
        let logs = logs.unwrap_or_else(|reason| {
            bundle.failed("files", &reason);
            Vec::new()
        });
        for path in logs.iter().chain(&self.log) {
            let reading = path.clone();
            let name = path.display().to_string().trim_start_matches('/').replace('/', "_");
            bundle.text(&format!("files/{name}"), attempt(self.limit(), move || machine::log(&reading)))?;
        }
        Ok(())
    }

    /// The shares that it has mounted.
    fn data_plane<W: Write>(&self, bundle: &mut Bundle<W>, runtime: &Runtime) -> io::Result<Vec<Share>> {
        let asked = runtime.block_on(async {
            let client = DataClient::new(&self.data.data_socket)?;
            Ok::<_, crate::data::DataError>((
                client.instance().await?,
                client.daemons().await?,
                client.shares().await,
            ))
        });
        let (instance, daemons, mounted) = match asked {
            Ok(answers) => answers,
            Err(error) => {
                bundle.failed("data", &crate::rpc::chain(&error));
                return Ok(Vec::new());
            }
        };
        let mounted = mounted.unwrap_or_else(|error| {
            bundle.failed("data/shares", &crate::rpc::chain(&error));
            Vec::new()
        });
        let told = json!({
            "instance": instance,
            "daemons": daemons.iter().map(shares::daemon).collect::<Vec<_>>(),
            "shares": mounted.iter().map(shares::place).collect::<Vec<_>>(),
        });
        bundle.json("data/data.json", Ok(told))?;
        for daemon in daemons {
            let path = format!("data/daemons/{}.json", daemon.name.as_str());
            bundle.json(&path, attempt(self.limit(), move || shares::queries(daemon.qmp_socket)))?;
        }
        Ok(mounted)
    }

    fn check<W: Write>(&self, bundle: &mut Bundle<W>, source: &Source) -> io::Result<()> {
        let (name, source) = (file_name(&source.to_string()), source.clone());
        bundle
            .json(&format!("shares/{name}/check.json"), attempt(self.limit(), move || shares::check(&source)))
    }

    /// Of a share that is mounted already.
    fn volumes<W: Write>(&self, bundle: &mut Bundle<W>, runtime: &Runtime, share: &Share) -> io::Result<()> {
        let _inside = runtime.enter();
        let data = match DataClient::new(&self.data.data_socket) {
            Ok(data) => data,
            Err(error) => {
                bundle.failed(&format!("shares/{}", share.source), &error.to_string());
                return Ok(());
            }
        };
        let agents = AgentClient::new(Handle::current(), CUT_LIMIT);
        let tools = tools(&data, self.qemu_img.qemu_img.clone(), agents, Policy::default());
        let volumes = Volumes::new(share.clone(), tools);
        let limit = self.limit();
        self.each(bundle, &share.source, move |what| what.look(&volumes, limit))
    }

    /// Of one that this command mounts for itself.
    fn opened<W: Write>(&self, bundle: &mut Bundle<W>, source: &Source) -> io::Result<()> {
        let (opening, limit) = (source.clone(), self.limit());
        self.each(bundle, source, move |what| {
            let opened = OpenShare::open(&opening).map_err(|failure| failure.message)?;
            what.look(&opened.volumes, limit)
        })
    }

    fn each<W: Write>(
        &self,
        bundle: &mut Bundle<W>,
        source: &Source,
        look: impl Fn(What) -> Result<Value, String> + Clone + Send + 'static,
    ) -> io::Result<()> {
        for what in What::ALL {
            let look = look.clone();
            let path = format!("shares/{}/{}.json", file_name(&source.to_string()), what.name());
            // It ends by itself, with what it has found, before it is left alone.
            let limit = self.limit() + Duration::from_secs(15);
            bundle.json(&path, attempt(limit, move || look(what)))?;
        }
        Ok(())
    }

    fn metrics<W: Write>(&self, bundle: &mut Bundle<W>, runtime: &Runtime) -> io::Result<()> {
        for url in &self.metrics_url {
            let asked = async {
                let client = reqwest::Client::builder().no_proxy().timeout(self.limit()).build()?;
                client.get(url).send().await?.error_for_status()?.text().await
            };
            let answer = runtime.block_on(asked).map_err(|error| crate::rpc::chain(&error));
            bundle.text(&format!("metrics/{}.txt", file_name(url)), answer)?;
        }
        Ok(())
    }

    fn cluster<W: Write>(&self, bundle: &mut Bundle<W>, runtime: &Runtime) -> io::Result<()> {
        if !self.kube.is_there() {
            bundle.failed("kubernetes", "not asked: this is no pod, and no --kubeconfig was given");
            return Ok(());
        }
        let client = match runtime.block_on(self.kube.client()) {
            Ok(client) => client,
            Err(error) => {
                bundle.failed("kubernetes", &format!("{error:#}"));
                return Ok(());
            }
        };
        let namespace = self.kube.own_namespace();
        if let Err(error) = &namespace {
            bundle.failed("logs", &format!("{error:#}"));
        }
        let wanted = Wanted {
            driver: self.driver_name.clone(),
            namespace: namespace.ok(),
            lines: self.log_lines,
            limit: self.limit(),
        };
        let mut written = Ok(());
        runtime.block_on(cluster::collect(&client, &wanted, |part| {
            let put = match part {
                Part::Json(path, value) => bundle.json(&path, value),
                Part::Text(path, text) => bundle.text(&path, text),
            };
            if written.is_ok() {
                written = put;
            }
        }));
        written
    }
}

/// A part of a path of what may hold anything.
fn file_name(text: &str) -> String {
    let fine = |c: char| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' };
    text.chars().map(fine).collect()
}
