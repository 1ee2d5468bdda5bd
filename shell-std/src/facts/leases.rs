//! DHCP options 234 (group id) and 235 (cache hosts), from the leases this system's DHCP client keeps.
//!
//! Decides: which files, which lease is the newest of an interface, which bytes are text. Never does: ask a DHCP
//! server; read the text.
//! Specification: RFC 2132 and 3396 (options), dhclient.leases(5); systemd-networkd and dhcpcd keep files that
//! are documented by their source only. Tests: below.

use super::links::{Link, Named};
use super::{Places, names, text, unix_s};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// One lease, as far as we want to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) interface: Named,
    pub(super) since_unix_s: i64,
    /// `None`: as long as it is in its place.
    pub(super) until_unix_s: Option<i64>,
    pub(super) group_id: Option<String>,
    pub(super) cache_hosts: Option<String>,
}

const GROUP_ID: u8 = 234;
const CACHE_HOSTS: u8 = 235;

/// More of one file than any lease has.
const FILE_MAX: u64 = 1 << 20;

/// The leases of all clients, also old ones.
pub(super) fn read(places: &Places, links: &[Link]) -> Vec<Lease> {
    let mut leases = Vec::new();
    each(&places.at("run/systemd/netif/leases"), |name, file| {
        let index = name.parse().ok()?;
        // networkd takes the file away when the lease ends.
        leases.push(Lease {
            until_unix_s: None,
            ..key_values(Named::Index(index), &file)
        });
        Some(())
    });
    let conf: String = ["etc/dhcp/dhclient.conf", "etc/dhclient.conf"]
        .iter()
        .filter_map(|path| text(&places.at(path)))
        .collect();
    for folder in ["var/lib/dhcp", "var/lib/dhclient"] {
        each(&places.at(folder), |_, file| {
            leases.extend(dhclient(&file.text(), &conf));
            Some(())
        });
    }
    for folder in ["var/lib/dhcpcd", "var/db/dhcpcd", "var/lib/dhcpcd5"] {
        each(&places.at(folder), |name, file| {
            let of = dhcpcd_interface(name.strip_suffix(".lease")?, links)?;
            leases.extend(message(of, &file));
            Some(())
        });
    }
    each(&places.at("var/lib/NetworkManager"), |name, file| {
        let name = name.strip_suffix(".lease")?;
        if name.starts_with("dhclient-") {
            leases.extend(dhclient(&file.text(), &conf));
        } else {
            // internal-UUID-INTERFACE; a UUID has 36 letters.
            let of = name.strip_prefix("internal-")?.get(36..)?;
            let of = Named::Name(of.strip_prefix('-')?.to_owned());
            leases.push(key_values(of, &file));
        }
        Some(())
    });
    leases
}

/// The newest valid lease of each interface for which `is_up`, newest first. One interface has one lease: what an
/// older one said does not hold any more.
pub(super) fn newest(
    leases: Vec<Lease>,
    is_up: impl Fn(&Lease) -> bool,
    now_unix_s: i64,
) -> Vec<Lease> {
    let mut newest: BTreeMap<Named, Lease> = BTreeMap::new();
    for lease in leases {
        let is_over = lease.until_unix_s.is_some_and(|until| until <= now_unix_s);
        if is_over || !is_up(&lease) {
            continue;
        }
        let known = newest.get(&lease.interface);
        // Of two of the same second the later in its file counts.
        if known.is_none_or(|known| known.since_unix_s <= lease.since_unix_s) {
            newest.insert(lease.interface.clone(), lease);
        }
    }
    let mut leases: Vec<_> = newest.into_values().collect();
    leases.sort_by_key(|lease| std::cmp::Reverse(lease.since_unix_s));
    leases
}

/// An option of the newest lease that has it.
pub(super) fn option(newest: &[Lease], of: impl Fn(&Lease) -> Option<&String>) -> Option<String> {
    newest.iter().find_map(of).cloned()
}

struct LeaseFile {
    bytes: Vec<u8>,
    modified_unix_s: i64,
}

impl LeaseFile {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Calls `take` with name and content of each file; what cannot be read is passed over.
fn each(folder: &Path, mut take: impl FnMut(&str, LeaseFile) -> Option<()>) {
    for name in names(folder) {
        let path = folder.join(&name);
        let Ok(about) = fs::metadata(&path) else {
            continue;
        };
        if !about.is_file() || about.len() > FILE_MAX {
            continue;
        }
        let (Ok(bytes), Ok(modified)) = (fs::read(&path), about.modified()) else {
            continue;
        };
        let modified_unix_s = unix_s(modified);
        take(
            &name,
            LeaseFile {
                bytes,
                modified_unix_s,
            },
        );
    }
}

/// `KEY=value` lines, as systemd-networkd and NetworkManager's older internal client write them.
fn key_values(interface: Named, file: &LeaseFile) -> Lease {
    let text = file.text();
    let value = |key: &str| {
        let mut pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs
            .find(|(found, _)| *found == key)
            .map(|(_, value)| value)
    };
    let option = |code: u8| value(&format!("OPTION_{code}")).and_then(from_hex);
    let since_unix_s = file.modified_unix_s;
    let lifetime_s = value("LIFETIME").and_then(|text| text.trim().parse::<i64>().ok());
    Lease {
        interface,
        since_unix_s,
        until_unix_s: lifetime_s.map(|span| since_unix_s.saturating_add(span)),
        group_id: option(GROUP_ID),
        cache_hosts: option(CACHE_HOSTS),
    }
}

/// All leases of a file of dhclient, oldest first. Options it has no name for are `unknown-234`; it can ask only for
/// those that `dhclient_conf` gives a name.
fn dhclient(text: &str, dhclient_conf: &str) -> Vec<Lease> {
    let option_names = [GROUP_ID, CACHE_HOSTS].map(|code| option_names(dhclient_conf, code));
    let mut leases = Vec::new();
    let mut open: Option<Lease> = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with("lease") && line.ends_with('{') {
            open = Some(Lease {
                interface: Named::Name(String::new()),
                since_unix_s: 0,
                until_unix_s: None,
                group_id: None,
                cache_hosts: None,
            });
        } else if line == "}" {
            leases.extend(open.take());
        } else if let Some(lease) = &mut open {
            statement(lease, line, &option_names);
        }
    }
    leases
}

/// `option cache-hosts code 235 = text;`
fn option_names(dhclient_conf: &str, code: u8) -> Vec<String> {
    let definition = |line: &str| {
        let (name, rest) = line.trim().strip_prefix("option ")?.split_once(" code ")?;
        let (found, _) = rest.split_once('=')?;
        let is_it = found.trim().parse() == Ok(code);
        is_it.then(|| name.trim().to_owned())
    };
    let mut names = vec![format!("unknown-{code}")];
    names.extend(dhclient_conf.lines().filter_map(definition));
    names
}

fn statement(lease: &mut Lease, line: &str, option_names: &[Vec<String>; 2]) {
    let Some((word, rest)) = line.split_once(' ') else {
        return;
    };
    let rest = rest.rsplit_once(';').map_or(rest, |(rest, _)| rest);
    match word {
        "interface" => lease.interface = Named::Name(rest.trim_matches('"').to_owned()),
        // It is asked for again from `renew` on: the later, the newer.
        "renew" => lease.since_unix_s = dhclient_date(rest).unwrap_or(0),
        "expire" => lease.until_unix_s = dhclient_date(rest),
        "option" => {
            let Some((name, value)) = rest.split_once(' ') else {
                return;
            };
            let [group_id, cache_hosts] = option_names;
            if group_id.iter().any(|known| known == name) {
                lease.group_id = dhclient_value(value);
            } else if cache_hosts.iter().any(|known| known == name) {
                lease.cache_hosts = dhclient_value(value);
            }
        }
        _ => {}
    }
}

/// `"text"` or `74:65:78:74`.
fn dhclient_value(value: &str) -> Option<String> {
    let value = value.trim();
    match value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
        Some(quoted) => from_bytes(&unquoted(quoted)?),
        None => from_hex(value),
    }
}

/// Backslashes stand before quotes and backslashes, and before three octal digits for any other byte.
fn unquoted(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let octal = rest.get(..3).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        let len = if octal.is_some() { 3 } else { 1 };
        bytes.push(octal.or(rest.first().copied())?);
        rest = rest.get(len..)?;
    }
    Some(bytes)
}

/// `4 2026/11/26 12:22:07` (UTC, after the day of the week), `epoch 1795695727; # …`; `None` for `never`.
fn dhclient_date(text: &str) -> Option<i64> {
    if let Some(epoch) = text.strip_prefix("epoch ") {
        return epoch.split(';').next()?.trim().parse().ok();
    }
    let mut words = text.split_ascii_whitespace().skip(1);
    let date = words.next()?.replace('/', "-");
    let time = words.next()?;
    let at: jiff::Timestamp = format!("{date}T{time}Z").parse().ok()?;
    Some(at.as_second())
}

/// `eth0.lease`, and `wlan0-SSID.lease` where an interface has a lease for each network. Both dashes and dots
/// may be part of an interface's name.
fn dhcpcd_interface(name: &str, links: &[Link]) -> Option<Named> {
    let is_of = |link: &&Link| {
        let rest = name.strip_prefix(link.interface.name.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let longest = links
        .iter()
        .filter(is_of)
        .max_by_key(|link| link.interface.name.len());
    longest.map(|link| Named::Name(link.interface.name.clone()))
}

/// A DHCP message as it came, which is what dhcpcd keeps.
fn message(interface: Named, file: &LeaseFile) -> Option<Lease> {
    const OPTIONS_AT: usize = 240;
    const LEASE_TIME: u8 = 51;
    let head = file.bytes.get(..OPTIONS_AT)?;
    if !head.ends_with(&[0x63, 0x82, 0x53, 0x63]) {
        return None;
    }
    let options = options(file.bytes.get(OPTIONS_AT..)?);
    let lifetime_s = options
        .get(&LEASE_TIME)
        .and_then(|bytes| <[u8; 4]>::try_from(bytes.as_slice()).ok())
        .map(u32::from_be_bytes)
        .filter(|span| *span != u32::MAX);
    let of = |code: u8| options.get(&code).and_then(|bytes| from_bytes(bytes));
    Some(Lease {
        interface,
        since_unix_s: file.modified_unix_s,
        until_unix_s: lifetime_s.map(|span| file.modified_unix_s.saturating_add(span.into())),
        group_id: of(GROUP_ID),
        cache_hosts: of(CACHE_HOSTS),
    })
}

/// Code, length, value; an option that is there several times is joined (RFC 3396).
fn options(mut rest: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    const PAD: u8 = 0;
    const END: u8 = 255;
    let mut options: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    while let Some((code, after)) = rest.split_first() {
        rest = after;
        match *code {
            PAD => continue,
            END => break,
            _ => {}
        }
        let Some((len, after)) = rest.split_first() else {
            break;
        };
        let Some((value, after)) = after.split_at_checked(usize::from(*len)) else {
            break;
        };
        options.entry(*code).or_default().extend_from_slice(value);
        rest = after;
    }
    options
}

/// `74657874` or `74:65:78:74`, as text.
pub(super) fn from_hex(text: &str) -> Option<String> {
    let digits: Vec<u8> = text.trim().bytes().filter(|byte| *byte != b':').collect();
    let pairs = digits.chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        // `from_str_radix` would take a sign.
        let is_hex = pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u8::from_str_radix(pair, 16).ok()).flatten()
    });
    from_bytes(&pairs.collect::<Option<Vec<u8>>>()?)
}

/// Printable ASCII; some servers end it with a zero. Empty is nothing.
pub(super) fn from_bytes(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes)
        .ok()?
        .trim_end_matches('\0')
        .trim();
    let is_text = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    (is_text && !text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::links::links;
    use super::super::testing::Root;
    use super::*;

    /// The leases of these files, for a host whose interfaces are eth0 and wlan0; then what they say.
    fn said(files: &[(&str, &[u8])]) -> (Option<String>, Option<String>) {
        let root = Root::new(&[
            ("sys/class/net/eth0/ifindex", "2"),
            ("sys/class/net/wlan0/ifindex", "3"),
            ("sys/class/net/off0/ifindex", "4"),
            ("sys/class/net/off0/operstate", "down"),
        ]);
        for (path, bytes) in files {
            root.write(path, bytes);
        }
        let links = links(&root.places());
        let up = |lease: &Lease| links.iter().any(|link| link.is(&lease.interface));
        let newest = newest(read(&root.places(), &links), up, super::super::unix_now_s());
        (
            option(&newest, |lease| lease.group_id.as_ref()),
            option(&newest, |lease| lease.cache_hosts.as_ref()),
        )
    }

    fn hosts(files: &[(&str, &[u8])]) -> Option<String> {
        said(files).1
    }

    #[test]
    fn text_of_options() {
        for (hex, text) in [
            ("612e62", Some("a.b")),
            ("61:2e:62:00", Some("a.b")),
            ("612C62200000", Some("a,b")),
            ("", None),
            ("00", None),
            ("612", None),
            ("+1", None),
            ("6z", None),
            ("ff61", None),
            ("610a62", None),
            ("61c3a4", None),
        ] {
            assert_eq!(from_hex(hex).as_deref(), text, "{hex}");
        }
    }

    #[test]
    fn networkd() {
        let lease = b"# This is private data. Do not parse.\nADDRESS=10.0.0.7\nLIFETIME=1\n\
            OPTION_234=67726f7570\nOPTION_235=632e6578616d706c65\n";
        let expected = (Some("group".into()), Some("c.example".into()));
        assert_eq!(said(&[("run/systemd/netif/leases/2", lease)]), expected);
        for other in ["4", "9", "eth0"] {
            let path = format!("run/systemd/netif/leases/{other}");
            assert_eq!(said(&[(&path, lease)]), (None, None), "{other}");
        }
    }

    const DHCLIENT: &str = "\
default-duid \"\\000\\001\";
lease {
  interface \"eth0\";
  fixed-address 10.0.0.7;
  option dhcp-lease-time 600;
  option unknown-234 \"old\";
  option unknown-235 \"old.example\";
  renew 4 2020/11/26 12:00:00;
  expire 4 2099/11/26 12:10:00;
}
lease {
  interface \"eth0\";
  option unknown-235 \"a.example,b;\\\"\\061\";
  renew 4 2026/11/26 12:00:00;
  rebind 4 2026/11/26 12:00:00;
  expire 4 2099/11/26 12:10:00;
}
";

    #[test]
    fn dhclient_keeps_old_leases_before_new_ones() {
        let (group, hosts) = said(&[("var/lib/dhcp/dhclient.eth0.leases", DHCLIENT.as_bytes())]);
        assert_eq!(hosts.as_deref(), Some("a.example,b;\"1"));
        assert_eq!(group, None, "an older lease of the interface does not hold");
        let read = dhclient(DHCLIENT, "");
        assert_eq!(read[0].group_id.as_deref(), Some("old"));
        assert_eq!(read[1].since_unix_s, 1_795_694_400);
        // As hex, in the other folder, and as NetworkManager has it kept.
        let hex = DHCLIENT.replace("\"a.example,b;\\\"\\061\"", "61:62:0");
        assert_eq!(dhclient(&hex, "")[1].cache_hosts, None);
        let hex = hex.replace("61:62:0", "61:62:00");
        for path in [
            "var/lib/dhclient/dhclient--eth0.lease",
            "var/lib/NetworkManager/dhclient-0cb1c4a5-eth0.lease",
        ] {
            assert_eq!(
                self::hosts(&[(path, hex.as_bytes())]).as_deref(),
                Some("ab")
            );
        }
    }

    #[test]
    fn dhclient_names_options_as_it_is_told() {
        let lease = DHCLIENT.replace("unknown-235", "cache-hosts");
        let lease = ("var/lib/dhcp/dhclient.leases", lease.as_bytes());
        assert_eq!(hosts(&[lease]), None);
        let conf = "# option cache-hosts code 1 = text;\n  option cache-hosts  code 235 = text;\n\
            option odd code = text;\nalso request cache-hosts;\n";
        let found = hosts(&[lease, ("etc/dhcp/dhclient.conf", conf.as_bytes())]);
        assert_eq!(found.as_deref(), Some("a.example,b;\"1"));
    }

    #[test]
    fn dates_of_dhclient() {
        for (text, at) in [
            ("4 2026/11/26 12:00:00", Some(1_795_694_400)),
            ("epoch 1795694400; # Thu Nov 26", Some(1_795_694_400)),
            ("never", None),
            ("4 2026/13/26 12:00:00", None),
            ("", None),
        ] {
            assert_eq!(dhclient_date(text), at, "{text}");
        }
        let file = "lease {\n interface \"eth0\";\n option unknown-235 \"x\";\n expire never;\n}\n";
        let lease = |file: &str| hosts(&[("var/lib/dhcp/l", file.as_bytes())]);
        assert_eq!(lease(file).as_deref(), Some("x"));
        assert_eq!(lease(&file.replace("never", "4 2020/01/01 00:00:00")), None);
        assert_eq!(lease(&file.replace("eth0", "off0")), None);
        assert_eq!(lease(&file.replace('}', "")), None, "cut off");
    }

    fn dhcp_message(lease_time_s: u32, options: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0; 236];
        bytes.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 5, 0, 51, 4]);
        bytes.extend(lease_time_s.to_be_bytes());
        bytes.extend(options.concat());
        bytes.push(255);
        bytes
    }

    #[test]
    fn dhcpcd() {
        let options: [&[u8]; 2] = [b"\xeb\x03a.e", b"\xeb\x07xample\0"];
        let message = dhcp_message(600, &options);
        let found = Some("a.example".to_owned());
        for path in [
            "var/lib/dhcpcd/eth0.lease",
            "var/db/dhcpcd/wlan0-Home.lease",
        ] {
            assert_eq!(hosts(&[(path, &message)]), found);
        }
        for path in [
            "var/lib/dhcpcd/eth01.lease",
            "var/lib/dhcpcd/off0.lease",
            "var/lib/dhcpcd/eth0",
        ] {
            assert_eq!(hosts(&[(path, &message)]), None);
        }
        let path = "var/lib/dhcpcd/eth0.lease";
        assert_eq!(hosts(&[(path, &dhcp_message(0, &options))]), None, "over");
        let endless = dhcp_message(u32::MAX, &options);
        assert_eq!(hosts(&[(path, &endless)]), found);
        for len in 0..message.len() {
            let cut = hosts(&[(path, &message[..len])]);
            assert!(cut.is_none() || len > 250, "{len}");
        }
    }

    #[test]
    fn older_networkmanager() {
        let name = "internal-2c8bb44f-6a5e-4f8e-9c1a-000000000001-eth0.lease";
        let path = format!("var/lib/NetworkManager/{name}");
        let lease = |lifetime: u32| format!("LIFETIME={lifetime}\nOPTION_235=6162\n");
        assert_eq!(
            hosts(&[(&path, lease(600).as_bytes())]).as_deref(),
            Some("ab")
        );
        assert_eq!(hosts(&[(&path, lease(0).as_bytes())]), None);
        let odd = "var/lib/NetworkManager/internal-eth0.lease";
        assert_eq!(hosts(&[(odd, lease(600).as_bytes())]), None);
    }

    #[test]
    fn the_newest_lease_that_says_something_counts() {
        let lease = |name: &str, since: i64, hosts: Option<&str>| Lease {
            interface: Named::Name(name.into()),
            since_unix_s: since,
            until_unix_s: Some(100),
            group_id: None,
            cache_hosts: hosts.map(str::to_owned),
        };
        let pick = |leases: &[Lease], now| {
            let newest = newest(leases.to_vec(), |_| true, now);
            option(&newest, |lease| lease.cache_hosts.as_ref())
        };
        let wired = lease("eth0", 10, Some("wired"));
        let radio = lease("wlan0", 20, Some("radio"));
        let silent = lease("wlan0", 30, None);
        assert_eq!(pick(&[], 50), None);
        assert_eq!(
            pick(&[wired.clone(), radio.clone()], 50),
            Some("radio".into())
        );
        assert_eq!(
            pick(&[radio.clone(), wired.clone()], 50),
            Some("radio".into())
        );
        assert_eq!(
            pick(&[radio.clone(), silent, wired], 50),
            Some("wired".into())
        );
        assert_eq!(pick(&[radio], 100), None);
    }
}
