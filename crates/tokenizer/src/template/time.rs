//! The date that a template prints. The caller says what time it is: nothing
//! here reads a clock.

use std::fmt::Write;

/// A date and time of day, in whatever zone the caller wants shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateTime {
    /// Of the Gregorian calendar.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

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
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl DateTime {
    /// From seconds since 1970-01-01 00:00 UTC, shown `offset` seconds east
    /// of UTC.
    pub fn from_unix(seconds: i64, offset: i64) -> Self {
        let seconds = seconds.saturating_add(offset);
        let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let part = |x: i64| u8::try_from(x).expect("a part of a day fits a byte");
        Self {
            year,
            month,
            day,
            hour: part(rest / 3600),
            minute: part(rest / 60 % 60),
            second: part(rest % 60),
        }
    }

    /// Days since 1970-01-01.
    fn days(&self) -> i64 {
        // Years begin in March here, so that the leap day is the last.
        let year = self.year - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let month = (i64::from(self.month) + 9) % 12;
        let day_of_year = (153 * month + 2) / 5 + i64::from(self.day) - 1;
        let year_of_era = year.rem_euclid(400);
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * 146_097 + day_of_era - 719_468
    }

    fn weekday(&self) -> usize {
        // 1970-01-01 was a Thursday.
        usize::try_from((self.days() + 4).rem_euclid(7)).expect("0 to 6")
    }

    fn day_of_year(&self) -> i64 {
        self.days() - Self { month: 1, day: 1, ..*self }.days() + 1
    }

    /// Formats as C's `strftime` does in the C locale; `-` after `%` drops
    /// leading zeros. An unknown directive stands for itself.
    pub fn strftime(&self, format: &str) -> String {
        let mut out = String::with_capacity(format.len());
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('-') => match chars.next() {
                    Some(d) => {
                        let text = self.directive(d).unwrap_or_else(|| format!("%-{d}"));
                        let short = text.trim_start_matches(['0', ' ']);
                        out.push_str(if short.is_empty() { "0" } else { short });
                    }
                    None => out.push_str("%-"),
                },
                Some(d) => match self.directive(d) {
                    Some(text) => out.push_str(&text),
                    None => write!(out, "%{d}").expect("a string takes any text"),
                },
                None => out.push('%'),
            }
        }
        out
    }

    fn directive(&self, d: char) -> Option<String> {
        let month = MONTHS.get(usize::from(self.month).wrapping_sub(1))?;
        let weekday = WEEKDAYS[self.weekday()];
        let hour12 = (self.hour + 11) % 12 + 1;
        Some(match d {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year.rem_euclid(100)),
            'm' => format!("{:02}", self.month),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'B' => (*month).to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'w' => self.weekday().to_string(),
            'j' => format!("{:03}", self.day_of_year()),
            'H' => format!("{:02}", self.hour),
            'I' => format!("{hour12:02}"),
            'M' => format!("{:02}", self.minute),
            'S' => format!("{:02}", self.second),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'F' => self.strftime("%Y-%m-%d"),
            'T' => self.strftime("%H:%M:%S"),
            'R' => self.strftime("%H:%M"),
            'D' => self.strftime("%m/%d/%y"),
            'c' => self.strftime("%a %b %e %H:%M:%S %Y"),
            'x' => self.strftime("%m/%d/%y"),
            'X' => self.strftime("%H:%M:%S"),
            '%' => "%".to_owned(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            _ => return None,
        })
    }
}

/// Year, month and day of a number of days since 1970-01-01.
fn civil(days: i64) -> (i64, u8, u8) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let small = |x: i64| u8::try_from(x).expect("a month or a day");
    (year, small(month), small(day))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values from Python's datetime.
    #[test]
    fn dates() {
        let t = DateTime::from_unix(1_772_719_629, 0);
        assert_eq!(t, DateTime { year: 2026, month: 3, day: 5, hour: 14, minute: 7, second: 9 });
        assert_eq!(
            t.strftime("%d %b %Y %A %j %I:%M %p %-d/%-m %y"),
            "05 Mar 2026 Thursday 064 02:07 PM 5/3 26"
        );
        assert_eq!(DateTime::from_unix(-1, 0).strftime("%F %T"), "1969-12-31 23:59:59");
        assert_eq!(DateTime::from_unix(951_782_400, 0).strftime("%c"), "Tue Feb 29 00:00:00 2000");
        assert_eq!(DateTime::from_unix(0, 3600).strftime("%R %q %"), "01:00 %q %");
    }
}
