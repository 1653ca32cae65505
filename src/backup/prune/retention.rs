//! Which backups of one volume are kept. Pure: the command and any schedule decide by the same function.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fmt;
use uuid::Uuid;

/// How many backups are kept, by age. Hours, days and so on are those of UTC; weeks begin on Monday. Each rule
/// keeps the newest backup of each of its last so many periods that have one, and a backup stays if any rule keeps it.
/// Only what can be restored counts, so a failed or damaged backup never pushes a good one out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// The newest so many.
    pub last: u32,
    /// Of so many hours.
    pub hourly: u32,
    /// Of so many days.
    pub daily: u32,
    /// Of so many weeks.
    pub weekly: u32,
    /// Of so many months.
    pub monthly: u32,
    /// Of so many years.
    pub yearly: u32,
    /// All that are no older than this before the newest good one: no clock can push them out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

/// On what a backup is made, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// It is a full one.
    Full,
    /// On this one.
    On(Uuid),
    /// Its manifest cannot be read: it may need any other.
    Unknown,
}

/// One complete backup of the volume.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Which.
    pub backup: Uuid,
    /// On what it is made.
    pub basis: Basis,
    /// When it was made; `None` if that cannot be told.
    pub created: Option<Timestamp>,
    /// Whether it can be restored, as far as is known.
    pub good: bool,
}

/// Why a backup stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// One of the last ones.
    Last,
    /// An hour's.
    Hourly,
    /// A day's.
    Daily,
    /// A week's.
    Weekly,
    /// A month's.
    Monthly,
    /// A year's.
    Yearly,
    /// Young enough.
    Within,
    /// No rule keeps it, but it is the newest good one.
    Newest,
    /// This one, which stays, is made on it.
    NeededBy(Uuid),
    /// This one cannot be read, and may be made on it.
    MayBeNeededBy(Uuid),
    /// It is damaged: nothing is decided about it.
    Damaged,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Last => "last",
            Reason::Hourly => "hourly",
            Reason::Daily => "daily",
            Reason::Weekly => "weekly",
            Reason::Monthly => "monthly",
            Reason::Yearly => "yearly",
            Reason::Within => "within",
            Reason::Newest => "newest",
            Reason::NeededBy(id) => return write!(f, "needed by {id}"),
            Reason::MayBeNeededBy(id) => return write!(f, "may be needed by {id}, which cannot be read"),
            Reason::Damaged => "damaged",
        })
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What becomes of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which.
    pub backup: Uuid,
    /// Why it stays; empty: it goes.
    pub keep: Vec<Reason>,
    /// It stays and what it is made on goes: what it is to be made on instead; `Some(None)`: it becomes a full one.
    pub rebase: Option<Option<Uuid>>,
}

impl Retention {
    /// Whether nothing but the newest would stay.
    pub fn is_empty(&self) -> bool {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        counts.iter().all(|count| *count == 0) && self.within.is_none()
    }

    /// Decides about all backups of one volume, in the order given. What a kept one is made on stays too, unless
    /// `rebase` allows to make the kept one independent of it.
    pub fn decide(&self, backups: &[Candidate], rebase: bool) -> Vec<Decision> {
        let mut keep = self.by_rules(backups);
        keep_ancestors(backups, &mut keep, rebase);
        let kept: HashSet<Uuid> =
            backups.iter().zip(&keep).filter(|(_, why)| !why.is_empty()).map(|(b, _)| b.backup).collect();
        let decide = |(backup, keep): (&Candidate, Vec<Reason>)| {
            let mut above = ancestors(backups, backup);
            let moved = match above.first() {
                Some(parent) => !keep.is_empty() && !kept.contains(&parent.backup),
                None => false,
            };
            let rebase =
                moved.then(|| above.drain(..).map(|b| b.backup).find(|backup| kept.contains(backup)));
            Decision { backup: backup.backup, keep, rebase }
        };
        backups.iter().zip(keep).map(decide).collect()
    }

    fn by_rules(&self, backups: &[Candidate]) -> Vec<Vec<Reason>> {
        let mut keep = vec![Vec::new(); backups.len()];
        let mut good: Vec<(Timestamp, Uuid, usize)> = Vec::new();
        for (at, backup) in backups.iter().enumerate() {
            match backup.created.filter(|_| backup.good) {
                Some(created) => good.push((created, backup.backup, at)),
                None => keep[at].push(Reason::Damaged),
            }
        }
        good.sort_by(|a, b| b.cmp(a));
        let times: Vec<(usize, Zoned)> =
            good.iter().map(|(created, _, at)| (*at, created.to_zoned(TimeZone::UTC))).collect();
        for (at, _) in times.iter().take(self.last as usize) {
            keep[*at].push(Reason::Last);
        }
        type Period = fn(&Zoned) -> (i16, i16, i8);
        let rules: [(u32, Reason, Period); 5] = [
            (self.hourly, Reason::Hourly, |t| (t.year(), t.day_of_year(), t.hour())),
            (self.daily, Reason::Daily, |t| (t.year(), t.day_of_year(), 0)),
            (self.weekly, Reason::Weekly, |t| {
                let week = t.date().iso_week_date();
                (week.year(), i16::from(week.week()), 0)
            }),
            (self.monthly, Reason::Monthly, |t| (t.year(), i16::from(t.month()), 0)),
            (self.yearly, Reason::Yearly, |t| (t.year(), 0, 0)),
        ];
        for (count, reason, period) in rules {
            let mut seen = None;
            let newest = times.iter().filter(|(_, time)| seen.replace(period(time)) != Some(period(time)));
            for (at, _) in newest.take(count as usize) {
                keep[*at].push(reason);
            }
        }
        if let Some((newest, time)) = times.first() {
            // A span that leads out of the calendar keeps all.
            let since = self.within.map(|span| time.checked_sub(span).ok());
            for (at, time) in times.iter().filter(|_| since.is_some()) {
                if since.as_ref().is_some_and(|since| since.as_ref().is_none_or(|since| time >= since)) {
                    keep[*at].push(Reason::Within);
                }
            }
            if keep[*newest].is_empty() {
                keep[*newest].push(Reason::Newest);
            }
        }
        keep
    }
}

/// What a backup rests on, the nearest first, as far as it is there.
fn ancestors<'a>(backups: &'a [Candidate], of: &Candidate) -> Vec<&'a Candidate> {
    let mut found: Vec<&Candidate> = Vec::new();
    let mut next = of.basis;
    while let Basis::On(parent) = next {
        let known = found.iter().any(|b| b.backup == parent) || parent == of.backup;
        let Some(backup) = backups.iter().find(|b| b.backup == parent && !known) else { break };
        found.push(backup);
        next = backup.basis;
    }
    found
}

fn keep_ancestors(backups: &[Candidate], keep: &mut [Vec<Reason>], rebase: bool) {
    let index: HashMap<Uuid, usize> = backups.iter().enumerate().map(|(at, b)| (b.backup, at)).collect();
    let roots: Vec<usize> = (0..backups.len()).filter(|at| !keep[*at].is_empty()).collect();
    for root in roots {
        let root = &backups[root];
        // One that cannot be restored cannot be copied either.
        if rebase && root.good {
            continue;
        }
        for ancestor in ancestors(backups, root) {
            let why = &mut keep[index[&ancestor.backup]];
            if why.is_empty() {
                why.push(Reason::NeededBy(root.backup));
            }
        }
    }
    let unread = backups.iter().find(|backup| backup.basis == Basis::Unknown);
    for why in keep.iter_mut().filter(|why| why.is_empty()) {
        why.extend(unread.map(|backup| Reason::MayBeNeededBy(backup.backup)));
    }
}
