#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| derouter_net::fuzz::addresses(data));
