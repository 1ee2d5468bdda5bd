//! Property tests with `arbitrary` alone: the same generators serve these tests and the fuzz targets.
//!
//! Draws bytes from a seed, lets the property build its values from them, and on a failure looks for the
//! shortest bytes that still fail. `SIM_SEED=n` runs only that seed.

use super::world::seeds;
use crate::rng::Rng;
pub use arbitrary::{Arbitrary, Error, Result, Unstructured};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::vec::Vec;

/// Longest input drawn.
const LEN_MAX: u64 = 4096;
/// Attempts to shorten a failing input.
const SHRINKS_MAX: u32 = 60;

/// Run `property` for seeds `1..=iterations`. It fails by panicking; an `Err` of it only says that the
/// bytes were too few for what it wanted to build.
///
/// # Panics
/// As the property does, on the shortest input found; the seed is printed.
pub fn check(name: &str, iterations: u64, property: impl Fn(&mut Unstructured<'_>) -> Result<()>) {
    for seed in seeds(1..=iterations) {
        let mut rng = Rng::from_u64(seed);
        let len = rng.below(LEN_MAX + 1);
        let mut bytes: Vec<u8> = (0..len.div_ceil(8))
            .flat_map(|_| rng.bytes::<8>())
            .collect();
        bytes.truncate(len as usize);
        if run(&property, &bytes).is_none() {
            continue;
        }
        let shortest = shrink(&property, bytes);
        std::eprintln!(
            "{name}: SIM_SEED={seed} fails; the shortest input found has {} bytes: {shortest:?}",
            shortest.len()
        );
        if let Some(panic) = run(&property, &shortest) {
            resume_unwind(panic);
        }
    }
}

type Panic = std::boxed::Box<dyn core::any::Any + Send>;

fn run(property: &impl Fn(&mut Unstructured<'_>) -> Result<()>, bytes: &[u8]) -> Option<Panic> {
    let attempt = || property(&mut Unstructured::new(bytes));
    catch_unwind(AssertUnwindSafe(attempt)).err()
}

/// Halve, then cut ever less off the end, then off the start.
fn shrink(property: &impl Fn(&mut Unstructured<'_>) -> Result<()>, mut bytes: Vec<u8>) -> Vec<u8> {
    let (mut tries, mut cut) = (0, bytes.len() / 2);
    while cut > 0 && tries < SHRINKS_MAX {
        let len = bytes.len();
        let shorter = [&bytes[..len.saturating_sub(cut)], &bytes[cut.min(len)..]];
        let failing = shorter.into_iter().find(|s| {
            tries += 1;
            s.len() < len && run(property, s).is_some()
        });
        match failing.map(<[u8]>::to_vec) {
            Some(found) => bytes = found,
            None => cut /= 2,
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    #[test]
    fn a_property_that_holds_is_tried_so_often() {
        let count = Cell::new(0);
        check("counts", 20, |u| {
            count.set(count.get() + 1);
            let a: u32 = u.arbitrary()?;
            assert_eq!(a.swap_bytes().swap_bytes(), a);
            Ok(())
        });
        assert!(count.get() == 20 || std::env::var("SIM_SEED").is_ok());
    }

    #[test]
    fn a_failing_property_fails_on_a_short_input() {
        let shortest = Cell::new(usize::MAX);
        let failed = catch_unwind(AssertUnwindSafe(|| {
            check("fails", 10, |u| {
                let bytes = Vec::<u8>::arbitrary(u)?;
                if bytes.len() > 3 {
                    shortest.set(shortest.get().min(bytes.len()));
                    panic!("more than three");
                }
                Ok(())
            });
        }));
        assert!(failed.is_err());
        assert!(shortest.get() <= 8, "{}", shortest.get());
    }
}
