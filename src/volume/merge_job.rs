//! A merge's block job inside a storage daemon: the same steps whether the daemon is the merge's own or has the
//! volume open for its pods.

use super::agents::{MergeReport, MergeStep, MergeWork};
use super::error::*;
use super::record::Direction;
use super::steps::{Step, reached};
use crate::image::header::Header;
use crate::image::{Format, ImageRef};
use crate::qsd::command::{self, Commit, JobInfo, JobStatus, Stream};
use crate::qsd::qmp::Client;
use snafu::{OptionExt, ResultExt, ensure};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long a job may take to end once it was told to: it has one header to write, or one request to give up.
const END: Duration = Duration::from_secs(30);
/// Jobs of merges; the run follows.
const PREFIX: &str = "merge-";

/// The daemon, and what it has open of the volume.
pub(super) struct Host<'a> {
    pub(super) client: &'a mut Client,
    /// The volume's folder, as the daemon names it.
    pub(super) folder: &'a Path,
    /// The node at the top of the chain.
    pub(super) top: &'a str,
}

fn job_name(run: Uuid) -> String {
    format!("{PREFIX}{}", run.simple())
}

/// Carries out one step.
pub(super) fn carry_out(host: &mut Host<'_>, run: Uuid, step: &MergeStep) -> Result<MergeReport, Error> {
    match step {
        MergeStep::Start(work) => host.start(run, work),
        MergeStep::Look => host.look(run),
        MergeStep::Finish => host.finish(run),
        MergeStep::Stop => host.stop(),
    }
}

impl Host<'_> {
    fn start(&mut self, run: Uuid, work: &MergeWork) -> Result<MergeReport, Error> {
        let known = self.look(run)?;
        if known != MergeReport::Absent {
            return Ok(known);
        }
        // Of a run that its controller did not live to end.
        self.stop()?;
        let job = job_name(run);
        let upper = self.node(&work.upper_file)?;
        let lower = work.lower_file.as_deref().map(|file| self.node(file)).transpose()?;
        let (backing_file, speed) = (work.backing.as_deref(), work.speed);
        match work.direction {
            Direction::Commit => {
                let reason = "a commit without a layer to commit into";
                let base = lower.context(InvalidSnafu { reason })?;
                let device = self.top;
                let commit = Commit { job: &job, device, top: &upper, base: &base, backing_file, speed };
                command::commit(self.client, &commit)?;
            }
            Direction::Stream | Direction::Flatten => {
                let base = backing_file.map(|name| self.node(name)).transpose()?;
                let base = base.as_deref();
                command::stream(self.client, &Stream { job: &job, node: &upper, base, backing_file, speed })?;
            }
        }
        self.look(run)
    }

    fn look(&mut self, run: Uuid) -> Result<MergeReport, Error> {
        let Some(job) = self.job(&job_name(run))? else { return Ok(MergeReport::Absent) };
        match (job.status, job.error) {
            (JobStatus::Pending, _) => Ok(MergeReport::Copied),
            (JobStatus::Concluded, error) => {
                self.forget(&job.id)?;
                let reason = error.unwrap_or_else(|| "it was broken off".to_owned());
                Ok(MergeReport::Failed { reason })
            }
            _ => Ok(MergeReport::Running { done: job.current, total: job.total }),
        }
    }

    fn finish(&mut self, run: Uuid) -> Result<MergeReport, Error> {
        let name = job_name(run);
        let Some(job) = self.job(&name)? else { return Ok(MergeReport::Absent) };
        if job.status == JobStatus::Pending {
            command::job_finalize(self.client, &name)?;
        }
        let ended = self.until_concluded(&name)?;
        reached(Step::MergeHeaderWritten);
        self.forget(&name)?;
        if let Some(reason) = ended.and_then(|job| job.error) {
            return Ok(MergeReport::Failed { reason });
        }
        Ok(MergeReport::Finished)
    }

    /// Dismisses a job that is over, and undoes what it has left. A process that dies in between has not answered, and
    /// is asked to stop the merge by whoever comes next: which undoes it too.
    fn forget(&mut self, job: &str) -> Result<(), Error> {
        // First: as long as it is listed it keeps its layers from being reopened.
        command::job_dismiss(self.client, job)?;
        reached(Step::MergeJobDismissed);
        self.clean_up()
    }

    fn clean_up(&mut self) -> Result<(), Error> {
        command::close_unused(self.client, self.top)?;
        self.seal_layers()
    }

    /// What is frozen must not stay locked for writing: clones and backups read it. Nor with the caches of a top.
    pub(super) fn seal_layers(&mut self) -> Result<(), Error> {
        let nodes = command::nodes(self.client)?;
        for info in &nodes {
            let format =
                [Format::Raw, Format::Qcow2].into_iter().find(|format| format.driver() == info.driver);
            let Some(format) = format.filter(|_| !info.read_only && info.node_name != self.top) else {
                continue;
            };
            let Some(path) = command::file_of(&nodes, &info.node_name) else { continue };
            let backing = match format {
                Format::Raw => None,
                Format::Qcow2 => Header::read(&path).context(ImageHeaderSnafu)?.backing_file,
            };
            let backing = backing.map(|name| self.node(&name)).transpose()?;
            command::seal(self.client, &info.node_name, &ImageRef { path, format }, backing.as_deref())?;
        }
        Ok(())
    }

    /// Ends every merge; nothing that any chain reads has changed.
    fn stop(&mut self) -> Result<MergeReport, Error> {
        for job in command::jobs(self.client)? {
            if !job.id.starts_with(PREFIX) {
                continue;
            }
            if job.status != JobStatus::Concluded {
                // It may conclude by itself at this very moment.
                let asked = command::job_cancel(self.client, &job.id);
                asked.or_else(|error| if error.refused() { Ok(()) } else { Err(error) })?;
            }
            self.until_concluded(&job.id)?;
            command::job_dismiss(self.client, &job.id)?;
        }
        self.clean_up()?;
        Ok(MergeReport::Absent)
    }

    fn job(&mut self, name: &str) -> Result<Option<JobInfo>, Error> {
        Ok(command::jobs(self.client)?.into_iter().find(|job| job.id == name))
    }

    fn until_concluded(&mut self, name: &str) -> Result<Option<JobInfo>, Error> {
        let deadline = Instant::now() + END;
        loop {
            match self.job(name)? {
                Some(job) if job.status != JobStatus::Concluded => {}
                ended => return Ok(ended),
            }
            let reason = format!("the block job {name} does not end");
            ensure!(Instant::now() < deadline, InvalidSnafu { reason });
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The node of a file that is named relative to the volume's folder.
    fn node(&mut self, name: &str) -> Result<String, Error> {
        let path = resolve(self.folder, name);
        let reason = format!("the storage daemon has no layer {} open", path.display());
        command::node_of(self.client, &path)?.context(InvalidSnafu { reason })
    }
}

/// A name as a header has it (`volume-…`, or `../<volume>/volume-…` for a layer of another volume) as the path that
/// the daemon was given.
fn resolve(folder: &Path, name: &str) -> PathBuf {
    let (mut folder, mut name) = (folder, name);
    while let (Some(rest), Some(parent)) = (name.strip_prefix("../"), folder.parent()) {
        (folder, name) = (parent, rest);
    }
    folder.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_another_volume_is_a_path_without_dots() {
        let folder = Path::new("/share/volumes/a");
        assert_eq!(resolve(folder, "volume-a"), Path::new("/share/volumes/a/volume-a"));
        assert_eq!(resolve(folder, "../b/volume-b.s"), Path::new("/share/volumes/b/volume-b.s"));
    }
}
