//! Spans of time as people write them, and ages as they read them.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// A span such as `36h`, `7d`, `2w`, `6mo` or `1y`.
pub fn parse(text: &str) -> Result<Span, String> {
    let hint = "write a number and a unit: 36h, 7d, 2w, 6mo, 1y";
    let span: Span = text.parse().map_err(|e| format!("{text:?} is no span of time ({e}): {hint}"))?;
    if span.is_negative() { Err(format!("{text:?} lies in the future: {hint}")) } else { Ok(span) }
}

/// That long before now.
pub fn before_now(span: Span) -> Result<Timestamp, String> {
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    let then = now.checked_sub(span).map_err(|e| format!("{span:#} ago is no time: {e}"))?;
    Ok(then.timestamp())
}

/// How long ago, in its largest unit.
pub fn human(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    let units = [(86_400 * 365, "y"), (86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let (size, unit) = units.into_iter().find(|(size, _)| seconds >= *size).unwrap_or((1, "s"));
    format!("{}{unit}", seconds / size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan;

    #[test]
    fn spans() {
        assert_eq!(parse("36h").unwrap().fieldwise(), 36.hours());
        assert_eq!(parse("1y6mo").unwrap().fieldwise(), 1.year().months(6));
        for bad in ["", "7", "week", "-3d", "7 fortnights"] {
            assert!(parse(bad).unwrap_err().contains("7d, 2w"), "{bad}");
        }
        assert!(before_now(parse("99999y").unwrap_or(19_000.years())).is_err());
    }

    #[test]
    fn ages() {
        let now: Timestamp = "2026-11-22T00:00:00Z".parse().unwrap();
        for (then, expected) in [
            ("2026-11-21T23:59:59Z", "1s"),
            ("2026-11-21T22:30:00Z", "1h"),
            ("2026-10-22T00:00:00Z", "31d"),
            ("2024-01-01T00:00:00Z", "2y"),
            ("2027-01-01T00:00:00Z", "0s"),
        ] {
            assert_eq!(human(then.parse().unwrap(), now), expected);
        }
    }
}
