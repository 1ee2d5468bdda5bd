#![cfg_attr(fuzzing, no_main)]
#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dovetail_fuzz::port_map::answer(data));
#[cfg(not(fuzzing))]
fn main() {}
