//! Dates in templates: `strftime` in the C locale, in UTC.

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

struct Time {
    year: u64,
    /// From 0.
    month: usize,
    /// From 1.
    day: u64,
    /// From 1.
    day_of_year: u64,
    /// From 0, Sunday.
    weekday: usize,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Time {
    fn of(seconds: u64) -> Time {
        let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
        let (mut year, mut day) = (1970, days);
        // Whole cycles of 400 years first, so that no time takes long.
        year += 400 * (day / 146_097);
        day %= 146_097;
        while day >= year_length(year) {
            day -= year_length(year);
            year += 1;
        }
        let (mut month, mut day_of_month) = (0, day);
        while day_of_month >= month_length(year, month) {
            day_of_month -= month_length(year, month);
            month += 1;
        }
        Time {
            year,
            month,
            day: day_of_month + 1,
            day_of_year: day + 1,
            weekday: ((days + 4) % 7) as usize, // 1970 began on a Thursday.
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
        }
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn year_length(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn month_length(year: u64, month: usize) -> u64 {
    match month {
        1 if is_leap(year) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

/// Formats a time, in seconds since 1970. `-` after `%` drops leading zeros. The error names an unknown directive.
pub(super) fn strftime(format: &str, seconds: u64) -> Result<String, String> {
    let time = Time::of(seconds);
    let mut output = String::with_capacity(format.len() * 2);
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            output.push(character);
            continue;
        }
        let directive = characters.next();
        match directive {
            Some('-') => {
                let text = directive_text(characters.next(), &time)?;
                let trimmed = text.trim_start_matches(['0', ' ']);
                output.push_str(if trimmed.is_empty() { "0" } else { trimmed });
            }
            directive => output.push_str(&directive_text(directive, &time)?),
        }
    }
    Ok(output)
}

fn directive_text(directive: Option<char>, time: &Time) -> Result<String, String> {
    let hour_of_12 = (time.hour + 11) % 12 + 1;
    let (day_name, month_name) = (DAYS[time.weekday], MONTHS[time.month]);
    Ok(match directive {
        Some('Y') => time.year.to_string(),
        Some('y') => format!("{:02}", time.year % 100),
        Some('m') => format!("{:02}", time.month + 1),
        Some('B') => month_name.into(),
        Some('b' | 'h') => month_name[..3].into(),
        Some('d') => format!("{:02}", time.day),
        Some('e') => format!("{:2}", time.day),
        Some('j') => format!("{:03}", time.day_of_year),
        Some('A') => day_name.into(),
        Some('a') => day_name[..3].into(),
        Some('w') => time.weekday.to_string(),
        Some('u') => ((time.weekday + 6) % 7 + 1).to_string(),
        Some('H') => format!("{:02}", time.hour),
        Some('I') => format!("{hour_of_12:02}"),
        Some('M') => format!("{:02}", time.minute),
        Some('S') => format!("{:02}", time.second),
        Some('p') => if time.hour < 12 { "AM" } else { "PM" }.into(),
        Some('F') => format!("{}-{:02}-{:02}", time.year, time.month + 1, time.day),
        Some('T') => format!("{:02}:{:02}:{:02}", time.hour, time.minute, time.second),
        Some('R') => format!("{:02}:{:02}", time.hour, time.minute),
        Some('D') => format!("{:02}/{:02}/{:02}", time.month + 1, time.day, time.year % 100),
        // Python's `datetime.now()` knows no zone.
        Some('Z' | 'z') => String::new(),
        Some('%') => "%".into(),
        Some(other) => return Err(format!("strftime_now: %{other} is not supported")),
        None => return Err("strftime_now: the format ends with %".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::strftime;

    /// The expected texts are those of Python's `datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)`.
    #[test]
    fn as_python() {
        let all = "%Y %y %m %B %b %d %e %j %A %a %w %u %H %I %M %S %p %F %T %R %D [%Z%z] %% %-d %-m %-H";
        let cases = [
            (
                0,
                "1970 70 01 January Jan 01  1 001 Thursday Thu 4 4 00 12 00 00 AM 1970-01-01 00:00:00 00:00 01/01/70 [] % 1 1 0",
            ),
            (
                951_782_399,
                "2000 00 02 February Feb 28 28 059 Monday Mon 1 1 23 11 59 59 PM 2000-02-28 23:59:59 23:59 02/28/00 [] % 28 2 23",
            ),
            (
                951_782_400,
                "2000 00 02 February Feb 29 29 060 Tuesday Tue 2 2 00 12 00 00 AM 2000-02-29 00:00:00 00:00 02/29/00 [] % 29 2 0",
            ),
            (
                1_798_761_599,
                "2026 26 12 December Dec 31 31 365 Thursday Thu 4 4 23 11 59 59 PM 2026-12-31 23:59:59 23:59 12/31/26 [] % 31 12 23",
            ),
            (
                4_107_542_400,
                "2100 00 03 March Mar 01  1 060 Monday Mon 1 1 00 12 00 00 AM 2100-03-01 00:00:00 00:00 03/01/00 [] % 1 3 0",
            ),
        ];
        for (seconds, expected) in cases {
            assert_eq!(strftime(all, seconds).unwrap(), expected);
        }
    }

    #[test]
    fn unknown_directives_and_far_times() {
        assert!(strftime("%Q", 0).unwrap_err().contains("%Q"));
        assert!(strftime("100%", 0).is_err());
        assert!(strftime("%Y", u64::MAX).unwrap().len() > 4);
    }
}
