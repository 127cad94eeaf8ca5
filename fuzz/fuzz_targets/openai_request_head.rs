#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| derouter_openai::fuzz::request_head(data));
