//! The congestion controllers and the group of background flows, under whatever a path may say.

use arbitrary::{Arbitrary, Unstructured};
use core::net::IpAddr;
use core::time::Duration;
use dovetail_core::congestion::{Ack, Controller, Group};
use dovetail_core::time::Mono;

#[derive(Arbitrary, Debug)]
enum Op {
    Ack {
        flow: u8,
        after_us: u32,
        bytes: u64,
        rtt_us: u64,
        one_way_us: Option<u32>,
        is_window_limited: bool,
        may_be_late: bool,
    },
    /// As a path behaves: short steps, full segments.
    Steady {
        flow: u8,
        rtt_ms: u8,
        segments: u8,
    },
    Loss(u8),
    Timeout(u8),
    LearnBase(u64),
    Wait(u32),
    Add {
        flow: u8,
        kind: u8,
        segment_bytes: u32,
        base_us: Option<u64>,
    },
    Remove(u8),
    Forget,
}

/// Windows stay within bounds and nothing overflows, whatever the samples are.
pub fn ops(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut group = Group::default();
    let mut now = Mono::ZERO;
    while !input.is_empty()
        && let Ok(op) = Op::arbitrary(&mut input)
    {
        match op {
            Op::Ack {
                flow,
                after_us,
                bytes,
                rtt_us,
                one_way_us,
                is_window_limited,
                may_be_late,
            } => {
                now = now + Duration::from_micros(after_us.into());
                let ack = Ack {
                    bytes,
                    rtt_us,
                    one_way_us,
                    is_window_limited,
                    may_be_late,
                };
                group.on_ack(now, flow % 8, ack);
            }
            Op::Steady {
                flow,
                rtt_ms,
                segments,
            } => {
                for _ in 0..segments {
                    now = now + Duration::from_millis(rtt_ms.into()) / 4;
                    let ack = Ack {
                        bytes: 1448,
                        rtt_us: u64::from(rtt_ms) * 1000,
                        one_way_us: None,
                        is_window_limited: true,
                        may_be_late: false,
                    };
                    group.on_ack(now, flow % 8, ack);
                }
            }
            Op::Loss(flow) => group.on_loss(now, flow % 8),
            Op::Timeout(flow) => group.on_timeout(now, flow % 8),
            Op::LearnBase(base_us) => {
                let mut alone = Controller::ledbat_plus_plus(1448, None);
                alone.learn_base(base_us);
                alone.check();
            }
            Op::Wait(ms) => {
                now = now + Duration::from_millis(ms.into());
                group.on_tick(now);
            }
            Op::Add {
                flow,
                kind,
                segment_bytes,
                base_us,
            } => {
                let remote = IpAddr::from([10, 0, flow % 3, 1]);
                match kind % 4 {
                    0 => group.add_as(flow % 8, remote, Controller::ledbat(segment_bytes)),
                    1 => group.add_as(flow % 8, remote, Controller::fixed(segment_bytes.into())),
                    2 => {
                        let own = Controller::ledbat_plus_plus(segment_bytes, base_us);
                        group.add_as(flow % 8, remote, own);
                    }
                    _ => group.add(now, flow % 8, remote, segment_bytes),
                }
            }
            Op::Remove(flow) => group.remove(flow % 8),
            Op::Forget => group.forget_paths(),
        }
        group.check();
    }
}
