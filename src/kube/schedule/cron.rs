//! When a schedule is due.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A schedule in a time zone.
pub(in crate::kube) struct Times {
    cron: Cron,
    zone: TimeZone,
}

impl Times {
    /// The error is for people.
    pub fn parse(schedule: &str, zone: Option<&str>) -> Result<Times, String> {
        let zone = match zone.filter(|zone| !zone.is_empty()) {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name)
                .map_err(|_| format!("there is no time zone {name:?}: write one such as Europe/Berlin"))?,
        };
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let wrong = |error: &dyn std::fmt::Display| {
            format!(
                "{schedule:?} is no schedule ({error}): write minute, hour, day of the month, month and day of the week, \
                 such as \"0 3 * * *\", or @daily"
            )
        };
        let cron = parser.parse(schedule).map_err(|error| wrong(&error))?;
        let times = Times { cron, zone };
        match times.next(Timestamp::now()) {
            Some(_) => Ok(times),
            None => Err(wrong(&"it never comes")),
        }
    }

    /// The latest time that has come since `after`, if any has. Those before it were missed, and are not made up for.
    pub fn due(&self, after: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let now = now.to_zoned(self.zone.clone());
        let last = self.cron.find_previous_occurrence(&now, true).ok()?.timestamp();
        (last > after).then_some(last)
    }

    /// The next time after `now`.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let now = now.to_zoned(self.zone.clone());
        self.cron.find_next_occurrence(&now, false).ok().map(|next| next.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_latest_time_counts_once() {
        let daily = Times::parse("30 2 * * *", None).unwrap();
        let made = at("2026-03-01T12:00:00Z");
        assert_eq!(daily.due(made, at("2026-03-02T02:29:59Z")), None);
        assert_eq!(daily.due(made, at("2026-03-02T02:30:00Z")), Some(at("2026-03-02T02:30:00Z")));
        assert_eq!(daily.due(made, at("2026-03-05T01:00:00Z")), Some(at("2026-03-04T02:30:00Z")));
        assert_eq!(daily.due(at("2026-03-04T02:30:00Z"), at("2026-03-05T01:00:00Z")), None);
        assert_eq!(daily.next(at("2026-03-04T02:30:00Z")), Some(at("2026-03-05T02:30:00Z")));
    }

    #[test]
    fn times_are_those_of_the_zone_summer_or_winter() {
        let daily = Times::parse("0 4 * * *", Some("Europe/Berlin")).unwrap();
        assert_eq!(daily.next(at("2026-01-10T00:00:00Z")), Some(at("2026-01-10T03:00:00Z")));
        assert_eq!(daily.next(at("2026-07-10T00:00:00Z")), Some(at("2026-07-10T02:00:00Z")));
    }

    #[test]
    fn what_is_no_schedule_says_so() {
        for wrong in ["", "61 * * * *", "* * * *", "0 0 31 2 *", "* * * * * *"] {
            let error = Times::parse(wrong, None).err().unwrap_or_else(|| panic!("{wrong:?}"));
            assert!(error.contains("@daily"), "{error}");
        }
        let error = Times::parse("@daily", Some("Mars/Olympus")).err().unwrap();
        assert!(error.contains("Europe/Berlin"), "{error}");
        assert!(Times::parse("@weekly", Some("UTC")).is_ok());
    }
}
