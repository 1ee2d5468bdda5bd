//! The battery, from `/sys/class/power_supply`.
//!
//! Decides: several batteries are one, weighted by what they hold; batteries of mice and headsets do not count;
//! a charger that delivers means not running from the battery, whatever the battery says.
//! Specification: the kernel's `Documentation/ABI/testing/sysfs-class-power`. Tests: below.

use super::{names, number, text};
use dovetail_core::host::Battery;
use std::path::Path;

pub(super) fn battery(class: &Path) -> Option<Battery> {
    let supplies: Vec<_> = names(class)
        .iter()
        .filter_map(|name| Supply::read(&class.join(name)))
        .collect();
    sum(&supplies)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Supply {
    Battery {
        percent: u32,
        /// How much it holds when full, in µWh or µAh.
        holds: Option<u64>,
        status: String,
    },
    /// Mains, USB, wireless.
    Charger { is_online: bool },
}

impl Supply {
    /// `None` for what does not power this host, and for what cannot be read.
    fn read(folder: &Path) -> Option<Self> {
        let word = |name: &str| text(&folder.join(name)).map(|text| text.trim().to_owned());
        if word("scope").as_deref() == Some("Device") {
            return None;
        }
        if word("type")? != "Battery" {
            let is_online = number::<u32>(&folder.join("online"))? != 0;
            return Some(Self::Charger { is_online });
        }
        if number::<u32>(&folder.join("present")) == Some(0) {
            return None;
        }
        // In µWh or µAh; more than the largest battery is a broken driver.
        let count = |name: &str| {
            number::<u64>(&folder.join(name)).filter(|count| (1..1 << 40).contains(count))
        };
        let holds = count("energy_full").or_else(|| count("charge_full"));
        let share = || {
            let now = number::<u64>(&folder.join("energy_now"))
                .or_else(|| number(&folder.join("charge_now")))?;
            u32::try_from(now.saturating_mul(100) / holds?).ok()
        };
        let percent = number::<u32>(&folder.join("capacity")).or_else(share)?;
        Some(Self::Battery {
            percent: percent.min(100),
            holds,
            status: word("status").unwrap_or_default(),
        })
    }
}

fn sum(supplies: &[Supply]) -> Option<Battery> {
    let mut batteries = Vec::new();
    let (mut charging, mut discharging) = (false, false);
    let (mut chargers, mut online) = (false, false);
    for supply in supplies {
        match supply {
            Supply::Battery {
                percent,
                holds,
                status,
            } => {
                batteries.push((u64::from(*percent), *holds));
                charging |= matches!(status.as_str(), "Charging" | "Full");
                discharging |= status == "Discharging";
            }
            Supply::Charger { is_online } => {
                chargers = true;
                online |= is_online;
            }
        }
    }
    // If one does not say what it holds, all weigh the same.
    let weigh = batteries.iter().all(|(_, holds)| holds.is_some());
    let weight = |holds: Option<u64>| holds.filter(|_| weigh).unwrap_or(1);
    let total: u64 = batteries.iter().map(|(_, holds)| weight(*holds)).sum();
    let held: u64 = batteries
        .iter()
        .map(|(percent, holds)| percent * weight(*holds))
        .sum();
    Some(Battery {
        percent: u8::try_from(held.checked_div(total)?).unwrap_or(100),
        discharging: !online && (discharging || (chargers && !charging)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::Root;
    use super::*;

    /// `BAT0/capacity=71 BAT0/status=Discharging …`
    fn of(files: &str) -> Option<(u8, bool)> {
        let root = Root::new(&[("class/README", "")]);
        for file in files.split_ascii_whitespace() {
            let (path, text) = file.split_once('=').unwrap();
            root.write(&format!("class/{path}"), format!("{text}\n"));
        }
        battery(&root.0.join("class")).map(|battery| (battery.percent, battery.discharging))
    }

    #[test]
    fn no_battery() {
        assert_eq!(of(""), None);
        assert_eq!(of("AC/type=Mains AC/online=1"), None);
        assert_eq!(of("BAT0/type=Battery BAT0/status=Unknown"), None);
        assert_eq!(of("BAT0/type=Battery BAT0/present=0 BAT0/capacity=0"), None);
        assert_eq!(
            of(
                "hidpp_battery_0/type=Battery hidpp_battery_0/scope=Device hidpp_battery_0/capacity=50"
            ),
            None
        );
    }

    #[test]
    fn one_battery() {
        let bat = "BAT0/type=Battery BAT0/present=1 BAT0/capacity=71";
        for (rest, discharging) in [
            ("BAT0/status=Discharging", true),
            ("BAT0/status=Charging", false),
            ("BAT0/status=Full", false),
            ("BAT0/status=Unknown", false),
            ("BAT0/status=Discharging AC/type=Mains AC/online=1", false),
            ("BAT0/status=Discharging AC/type=Mains AC/online=0", true),
            ("BAT0/status=Unknown AC/type=Mains AC/online=0", true),
            ("BAT0/status=Charging ucsi/type=USB ucsi/online=0", false),
            (
                "BAT0/status=Discharging AC/type=Mains AC/online=0 ucsi/type=USB ucsi/online=1",
                false,
            ),
        ] {
            assert_eq!(
                of(&format!("{bat} {rest}")),
                Some((71, discharging)),
                "{rest}"
            );
        }
        assert_eq!(
            of("BAT0/type=Battery BAT0/charge_full=200 BAT0/charge_now=50 BAT0/status=Discharging"),
            Some((25, true))
        );
        assert_eq!(
            of("BAT0/type=Battery BAT0/capacity=104 BAT0/status=Full"),
            Some((100, false))
        );
    }

    #[test]
    fn several_batteries_weigh_what_they_hold() {
        let two = "BAT0/type=Battery BAT0/capacity=100 BAT1/type=Battery BAT1/capacity=20";
        assert_eq!(of(two), Some((60, false)));
        assert_eq!(
            of(&format!(
                "{two} BAT0/energy_full=10 BAT1/energy_full=30 BAT1/status=Discharging"
            )),
            Some((40, true))
        );
    }
}
