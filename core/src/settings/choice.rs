//! One of several: by name, or by Delivery Optimization's number.
//!
//! Decides: the names. Tests: `table_tests.rs`.

use super::kind::{Bounds, Kind, Notation};
use super::value::{CacheHostSource, Encryption, GroupIdSource, Mode, PeerTransport, Restrict};
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::marker::PhantomData;

/// Values with names, and Delivery Optimization's numbers if it has them.
pub(super) trait Choice: Copy + PartialEq + 'static {
    const ALL: &'static [(Self, &'static str, Option<u8>)];
    const ALSO_UNSET: &'static [&'static str] = &[];
}

pub(super) struct One<C>(PhantomData<C>);

impl<C: Choice> Kind for One<C> {
    type Value = C;
    const ALSO_UNSET: &'static [&'static str] = C::ALSO_UNSET;

    fn parse(text: &str, _: Notation, _: Bounds) -> Result<C, String> {
        let number = text.parse::<u8>().ok();
        let found = C::ALL
            .iter()
            .find(|(_, name, known)| *name == text || (known.is_some() && *known == number));
        found
            .map(|(choice, _, _)| *choice)
            .ok_or_else(|| "there is no such choice".to_owned())
    }

    fn show(value: &C) -> String {
        let found = C::ALL.iter().find(|(choice, _, _)| choice == value);
        found.map_or_else(String::new, |(_, name, _)| (*name).to_owned())
    }

    fn allowed(_: Bounds) -> String {
        let names: Vec<String> = C::ALL
            .iter()
            .map(|(_, name, number)| match number {
                Some(number) => format!("{name} ({number})"),
                None => (*name).to_owned(),
            })
            .collect();
        match names.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        }
    }
}

const fn entry(mode: Mode) -> (Mode, &'static str, Option<u8>) {
    (mode, mode.name(), Some(mode.number()))
}

impl Choice for Mode {
    const ALL: &'static [(Self, &'static str, Option<u8>)] = &[
        entry(Self::HttpOnly),
        entry(Self::Lan),
        entry(Self::Group),
        entry(Self::Internet),
        entry(Self::Simple),
        entry(Self::Bypass),
    ];
}

impl Choice for GroupIdSource {
    const ALL: &'static [(Self, &'static str, Option<u8>)] = &[
        (Self::DhcpOption234, "dhcp", Some(3)),
        (Self::DnsSuffix, "dns-suffix", Some(4)),
    ];
    const ALSO_UNSET: &'static [&'static str] = &["0"];
}

impl Choice for Restrict {
    const ALL: &'static [(Self, &'static str, Option<u8>)] = &[
        (Self::Auto, "auto", None),
        (Self::None, "none", Some(0)),
        (Self::Subnet, "subnet", Some(1)),
        (Self::LocalDiscovery, "local-discovery", Some(2)),
    ];
}

impl Choice for CacheHostSource {
    const ALL: &'static [(Self, &'static str, Option<u8>)] = &[
        (Self::Static, "static", Some(0)),
        (Self::Dhcp, "dhcp", Some(1)),
        (Self::DhcpForced, "dhcp-forced", Some(2)),
    ];
}

impl Choice for PeerTransport {
    const ALL: &'static [(Self, &'static str, Option<u8>)] = &[
        (Self::Auto, "auto", None),
        (Self::Tcp, "tcp", None),
        (Self::Utp, "utp", None),
    ];
}

impl Choice for Encryption {
    const ALL: &'static [(Self, &'static str, Option<u8>)] = &[
        (Self::Required, "required", None),
        (Self::Preferred, "preferred", None),
        (Self::Off, "off", None),
    ];
}
