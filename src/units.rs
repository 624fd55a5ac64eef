//! Bytes, counts and times as people read them.

/// `1.234 MB`: decimal units, three digits behind the point as memray has them.
pub fn bytes(bytes: u64) -> String {
    let mut number = bytes as f64;
    for unit in ["B", "kB", "MB", "GB", "TB", "PB", "EB"] {
        if number < 1000.0 {
            return format!("{number:.3}{unit}");
        }
        number /= 1000.0;
    }
    format!("{number:.3}ZB")
}

/// `12.34%` of a whole; nothing of nothing is 0 %.
pub fn share(part: u64, whole: u64) -> String {
    let percent = if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 };
    format!("{percent:.2}%")
}

/// `1,234,567`
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `2023-11-14 22:13:20.123`, UTC, from nanoseconds since 1970.
pub fn date(unix_nanos: u64) -> String {
    let millis = unix_nanos / 1_000_000;
    let (days, in_day) = (millis / 86_400_000, millis % 86_400_000);
    let (year, month, day) = civil(days);
    let (hours, minutes) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (seconds, millis) = (in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}.{millis:03}")
}

/// `2023-11-14 22:13:20.123000+00:00`, as Python writes a time in UTC; without the fraction when it is 0.
pub fn iso_date(unix_nanos: u64) -> String {
    let text = date(unix_nanos);
    match text.strip_suffix(".000") {
        Some(whole) => format!("{whole}+00:00"),
        None => format!("{text}000+00:00"),
    }
}

/// Year, month and day, from days since 1970.
///
/// The calendar repeats every 400 years, 146 097 days; counted from a 1 March, the leap day is the last of a year, and
/// months follow a pattern of 153 days in five.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_with_a_fitting_unit() {
        let check = |number, expected: &str| assert_eq!(bytes(number), expected);
        check(0, "0.000B");
        check(999, "999.000B");
        check(1_000, "1.000kB");
        check(1_234_567, "1.235MB");
        check(u64::MAX, "18.447EB");
        assert_eq!([count(7), count(1_000), count(1_234_567)], ["7", "1,000", "1,234,567"]);
        assert_eq!([share(1, 3), share(0, 0), share(5, 5)], ["33.33%", "0.00%", "100.00%"]);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let check = |seconds: u64, expected: &str| assert_eq!(date(seconds * 1_000_000_000), expected);
        check(0, "1970-01-01 00:00:00.000");
        check(951_782_400, "2000-02-29 00:00:00.000");
        check(951_868_799, "2000-02-29 23:59:59.000");
        check(1_700_000_000, "2023-11-14 22:13:20.000");
        check(4_107_542_400, "2100-03-01 00:00:00.000");
        assert_eq!(date(1_123_000_000), "1970-01-01 00:00:01.123");
        assert_eq!(iso_date(1_123_000_000), "1970-01-01 00:00:01.123000+00:00");
        assert_eq!(iso_date(1_000_000_000), "1970-01-01 00:00:01+00:00");
    }
}
