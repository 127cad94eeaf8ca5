#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| derouter::fuzz::config(data));
