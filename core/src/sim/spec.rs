//! What the simulated world is made of, as plain numbers: links, clocks, disks, hosts, the transport.
//!
//! Decides nothing. Rates are payload bytes per second of virtual time; 0 is unlimited.

use super::SiteId;
use crate::limits::CONNECT_TIMEOUT;
use crate::machine::Listener;
use core::net::IpAddr;
use core::time::Duration;
use std::vec::Vec;

/// One direction of a wire: a serialiser, a tail-drop queue, a delay.
///
/// Loss and reordering are drawn per packet; a packet is one segment of [`NetSpec::segment_bytes`] or one
/// datagram, so give small segments to a world that studies loss.
#[derive(Clone, Copy, Debug)]
pub struct LinkSpec {
    /// 0 is unlimited.
    pub rate_bytes_per_s: u64,
    /// One way.
    pub delay: Duration,
    /// Up to this much more delay, drawn per packet; packets keep their order all the same.
    pub jitter: Duration,
    /// Packets that would wait behind more than this are dropped. A host's own streams wait at its
    /// uplink without loss (the kernel holds them back); its datagrams are dropped there.
    pub queue_bytes: u64,
    pub loss_ppm: u32,
    /// So many packets arrive late by up to one more delay plus jitter (at least 1 ms) and are overtaken.
    pub reorder_ppm: u32,
    /// Datagrams that wait for longer than this are marked (RFC 3168) if they may be. `None`: it knows no marks.
    pub marks_after: Option<Duration>,
}

impl LinkSpec {
    /// Gigabit Ethernet through one switch.
    pub const LAN: Self = Self::rate(125_000_000);

    /// A link of this rate, 100 µs long, with a queue of 1 MiB and no faults.
    pub const fn rate(bytes_per_s: u64) -> Self {
        Self {
            rate_bytes_per_s: bytes_per_s,
            delay: Duration::from_micros(100),
            jitter: Duration::ZERO,
            queue_bytes: 1024 * 1024,
            loss_ppm: 0,
            reorder_ppm: 0,
            marks_after: None,
        }
    }

    #[must_use]
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    #[must_use]
    pub const fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    #[must_use]
    pub const fn queue(mut self, bytes: u64) -> Self {
        self.queue_bytes = bytes;
        self
    }

    #[must_use]
    pub const fn loss_ppm(mut self, ppm: u32) -> Self {
        self.loss_ppm = ppm;
        self
    }

    #[must_use]
    pub const fn marks_after(mut self, wait: Duration) -> Self {
        self.marks_after = Some(wait);
        self
    }

    #[must_use]
    pub const fn reorder_ppm(mut self, ppm: u32) -> Self {
        self.reorder_ppm = ppm;
        self
    }
}

impl Default for LinkSpec {
    fn default() -> Self {
        Self::LAN
    }
}

/// How a host's clocks differ from the world's.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockSpec {
    /// Wall clock error in microseconds.
    pub offset_us: i64,
    /// How much faster its clocks run.
    pub drift_ppm: i32,
    /// Local time zone.
    pub utc_offset_s: i32,
}

/// What a power cut does to writes that were not synced. A killed process loses none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerCut {
    /// All of them are gone.
    LosesUnsynced,
    /// Each is kept or lost, by lot.
    KeepsSome,
    KeepsAll,
}

#[derive(Clone, Copy, Debug)]
pub struct DiskSpec {
    pub read_bytes_per_s: u64,
    pub write_bytes_per_s: u64,
    /// Of every operation; operations overlap in it.
    pub latency: Duration,
    /// Up to this much more, drawn per operation: completions come out of order.
    pub jitter: Duration,
    /// Of every sync and replace, on top; the device does nothing else meanwhile.
    pub sync: Duration,
    pub capacity_bytes: u64,
    pub power_cut: PowerCut,
}

impl Default for DiskSpec {
    /// A SATA SSD.
    fn default() -> Self {
        Self {
            read_bytes_per_s: 500_000_000,
            write_bytes_per_s: 450_000_000,
            latency: Duration::from_micros(80),
            jitter: Duration::ZERO,
            sync: Duration::from_millis(2),
            capacity_bytes: 1 << 40,
            power_cut: PowerCut::LosesUnsynced,
        }
    }
}

/// How fast a host hashes.
#[derive(Clone, Copy, Debug)]
pub struct HashSpec {
    pub bytes_per_s: u64,
    pub latency: Duration,
}

impl Default for HashSpec {
    fn default() -> Self {
        Self {
            bytes_per_s: 1_000_000_000,
            latency: Duration::from_micros(20),
        }
    }
}

/// How the bytes of a stream are cut into `Received`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// As they were sent and as segments arrived; nothing is copied.
    AsSent,
    /// Additionally cut at random places.
    Chopped,
    /// What is there comes in one read, across the borders of sends (copied when it must be).
    Merged,
}

/// The transport, the same for all hosts.
#[derive(Clone, Copy, Debug)]
pub struct NetSpec {
    /// Largest segment of a stream. Larger is faster to simulate, smaller is truer.
    pub segment_bytes: u32,
    /// Bytes a receiver's kernel holds unread before it stops the sender.
    pub receive_buffer: u64,
    /// Largest send buffer; it is twice the congestion window, as Linux has it, up to this.
    pub send_buffer_max: u64,
    pub connect_timeout: Duration,
    /// A stream whose bytes are not acknowledged for so long is `TimedOut`.
    pub stream_timeout: Duration,
    pub name_lookup: Duration,
    /// Largest datagram payload; larger ones are dropped.
    pub datagram_max: usize,
    /// Of datagrams not yet on the wire; beyond it the socket is not writable.
    pub datagram_buffer: u64,
    pub reads: Reads,
    /// Receivers wait for a second segment, or a while, before they acknowledge (RFC 5681 §4.2), as kernels do.
    pub delayed_acks: bool,
    /// TCP time stamps: with them a receiver knows round trips.
    pub time_stamps: bool,
    /// [`crate::machine::Shape::receive_window_bytes`] has an effect.
    pub can_bound_receiving: bool,
}

impl Default for NetSpec {
    fn default() -> Self {
        Self {
            segment_bytes: 16 * 1024,
            receive_buffer: 4 * 1024 * 1024,
            send_buffer_max: 4 * 1024 * 1024,
            connect_timeout: CONNECT_TIMEOUT,
            stream_timeout: Duration::from_secs(60),
            name_lookup: Duration::from_millis(5),
            datagram_max: 1472,
            datagram_buffer: 64 * 1024,
            reads: Reads::AsSent,
            delayed_acks: false,
            time_stamps: true,
            can_bound_receiving: true,
        }
    }
}

/// One host.
#[derive(Clone, Debug)]
pub struct HostSpec {
    pub addr: IpAddr,
    /// Its address of the other family, if it has one; that of IPv6 is valid everywhere.
    pub other_addr: Option<IpAddr>,
    pub up: LinkSpec,
    pub down: LinkSpec,
    pub clock: ClockSpec,
    pub disk: DiskSpec,
    pub hash: HashSpec,
    /// Behind this site's router, if any.
    pub site: Option<SiteId>,
    /// Bound at each start, in this order.
    pub listen: Vec<(Listener, u16)>,
    /// A firewall before it: streams cannot be opened to it, and who tries hears nothing.
    pub drops_streams: bool,
}

impl HostSpec {
    /// A host on a LAN with an SSD and a right clock that listens nowhere.
    ///
    /// # Panics
    /// If `addr` is no IP address.
    pub fn at(addr: &str) -> Self {
        let addr = addr.parse().expect("an IP address");
        Self {
            addr,
            other_addr: None,
            up: LinkSpec::LAN,
            down: LinkSpec::LAN,
            clock: ClockSpec::default(),
            disk: DiskSpec::default(),
            hash: HashSpec::default(),
            site: None,
            listen: Vec::new(),
            drops_streams: false,
        }
    }

    /// Give it an address of the other family, too.
    ///
    /// # Panics
    /// If `addr` is no IP address, or of the family of the first.
    #[must_use]
    pub fn and(mut self, addr: &str) -> Self {
        let addr: IpAddr = addr.parse().expect("an IP address");
        assert_ne!(addr.is_ipv4(), self.addr.is_ipv4(), "one of each family");
        self.other_addr = Some(addr);
        self
    }

    #[must_use]
    pub fn listen(mut self, listener: Listener, port: u16) -> Self {
        self.listen.push((listener, port));
        self
    }

    #[must_use]
    pub fn drops_streams(mut self) -> Self {
        self.drops_streams = true;
        self
    }

    #[must_use]
    pub fn links(mut self, up: LinkSpec, down: LinkSpec) -> Self {
        self.up = up;
        self.down = down;
        self
    }

    #[must_use]
    pub fn clock(mut self, clock: ClockSpec) -> Self {
        self.clock = clock;
        self
    }

    #[must_use]
    pub fn disk(mut self, disk: DiskSpec) -> Self {
        self.disk = disk;
        self
    }

    #[must_use]
    pub fn hash(mut self, hash: HashSpec) -> Self {
        self.hash = hash;
        self
    }

    #[must_use]
    pub fn site(mut self, site: SiteId) -> Self {
        self.site = Some(site);
        self
    }
}
