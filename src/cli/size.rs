//! Sizes as people write them.

/// Bytes, with K, M, G or T for powers of 1024.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return Err(format!("{text:?} is no size: write bytes, or a number with K, M, G or T")),
    };
    let number: u64 = digits.parse().map_err(|e| format!("{text:?} is no size: {e}"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too large"))
}

/// For tables: three digits are enough.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse("52428800"), Ok(52_428_800));
        assert_eq!(parse("32k"), Ok(32_768));
        assert_eq!(parse("50M"), Ok(50 << 20));
        for bad in ["", "K", "1KB", "-1", "1.5G", "99999999999T"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!((human(5), human(1536)), ("5 B".to_owned(), "1.5 KiB".to_owned()));
    }
}
