//! What this host is like: interfaces, power, memory, disk, what its networks announced.
//!
//! Decides: where a fact is read, and which of several answers is the fact. Never does: say what a fact means
//! (is this a VPN, may we upload), which is policy; fail: a missing or odd file is "unknown".
//! Shared by both shells. Reference: `docs/host-facts.md`. Tests: on prepared folders at the foot of each file,
//! on real interfaces in `tests/facts.rs`.

mod leases;
mod links;
mod network_manager;
mod power;
mod watch;

pub use links::addresses;
pub use watch::Watch;

use dovetail_core::host::{DiskSpace, HostFacts, Subnet};
use leases::Lease;
use links::Link;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the facts are found.
#[derive(Clone, Debug)]
pub struct Places {
    /// `/`, except in tests.
    pub root: PathBuf,
    /// The folder of the shelf; it need not exist yet.
    pub shelf: PathBuf,
    /// NetworkManager's command, called only where NetworkManager runs.
    pub nmcli: PathBuf,
    /// Addresses of this host with the names of their interfaces.
    pub addresses: fn() -> Vec<(String, Subnet)>,
}

impl Places {
    /// The places of a Linux system, with the shelf in this folder.
    pub fn system(shelf: impl Into<PathBuf>) -> Self {
        Self {
            root: "/".into(),
            shelf: shelf.into(),
            nmcli: "nmcli".into(),
            addresses,
        }
    }

    /// `path` is as on the system, without its first slash.
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

/// All that can be found out now. Takes milliseconds; where NetworkManager runs, as long as its command.
pub fn gather(places: &Places) -> HostFacts {
    let manager = network_manager::ask(places);
    assemble(places, &links::links(places), &manager, installed(places))
}

/// The facts, given those that cost more to find out.
fn assemble(
    places: &Places,
    links: &[Link],
    manager: &network_manager::Answer,
    ram_bytes: Option<u64>,
) -> HostFacts {
    let mut found = leases::read(places, links);
    found.extend(manager.leases.iter().cloned());
    let up = |lease: &Lease| links.iter().any(|link| link.is(&lease.interface));
    let newest = leases::newest(found, up, unix_now_s());
    HostFacts {
        interfaces: links.iter().map(|link| link.interface.clone()).collect(),
        metered: manager.metered(links),
        battery: power::battery(&places.at("sys/class/power_supply")),
        ram_bytes,
        disk: disk(&places.shelf),
        dns_suffix: text(&places.at("etc/resolv.conf")).and_then(|conf| dns_suffix(&conf)),
        dhcp_group_id: leases::option(&newest, |lease| lease.group_id.as_ref()),
        dhcp_cache_hosts: leases::option(&newest, |lease| lease.cache_hosts.as_ref()),
        found_caches: Vec::new(),
        port_answers: Vec::new(),
    }
}

/// Installed memory: the blocks the firmware gave, else what the kernel has left for use, which is some percent
/// less. A limit of a control group is not looked at: it says what this service may use, not what the host is.
fn installed(places: &Places) -> Option<u64> {
    blocks(&places.at("sys/devices/system/memory")).or_else(|| {
        let info = text(&places.at("proc/meminfo"))?;
        mem_total(&info)
    })
}

fn blocks(folder: &Path) -> Option<u64> {
    let size = text(&folder.join("block_size_bytes"))?;
    let size = u64::from_str_radix(size.trim(), 16).ok()?;
    let count = names(folder)
        .iter()
        .filter_map(|name| name.strip_prefix("memory"))
        .filter(|number| number.parse::<u32>().is_ok())
        .count();
    let bytes = size.checked_mul(u64::try_from(count).ok()?)?;
    (bytes > 0).then_some(bytes)
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib = line.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Free space is told in steps of this size: it changes all the time.
const FREE_STEP_BYTES: u64 = 64 << 20;

/// Of the file system of this folder, or of where it would be made.
fn disk(shelf: &Path) -> Option<DiskSpace> {
    let stat = shelf
        .ancestors()
        .find_map(|folder| rustix::fs::statvfs(folder).ok())?;
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    Some(DiskSpace {
        free_bytes: free_bytes - free_bytes % FREE_STEP_BYTES,
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// The first search domain; of `search` and `domain`, whichever comes last counts (resolv.conf(5)).
fn dns_suffix(resolv_conf: &str) -> Option<String> {
    let mut suffix = None;
    for line in resolv_conf.lines() {
        let mut words = line.split_ascii_whitespace();
        if matches!(words.next(), Some("search" | "domain")) {
            suffix = words.next();
        }
    }
    let suffix = suffix?.trim_end_matches('.').to_ascii_lowercase();
    (!suffix.is_empty()).then_some(suffix)
}

fn unix_now_s() -> i64 {
    unix_s(SystemTime::now())
}

/// Before 1970 is 1970.
fn unix_s(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// More of a file is not read: a router's table of routes can be very long, and begins with the default.
const TEXT_MAX: u64 = 1 << 20;

/// A file as text. Devices that answer with an error (`sysfs` does) are as good as missing.
fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(TEXT_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A small file's number.
fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    text(path)?.trim().parse().ok()
}

/// What is in a folder, in order; nothing if it is missing.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod testing {
    use super::Places;
    use std::fs;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A prepared root folder, gone at the end.
    pub(super) struct Root(pub(super) PathBuf);

    impl Root {
        pub(super) fn new(files: &[(&str, &str)]) -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("dovetail-facts-{}-{count}", std::process::id());
            let root = Self(std::env::temp_dir().join(name));
            for (path, text) in files {
                root.write(path, text);
            }
            root
        }

        pub(super) fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }

        pub(super) fn places(&self) -> Places {
            Places {
                root: self.0.clone(),
                shelf: self.0.join("not/there/yet"),
                nmcli: self.0.join("nmcli"),
                addresses: || {
                    [("lo", "127.0.0.1/8"), ("eth0", "10.1.0.7/16")]
                        .map(|(name, subnet)| (name.to_owned(), subnet.parse().unwrap()))
                        .into()
                },
            }
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            _ = fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Root;
    use super::*;
    use dovetail_core::host::{Battery, Interface, LinkKind};

    #[test]
    fn an_empty_folder_says_nothing_and_does_not_fail() {
        let root = Root::new(&[("x", "")]);
        let mut places = root.places();
        places.addresses = Vec::new;
        let facts = gather(&places);
        assert!(facts.disk.is_some_and(|disk| disk.total_bytes > 0));
        let unknown = HostFacts {
            disk: facts.disk,
            ..HostFacts::default()
        };
        assert_eq!(facts, unknown);
    }

    #[test]
    fn a_prepared_host() {
        let root = Root::new(&[
            ("sys/class/net/eth0/type", "1\n"),
            ("sys/class/net/eth0/flags", "0x1003\n"),
            ("sys/class/net/eth0/operstate", "up\n"),
            ("sys/class/net/eth0/ifindex", "2\n"),
            ("sys/class/net/eth0/ifalias", "Office LAN\n"),
            ("sys/class/net/eth0/device/vendor", "0x8086\n"),
            ("sys/class/net/lo/type", "772\n"),
            ("sys/class/net/lo/flags", "0x9\n"),
            ("sys/class/net/lo/operstate", "unknown\n"),
            (
                "proc/net/route",
                "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                 eth0\t00000000\t0100010A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n",
            ),
            (
                "proc/meminfo",
                "MemTotal:       24731708 kB\nMemFree: 1 kB\n",
            ),
            (
                "etc/resolv.conf",
                "nameserver 10.1.0.1\nsearch Corp.Example. b.example\n",
            ),
            ("sys/class/power_supply/BAT0/type", "Battery\n"),
            ("sys/class/power_supply/BAT0/capacity", "71\n"),
            ("sys/class/power_supply/BAT0/status", "Discharging\n"),
            (
                "run/systemd/netif/leases/2",
                "ADDRESS=10.1.0.7\nOPTION_234=7b61627d\nOPTION_235=632e6578616d706c6500\n",
            ),
        ]);
        let facts = gather(&root.places());
        let lo = Interface {
            name: "lo".into(),
            link: LinkKind::Loopback,
            subnets: vec!["127.0.0.1/8".parse().unwrap()],
            ..Interface::default()
        };
        let eth0 = Interface {
            name: "eth0".into(),
            description: "Office LAN".into(),
            link: LinkKind::Ethernet,
            subnets: vec!["10.1.0.7/16".parse().unwrap()],
            default_route: true,
            gateways: vec!["10.1.0.1".parse().unwrap()],
        };
        let expected = HostFacts {
            interfaces: vec![eth0, lo],
            metered: None,
            battery: Some(Battery {
                percent: 71,
                discharging: true,
            }),
            ram_bytes: Some(24_731_708 << 10),
            disk: facts.disk,
            dns_suffix: Some("corp.example".into()),
            dhcp_group_id: Some("{ab}".into()),
            dhcp_cache_hosts: Some("c.example".into()),
            found_caches: vec![],
            port_answers: vec![],
        };
        assert_eq!(facts, expected);
    }

    #[test]
    fn installed_memory_is_what_the_firmware_gave() {
        let root = Root::new(&[
            ("proc/meminfo", "MemTotal:       4030000 kB\n"),
            (
                "sys/devices/system/memory/block_size_bytes",
                "80000000\n", // 2 GiB
            ),
            ("sys/devices/system/memory/memory0/online", "1\n"),
            ("sys/devices/system/memory/memory1/online", "1\n"),
            ("sys/devices/system/memory/power/control", "auto\n"),
        ]);
        assert_eq!(installed(&root.places()), Some(4 << 30));
        root.write("sys/devices/system/memory/block_size_bytes", "?");
        assert_eq!(installed(&root.places()), Some(4_030_000 << 10));
        root.write("proc/meminfo", "MemTotal: many\n");
        assert_eq!(installed(&root.places()), None);
    }

    #[test]
    fn the_search_domain() {
        for (conf, suffix) in [
            ("", None),
            ("nameserver 1.1.1.1\n", None),
            ("search\n", None),
            ("search .\n", None),
            ("# search no.example\n", None),
            ("search a.example b.example\n", Some("a.example")),
            ("search a.example\ndomain B.example.\n", Some("b.example")),
            ("domain b.example\nsearch\ta.example", Some("a.example")),
        ] {
            assert_eq!(dns_suffix(conf).as_deref(), suffix, "{conf:?}");
        }
    }

    #[test]
    fn free_space_comes_in_steps() {
        let disk = disk(Path::new("/nowhere/at/all")).unwrap();
        assert_eq!(disk.free_bytes % FREE_STEP_BYTES, 0);
        assert!(disk.free_bytes <= disk.total_bytes);
    }
}
