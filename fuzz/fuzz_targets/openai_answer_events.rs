#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| derouter_openai::fuzz::answer_events(data));
