//! Civil dates: Unix seconds to the fields of a clock and back (proleptic Gregorian calendar).

const SECONDS_PER_DAY: u64 = 86_400;
/// Days in 400 years, after which the Gregorian calendar repeats.
const DAYS_PER_ERA: u64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01. Counting years from March puts the leap day at the end of the year.
const DAYS_TO_1970: u64 = 719_468;

/// The time as a clock shows it. The fields are what the guest wrote, so they need not be a date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Calendar {
    pub(super) second: u8,
    pub(super) minute: u8,
    /// 0 to 23.
    pub(super) hour: u8,
    /// 1 (Sunday) to 7.
    pub(super) day_of_week: u8,
    pub(super) day: u8,
    pub(super) month: u8,
    /// Year of the century.
    pub(super) year: u8,
    pub(super) century: u8,
}

impl Calendar {
    /// The date and time at `unix_s`; the years behind 9999 repeat the one century after the other.
    pub(super) fn from_unix(unix_s: u64) -> Self {
        let (days, second_of_day) = (unix_s / SECONDS_PER_DAY, unix_s % SECONDS_PER_DAY);
        let (year, month, day) = civil(days);
        Self {
            second: small(second_of_day % 60),
            minute: small(second_of_day / 60 % 60),
            hour: small(second_of_day / 3600),
            // 1970-01-01 was a Thursday.
            day_of_week: small((days + 4) % 7 + 1),
            day: small(day),
            month: small(month),
            year: small(year % 100),
            century: small(year / 100 % 100),
        }
    }

    /// Unix seconds. Fields that are no date are taken as the nearest that is, times before 1970 as its begin.
    pub(super) fn to_unix(self) -> u64 {
        let year = u64::from(self.century) * 100 + u64::from(self.year);
        let month = u64::from(self.month).clamp(1, 12);
        let day = u64::from(self.day).clamp(1, 31);
        let days = days_since_march_0(year, month, day).saturating_sub(DAYS_TO_1970);
        days * SECONDS_PER_DAY
            + u64::from(self.hour).min(23) * 3600
            + u64::from(self.minute).min(59) * 60
            + u64::from(self.second).min(59)
    }
}

/// Year, month and day of so many days after 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_TO_1970;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    // Take out the leap days (every 4 years, not every 100, but every 400) to get years of 365 days.
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - days_before_year(year_of_era);
    // Months from March on are 31, 30, 31, 30, 31 days, over and over: 153 days in 5 months.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Days from 0000-03-01 to a date (0 for dates before).
fn days_since_march_0(year: u64, month: u64, day: u64) -> u64 {
    let (year, month_from_march) = if month > 2 { (year, month - 3) } else { (year.saturating_sub(1), month + 9) };
    year / 400 * DAYS_PER_ERA + days_before_year(year % 400) + (153 * month_from_march + 2) / 5 + day - 1
}

/// Days in an era before its year `year_of_era`.
const fn days_before_year(year_of_era: u64) -> u64 {
    365 * year_of_era + year_of_era / 4 - year_of_era / 100
}

/// A number that is known to fit a byte.
fn small(value: u64) -> u8 {
    u8::try_from(value).unwrap_or(0)
}
