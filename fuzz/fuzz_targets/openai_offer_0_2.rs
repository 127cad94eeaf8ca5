#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| derouter_openai::fuzz::offer_0_2(data));
