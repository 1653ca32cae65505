use super::*;
use jiff::{Span, ToSpan};
use proptest::prelude::*;
use rstest::rstest;

fn id(number: usize) -> Uuid {
    Uuid::from_u128(number as u128 + 1)
}

/// Full backups made at these times; the first has id 0.
fn fulls(times: &[&str]) -> Vec<Candidate> {
    let made = |(at, time): (usize, &&str)| Candidate {
        backup: id(at),
        basis: Basis::Full,
        created: Some(time.parse().unwrap()),
        good: true,
    };
    times.iter().enumerate().map(made).collect()
}

/// Numbers of those that stay.
fn kept(retention: &Retention, backups: &[Candidate], rebase: bool) -> Vec<usize> {
    let decisions = retention.decide(backups, rebase);
    (0..backups.len()).filter(|at| !decisions[*at].keep.is_empty()).collect()
}

const TIMES: [&str; 8] = [
    "2024-12-29 23:30:00+00:00", // Sunday: the last day of week 52
    "2024-12-30 10:00:00+00:00", // Monday: week 1 of 2025
    "2025-01-01 00:30:00+00:00", // Wednesday
    "2025-01-01 01:59:59+01:00", // the same hour, written elsewhere
    "2025-01-01 03:00:00+00:00",
    "2025-01-02 03:00:00.123456+00:00",
    "2025-01-06 03:00:00+00:00", // Monday: week 2
    "2025-02-03 03:00:00+00:00",
];

/// K11: the newest of each of the last so many periods, in UTC, whatever the clock of who wrote it.
#[rstest]
#[case::last(Retention { last: 3, ..Retention::default() }, &[5, 6, 7])]
#[case::hourly(Retention { hourly: 5, ..Retention::default() }, &[3, 4, 5, 6, 7])]
#[case::daily(Retention { daily: 4, ..Retention::default() }, &[4, 5, 6, 7])]
#[case::weekly(Retention { weekly: 4, ..Retention::default() }, &[0, 5, 6, 7])]
#[case::monthly(Retention { monthly: 3, ..Retention::default() }, &[1, 6, 7])]
#[case::yearly(Retention { yearly: 9, ..Retention::default() }, &[1, 7])]
#[case::within(Retention { within: Some(Span::new().days(32)), ..Retention::default() }, &[5, 6, 7])]
#[case::all_time(Retention { within: Some(19_000.years()), ..Retention::default() }, &[0, 1, 2, 3, 4, 5, 6, 7])]
#[case::together(Retention { last: 1, yearly: 2, weekly: 1, ..Retention::default() }, &[1, 7])]
#[case::nothing(Retention::default(), &[7])]
fn periods(#[case] retention: Retention, #[case] expected: &[usize]) {
    assert_eq!(kept(&retention, &fulls(&TIMES), false), expected);
}

/// The three ways in which one backup holds another.
#[test]
fn what_is_needed_stays() {
    let mut backups = fulls(&TIMES[..5]);
    for (at, backup) in backups.iter_mut().enumerate().skip(1) {
        backup.basis = Basis::On(id(at - 1));
    }
    let last = Retention { last: 1, ..Retention::default() };
    let decisions = last.decide(&backups, false);
    assert_eq!(decisions[0].keep, [Reason::NeededBy(id(4))]);
    assert_eq!(decisions[4].keep, [Reason::Last]);
    // Rebased at once to what stays, not step by step.
    let decisions = last.decide(&backups, true);
    assert_eq!((&decisions[4].rebase, decisions[3].keep.len()), (&Some(None), 0));
    assert_eq!(kept(&last, &backups, true), [4]);
    // A damaged one does not count, stays, and keeps what it needs.
    (backups[4].good, backups[3].good) = (false, false);
    let decisions = last.decide(&backups, true);
    assert_eq!(decisions[4].keep, [Reason::Damaged]);
    assert_eq!(
        (decisions[2].keep.as_slice(), decisions[1].keep.as_slice()),
        (&[Reason::Last][..], &[Reason::NeededBy(id(3))][..])
    );
    // Nobody knows what one needs that cannot be read.
    backups = fulls(&TIMES[..3]);
    (backups[2].good, backups[2].basis) = (false, Basis::Unknown);
    let decisions = last.decide(&backups, true);
    assert_eq!(
        (decisions[0].keep.as_slice(), decisions[1].keep.as_slice()),
        (&[Reason::MayBeNeededBy(id(2))][..], &[Reason::Last][..])
    );
}

/// Leaves first, the oldest of them first.
#[test]
fn the_order_of_removal() {
    let mut backups = fulls(&TIMES[..6]);
    (backups[1].basis, backups[2].basis) = (Basis::On(id(0)), Basis::On(id(1)));
    backups[4].basis = Basis::On(id(3));
    let decisions = Retention::default().decide(&backups, false);
    assert_eq!(removal_order(&backups, &decisions), [2, 1, 0, 4, 3].map(id));
}

prop_compose! {
    /// Any forest of backups over some months.
    fn history()(made in prop::collection::vec((0i64..5000, any::<prop::sample::Index>(), 0u8..4, prop::bool::weighted(0.9)), 1..25))
        -> Vec<Candidate> {
        let start: Timestamp = "2024-10-01T00:00:00Z".parse().unwrap();
        let mut backups: Vec<Candidate> = Vec::new();
        for (at, (hours, parent, kind, good)) in made.into_iter().enumerate() {
            let mut made = Candidate { backup: id(at), basis: Basis::Full, created: Some(start + hours.hours()), good };
            if kind > 0 && at > 0 {
                let parent = &backups[parent.index(at)];
                made.basis = Basis::On(parent.backup);
                made.good &= parent.good;
            }
            backups.push(made);
        }
        backups
    }
}

prop_compose! {
    fn policy()(n in prop::array::uniform6(0u32..5), within in prop::option::of(0i64..60)) -> Retention {
        let [last, hourly, daily, weekly, monthly, yearly] = n;
        Retention { last, hourly, daily, weekly, monthly, yearly, within: within.map(|days| days.days()) }
    }
}

proptest! {
    /// Whatever the policy: the newest good backup stays; nothing damaged is removed; what stays can be restored (all
    /// that it rests on stays, or it is moved onto an ancestor that stays).
    #[test]
    fn what_stays_is_whole(backups in history(), policy in policy(), rebase: bool) {
        let decisions = policy.decide(&backups, rebase);
        let stays = |at: usize| !decisions[at].keep.is_empty();
        let at = |backup: Uuid| backups.iter().position(|b| b.backup == backup).unwrap();
        let newest = (0..backups.len()).filter(|at| backups[*at].good).max_by_key(|at| (backups[*at].created, backups[*at].backup));
        prop_assert!(newest.is_none_or(stays));
        for (number, backup) in backups.iter().enumerate().filter(|(number, _)| stays(*number)) {
            match (backup.basis, decisions[number].rebase) {
                (Basis::On(parent), None) => prop_assert!(stays(at(parent))),
                (_, Some(onto)) => {
                    prop_assert!(rebase && backup.good);
                    prop_assert!(onto.is_none_or(|onto| stays(at(onto))));
                }
                _ => {}
            }
        }
        prop_assert!((0..backups.len()).all(|at| backups[at].good || stays(at)));
        prop_assert_eq!(removal_order(&backups, &decisions).len(), (0..backups.len()).filter(|at| !stays(*at)).count());
    }

    /// Planning again after it was done finds nothing more to do.
    #[test]
    fn once_is_enough(backups in history(), policy in policy(), rebase: bool) {
        let mut left = Vec::new();
        for (backup, decision) in backups.iter().zip(policy.decide(&backups, rebase)) {
            let basis = match decision.rebase {
                Some(None) => Basis::Full,
                Some(Some(onto)) => Basis::On(onto),
                None => backup.basis,
            };
            if !decision.keep.is_empty() {
                left.push(Candidate { basis, ..*backup });
            }
        }
        for decision in policy.decide(&left, rebase) {
            prop_assert!(!decision.keep.is_empty() && decision.rebase.is_none());
        }
    }

    /// A policy that keeps more keeps what the other one keeps.
    #[test]
    fn more_keeps_more(backups in history(), policy in policy(), more in policy(), rebase: bool) {
        let longer = |a: Option<Span>, b: Option<Span>| a.map(|a| a.get_days().max(b.map_or(0, |b| b.get_days())).days()).or(b);
        let both = Retention {
            last: policy.last.max(more.last),
            hourly: policy.hourly.max(more.hourly),
            daily: policy.daily.max(more.daily),
            weekly: policy.weekly.max(more.weekly),
            monthly: policy.monthly.max(more.monthly),
            yearly: policy.yearly.max(more.yearly),
            within: longer(policy.within, more.within),
        };
        let wider = kept(&both, &backups, rebase);
        for number in kept(&policy, &backups, rebase) {
            prop_assert!(wider.contains(&number));
        }
    }
}
