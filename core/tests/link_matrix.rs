//! One background flow alone on every kind of line: in no cell does it starve, and in none does its window stay at
//! the floor. Random loss is taken for congestion, as Reno does: there the bar is near half of Reno's own (Mathis et al., 1997).
use core::time::Duration;
use dovetail_core::congestion::Controller;
use dovetail_core::sim::{Dumbbell, LineSpec, SEGMENT_BYTES, Sender};

/// What Reno gets at this rate of loss, in bits a second.
fn reno(rtt_ms: u64, loss_ppm: u32) -> f64 {
    let loss = f64::from(loss_ppm) / 1e6;
    1.22 * 1500.0 * 8.0 / (rtt_ms as f64 / 1e3 * loss.sqrt())
}

fn rate(rtt_ms: u64, mbit: u64, loss_ppm: u32, half_bdps: u64) -> (f64, u64) {
    let bdp = mbit * 125 * rtt_ms;
    let line = LineSpec {
        bits_per_s: mbit * 1_000_000,
        rtt: Duration::from_millis(rtt_ms),
        // Three packets at least: less is no queue.
        queue_bytes: (bdp * half_bdps / 2).max(4500),
        loss_ppm,
        jitter: Duration::ZERO,
    };
    let mut d = Dumbbell::new(line, 7);
    let controller = Controller::ledbat_plus_plus(SEGMENT_BYTES, None);
    let flow = d.add(Sender::Controlled(Box::new(controller)), Duration::ZERO);
    let (from, to) = (10, 30 + rtt_ms / 5);
    let mut largest = 0;
    for second in 0..to {
        d.run_to(Duration::from_secs(second + 1));
        if second >= from {
            largest = d.window_bytes(flow).max(largest);
        }
    }
    let (from, to) = (Duration::from_secs(from), Duration::from_secs(to));
    (d.bits_per_s(flow, from, to) as f64, largest)
}

#[test]
fn no_cell_starves() {
    let mut cells = 0;
    for rtt_ms in [2, 10, 50, 250] {
        for mbit in [1, 10, 50, 200] {
            for loss_ppm in [0, 1000, 10_000, 30_000] {
                for half_bdps in [1, 2, 4, 8] {
                    let (got, largest) = rate(rtt_ms, mbit, loss_ppm, half_bdps);
                    let line = mbit as f64 * 1e6;
                    // Slow start has seen the end of the line only after many round trips where it is long and fat.
                    let whole = if rtt_ms == 250 { 0.5 } else { 0.9 };
                    let bar = if loss_ppm == 0 {
                        whole * line
                    } else {
                        (0.75 * line).min(0.45 * reno(rtt_ms, loss_ppm))
                    };
                    let cell = format!(
                        "{rtt_ms} ms, {mbit} Mbit/s, {loss_ppm} ppm lost, queue of {half_bdps} half BDPs"
                    );
                    assert!(
                        got >= bar,
                        "{cell}: {got:.0} of {line:.0} bit/s, bar {bar:.0}"
                    );
                    let bdp = mbit * 125 * rtt_ms;
                    let floor = 2 * u64::from(SEGMENT_BYTES);
                    assert!(largest > floor || bdp < 2 * floor, "{cell}: at the floor");
                    cells += 1;
                }
            }
        }
    }
    assert_eq!(cells, 256);
}
