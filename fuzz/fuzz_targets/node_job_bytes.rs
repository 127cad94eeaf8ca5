#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| derouter_node::fuzz::job_bytes(data));
