//! The simulator: real [`crate::machine::Machine`]s in virtual time.
//!
//! A [`World`] holds hosts; each runs one machine behind its own links, clocks and disk. The world jumps
//! from event to event, exactly to each machine's deadline and never earlier, and checks the boundary's
//! contract as it goes: credit, one answer per order, one `Closed` per stream.
//! The same seed and the same calls give the same run, byte for byte ([`World::digest`]), in whatever
//! order hosts were added. A failing run prints its seed; `SIM_SEED=n` replays it ([`seeds`]) and
//! `SIM_TRACE=dir` writes what every machine heard and said.
//!
//! Payload is never copied: slices of one buffer travel through, so a hundred hosts that hold the same
//! file hold it once, and hash it once ([`World::share`]).
//!
//! Hosts may stand behind a site's router and its NAT ([`World::site`], [`World::nat`]): several sites may then have the
//! same private network.
//!
//! Not modelled: single packets inside a segment, loss of handshakes and acknowledgements, CPU time.

#![expect(
    clippy::expect_used,
    reason = "test equipment: a broken invariant must stop the run"
)]

pub mod arb;
mod bases;
mod clock;
mod conn;
mod disk;
mod dumbbell;
mod event;
mod extents;
mod flow;
mod host;
mod journal;
mod link;
mod nat;
pub mod origin;
mod rivals;
mod run;
mod shaping;
mod spec;
pub mod toys;
mod transmit;
mod work;
mod world;

pub use disk::{Disk, DiskCounters, DiskFaults};
pub use dumbbell::{Dumbbell, FlowId, LineSpec, SEGMENT_BYTES, Sender};
pub use link::LinkCounters;
pub use nat::{Filtering, Mapping, NatSpec};
pub use origin::FaultyOrigin;
pub use spec::{ClockSpec, DiskSpec, HashSpec, HostSpec, LinkSpec, NetSpec, PowerCut, Reads};
pub use world::{Call, HostId, Kill, SimMachine, SiteId, Stuck, World, seeds};
