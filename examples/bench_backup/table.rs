//! One table for each part, with the best peer and the floor beside each figure.

use crate::floor::Floor;
use crate::report::{Report, median};
use crate::tool::{Made, Store, Tool};
use anyhow::Result;

/// What every tool did in one part, round by round.
pub struct Figures {
    pub name: String,
    pub store: Store,
    pub is_peer: bool,
    pub made: Vec<Made>,
}

/// At most `limit` times what it is compared with.
pub struct Goal {
    pub what: &'static str,
    pub of: Ratio,
    pub limit: f64,
    /// Only of tools whose names have this in them.
    pub only: &'static str,
}

/// What is compared with what.
#[derive(Clone, Copy)]
pub enum Ratio {
    Cpu,
    Wall,
    CpuToFloor,
    /// The volume's data in the store, to what the floor's compression makes of it.
    Data,
}

impl Figures {
    pub fn of(tools: &[Box<dyn Tool + '_>]) -> Vec<Figures> {
        let none = |tool: &(dyn Tool + '_)| Figures {
            name: tool.name().to_owned(),
            store: tool.store(),
            is_peer: tool.is_peer(),
            made: Vec::new(),
        };
        tools.iter().map(|tool| none(tool.as_ref())).collect()
    }

    fn median(&self, figure: impl Fn(&Made) -> f64) -> f64 {
        median(&self.made.iter().map(figure).collect::<Vec<_>>())
    }
}

fn cpu(made: &Made) -> f64 {
    made.cost.cpu
}

fn wall(made: &Made) -> f64 {
    made.cost.wall
}

/// The best peer on the same kind of store, and its figure.
fn best(all: &[Figures], store: Store, figure: fn(&Made) -> f64) -> Option<(&str, f64)> {
    let peers = all.iter().filter(|one| one.is_peer && one.store == store);
    let figures = peers.map(|one| (one.name.as_str(), one.median(figure)));
    figures.min_by(|a, b| a.1.total_cmp(&b.1))
}

fn ratio(all: &[Figures], one: &Figures, floors: &[Floor], of: Ratio) -> Option<f64> {
    let floor = |figure: fn(&Floor) -> f64| match floors {
        [] => None,
        floors => Some(median(&floors.iter().map(figure).collect::<Vec<_>>())),
    };
    Some(match of {
        Ratio::Cpu => one.median(cpu) / best(all, one.store, cpu)?.1,
        Ratio::Wall => one.median(wall) / best(all, one.store, wall)?.1,
        Ratio::CpuToFloor => one.median(cpu) / floor(|floor| floor.cost.cpu)?,
        Ratio::Data => {
            one.median(|made| (made.stored - made.about) as f64) / floor(|floor| floor.compressed as f64)?
        }
    })
}

/// Prints a part.
pub fn print(
    report: &mut Report,
    title: &str,
    all: &[Figures],
    floors: &[Floor],
    goals: &[Goal],
) -> Result<()> {
    let heads = [
        "tool",
        "CPU s",
        "wall s",
        "peak MiB",
        "stored MB",
        "of that digests and manifest",
        "read MB",
        "CPU to best peer",
        "wall to best peer",
        "CPU to floor",
    ];
    let told = |ratio: Option<f64>| ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
    let mut rows = Vec::new();
    for one in all {
        // A restore stores nothing.
        let stores = one.made.iter().any(|made| made.stored > 0);
        let mega = |figure: fn(&Made) -> f64| match stores {
            true => format!("{:.1}", one.median(figure) / 1e6),
            false => "–".to_owned(),
        };
        let to = |of| if one.is_peer { "–".to_owned() } else { told(ratio(all, one, floors, of)) };
        let reads = one.made.iter().all(|made| made.read.is_some());
        rows.push(vec![
            one.name.clone(),
            format!("{:.2}", one.median(cpu)),
            format!("{:.2}", one.median(wall)),
            format!("{:.0}", one.median(|made| made.cost.memory as f64) / f64::from(1 << 20)),
            mega(|made| made.stored as f64),
            mega(|made| made.about as f64),
            if reads { mega(|made| made.read.unwrap_or(0) as f64) } else { "–".to_owned() },
            to(Ratio::Cpu),
            to(Ratio::Wall),
            told(ratio(all, one, floors, Ratio::CpuToFloor)),
        ]);
    }
    if !floors.is_empty() {
        let of = |figure: fn(&Floor) -> f64| median(&floors.iter().map(figure).collect::<Vec<_>>());
        let mut row = vec!["floor, one thread".to_owned()];
        row.extend([of(|floor| floor.cost.cpu), of(|floor| floor.cost.wall)].map(|s| format!("{s:.2}")));
        row.extend([
            "–".to_owned(),
            format!("{:.1}", of(|floor| floor.compressed as f64) / 1e6),
            "–".to_owned(),
        ]);
        row.push(format!("{:.1}", of(|floor| floor.bytes as f64) / 1e6));
        row.extend(["–", "–", "1"].map(str::to_owned));
        rows.push(row);
    }
    report.table(title, &heads, &rows)?;
    for goal in goals {
        for one in all.iter().filter(|one| !one.is_peer && one.name.contains(goal.only)) {
            let Some(found) = ratio(all, one, floors, goal.of) else { continue };
            let met = if found <= goal.limit { "met" } else { "not met" };
            let Goal { what, limit, .. } = goal;
            report.line(&format!("- {}: {what}: {found:.3}, goal {limit}: {met}", one.name))?;
        }
    }
    Ok(())
}
