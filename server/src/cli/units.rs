//! Sizes, counts and durations: as people type them, and as they read them.

use std::{ops::RangeInclusive, time::Duration};

/// What follows the number of a size, and its bytes. As in the tools around us, a bare letter is binary.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
];

/// Reads `2GiB`, `512MB`, `1.5g` or a number of bytes.
///
/// # Errors
/// A sentence for the command line when it is none of these, zero, or more than memory can have.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let wrong = || format!("`{text}` is not a size; write 2GiB, 512MB or a number of bytes");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let &(_, scale) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let bytes = match number.parse::<u64>() {
        Ok(number) => number.checked_mul(scale),
        // Of fractions, f64 keeps more digits than anyone types.
        Err(_) if number.contains('.') => {
            number.parse().ok().map(|number: f64| (number * scale as f64) as u64)
        }
        Err(_) => None,
    };
    let bytes =
        bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|&bytes| bytes <= isize::MAX as usize);
    bytes.filter(|&bytes| bytes > 0).ok_or_else(wrong)
}

/// Reads a whole number of at least 1.
///
/// # Errors
/// A sentence for the command line.
pub fn parse_count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|&count| count > 0);
    count.ok_or_else(|| format!("`{text}` is not a whole number of at least 1"))
}

/// Reads a number of a range.
///
/// # Errors
/// A sentence for the command line.
pub fn parse_number(text: &str, range: RangeInclusive<f32>) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("`{text}` is not a number from {} to {}", range.start(), range.end()))
}

/// Reads seconds, whole or not, as `30` or `0.5`.
///
/// # Errors
/// A sentence for the command line.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| format!("`{text}` is not a number of seconds"))
}

/// `1.50 GiB`, `512.00 MiB`, `12 B`.
pub fn bytes(bytes: u64) -> String {
    let scaled = |shift: u32| bytes as f64 / (1u64 << shift) as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{:.1} KiB", scaled(10)),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", scaled(20)),
        _ => format!("{:.2} GiB", scaled(30)),
    }
}

/// `3.4 ms`, `120 ms`, `1.25 s`.
pub fn duration(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1e3;
    match milliseconds {
        ..10.0 => format!("{milliseconds:.1} ms"),
        ..1000.0 => format!("{milliseconds:.0} ms"),
        _ => format!("{:.2} s", milliseconds / 1e3),
    }
}

/// `1 token`, `2 tokens`.
pub fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// `5 tensors: a, b, c, ...`: how many, and the first of them.
pub fn some_of(names: &[String], what: &str) -> String {
    const SHOWN: usize = 3;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}: {shown}{more}", count(names.len(), what))
}

/// `3.9 M`, `1.24 B`: a number of parameters.
pub fn parameters(number: u64) -> String {
    let number = number as f64;
    match number {
        ..1e9 => format!("{:.1} M", number / 1e6),
        _ => format!("{:.2} B", number / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("4096", 4096),
            ("1b", 1),
            ("2GiB", 2 << 30),
            ("2g", 2 << 30),
            ("512MB", 512_000_000),
            ("512 MiB", 512 << 20),
            ("1.5KiB", 1536),
            ("0.5gb", 500_000_000),
            ("1tib", 1 << 40),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "GiB",
            "-1",
            "0",
            "0.1b",
            "1.2.3g",
            "2 giga",
            "1e9",
            "NaN",
            "inf",
            "∞",
            "99999999999999999999",
        ] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert!(parse_bytes("16777216TiB").is_err(), "2^64 bytes");
        assert!(parse_bytes("9000000.5TiB").is_err(), "over 2^63 bytes");
    }

    #[test]
    fn counts_begin_at_one() {
        assert_eq!(parse_count("16"), Ok(16));
        for text in ["0", "-1", "1.5", "many", ""] {
            assert!(parse_count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_stay_in_range() {
        assert_eq!(parse_number("0.5", 0.0..=1.0), Ok(0.5));
        for text in ["1.1", "-0.1", "NaN", "inf", "half"] {
            assert!(parse_number(text, 0.0..=1.0).is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_may_be_fractions() {
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["-1", "NaN", "inf", "1s", ""] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(7 << 20), "7.0 MiB");
        assert_eq!(bytes(3 << 29), "1.50 GiB");
        assert_eq!(duration(Duration::from_micros(3400)), "3.4 ms");
        assert_eq!(duration(Duration::from_millis(120)), "120 ms");
        assert_eq!(duration(Duration::from_millis(1250)), "1.25 s");
        assert_eq!(count(1, "token"), "1 token");
        assert_eq!(count(0, "token"), "0 tokens");
        assert_eq!(some_of(&["a".into()], "tensor"), "1 tensor: a");
        assert_eq!(some_of(&["a", "b", "c", "d"].map(String::from), "tensor"), "4 tensors: a, b, c, ...");
        assert_eq!(parameters(3_900_000), "3.9 M");
        assert_eq!(parameters(1_235_814_400), "1.24 B");
    }
}
