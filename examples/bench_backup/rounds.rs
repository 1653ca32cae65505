//! Full, unchanged, changed, restored: every tool on the same data, in turn, round by round.

use crate::cinder::Cinder;
use crate::client::{From, Strata};
use crate::floor::{self, Floor};
use crate::image;
use crate::peers::{Borg, Restic};
use crate::report::Report;
use crate::share::Share;
use crate::table::{Figures, Goal, Ratio, print};
use crate::tool::{Data, Made, Store, Tool};
use crate::world::{World, setting};
use anyhow::{Result, ensure};
use strata::volume::VolumeId;

const FULL: &[Goal] = &[
    Goal { what: "CPU to the best peer's", of: Ratio::Cpu, limit: 1.0, only: "" },
    Goal { what: "wall to the best peer's", of: Ratio::Wall, limit: 0.6, only: "" },
    Goal { what: "CPU to the floor's", of: Ratio::CpuToFloor, limit: 1.3, only: "" },
];
const UNCHANGED: &[Goal] =
    &[Goal { what: "CPU to the best peer's", of: Ratio::Cpu, limit: 0.1, only: "snapshot" }];
const CHANGED: &[Goal] = &[
    Goal { what: "CPU to the best peer's", of: Ratio::Cpu, limit: 0.125, only: "snapshot" },
    Goal {
        what: "data stored to the changed bytes compressed",
        of: Ratio::Data,
        limit: 1.2,
        only: "snapshot",
    },
];
const RESTORE: &[Goal] = &[
    Goal { what: "wall to the best peer's", of: Ratio::Wall, limit: 0.5, only: "" },
    Goal { what: "CPU to the best peer's", of: Ratio::Cpu, limit: 1.0, only: "" },
];

struct Rounds<'a> {
    world: &'a World,
    tools: Vec<Box<dyn Tool + 'a>>,
    data: Data,
    share: Share,
    volume: VolumeId,
}

pub fn run(world: &World, report: &mut Report, wants: &dyn Fn(&str) -> bool) -> Result<()> {
    report.progress("making the image and the volume");
    let folder = world.dir().join("image");
    std::fs::create_dir(&folder)?;
    let image = folder.join("disk.raw");
    image::make(&image, world.size)?;
    let share = Share::new(world, "share")?;
    let volume = share.import(world, &image)?;
    let data = Data { image, snapshot: share.snapshot(volume, "full")?, share: share.source.clone() };
    let cinder = Cinder::new(world)?;
    report.line(&format!("Cinder's start, in no other figure: {:.1} s of CPU", cinder.start))?;
    let mut tools: Vec<Box<dyn Tool>> = vec![
        Box::new(Strata::new(world, Store::Directory, From::Snapshot)),
        Box::new(Strata::new(world, Store::Directory, From::Image)),
        Box::new(Borg::new(world)),
        Box::new(Restic::new(world)),
        Box::new(Strata::new(world, Store::S3, From::Snapshot)),
        Box::new(cinder),
    ];
    let some: String = setting("TOOLS", String::new())?;
    tools.retain(|tool| some.split(',').any(|part| tool.name().contains(part.trim())));
    ensure!(!tools.is_empty(), "TOOLS={some:?} leaves no tool");
    let mut rounds = Rounds { world, tools, data, share, volume };
    rounds.full(report, wants("full"))?;
    if wants("unchanged") || wants("changed") {
        rounds.increments(report, wants)?;
    }
    if wants("restore") { rounds.restore(report) } else { Ok(()) }
}

impl Rounds<'_> {
    /// Does something with every tool, another one first in each round.
    fn each(
        &mut self,
        report: &Report,
        what: &str,
        round: usize,
        figures: &mut [Figures],
        work: &mut dyn FnMut(&mut dyn Tool, &Data) -> Result<Made>,
    ) -> Result<()> {
        let count = self.tools.len();
        for index in (0..count).map(|index| (index + round) % count) {
            let tool = self.tools[index].as_mut();
            let made = work(tool, &self.data)?;
            let (name, cost) = (tool.name(), made.cost);
            report.progress(&format!(
                "{what}, round {}: {name}: {:.2} s CPU, {:.2} s",
                round + 1,
                cost.cpu,
                cost.wall
            ));
            figures[index].made.push(made);
        }
        Ok(())
    }

    fn title(&self, what: &str, rounds: usize) -> String {
        format!("{what}: {} GiB, zstd 3, medians of {rounds} rounds in turn", self.world.size >> 30)
    }

    /// All later parts go on from the last round.
    fn full(&mut self, report: &mut Report, wanted: bool) -> Result<()> {
        let (mut figures, mut floors) = (Figures::of(&self.tools), Vec::new());
        let rounds = if wanted { self.world.rounds } else { 1 };
        for round in 0..rounds {
            self.each(report, "full", round, &mut figures, &mut |tool, data| {
                tool.reset()?;
                tool.backup(data)
            })?;
            floors.push(floor::full(self.world, &self.data.image)?);
        }
        let title = self.title("Full", rounds);
        if wanted { print(report, &title, &figures, &floors, FULL) } else { Ok(()) }
    }

    fn increments(&mut self, report: &mut Report, wants: &dyn Fn(&str) -> bool) -> Result<()> {
        let (mut unchanged, mut changed) = (Figures::of(&self.tools), Figures::of(&self.tools));
        let (mut floors, mut idle) = (Vec::<Floor>::new(), Vec::<Floor>::new());
        let rounds = self.world.rounds;
        for round in 0..rounds {
            if wants("unchanged") {
                self.data.snapshot = self.share.snapshot(self.volume, &format!("unchanged-{round}"))?;
                self.each(report, "unchanged", round, &mut unchanged, &mut |tool, data| tool.backup(data))?;
                idle.push(floor::changed(self.world, &self.data.image, &[])?);
            }
            if wants("changed") {
                let changes = image::changes(self.world.size, round as u64);
                image::apply(&self.data.image, &changes)?;
                self.share.write(self.world, self.volume, &changes)?;
                self.data.snapshot = self.share.snapshot(self.volume, &format!("changed-{round}"))?;
                self.each(report, "changed", round, &mut changed, &mut |tool, data| tool.backup(data))?;
                floors.push(floor::changed(self.world, &self.data.image, &changes)?);
            }
        }
        if wants("unchanged") {
            print(report, &self.title("Unchanged", rounds), &unchanged, &idle, UNCHANGED)?;
        }
        if wants("changed") {
            let title = self.title("1 % changed in 200 extents", rounds);
            print(report, &title, &changed, &floors, CHANGED)?;
        }
        Ok(())
    }

    /// Of the last backup, with the chain that the parts before have made.
    fn restore(&mut self, report: &mut Report) -> Result<()> {
        let mut figures = Figures::of(&self.tools);
        let into = self.world.dir().join("restored");
        for round in 0..self.world.rounds {
            self.each(report, "restore", round, &mut figures, &mut |tool, data| {
                std::fs::create_dir(&into)?;
                let (cost, file) = tool.restore(&into)?;
                ensure!(image::same(&file, &data.image)?, "{} restored other bytes", tool.name());
                std::fs::remove_dir_all(&into)?;
                Ok(Made { cost, ..Made::default() })
            })?;
        }
        let title = self.title("Restore to a new file, compared with what was backed up", self.world.rounds);
        print(report, &title, &figures, &[], RESTORE)
    }
}
