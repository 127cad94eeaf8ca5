#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| derouter_wire::fuzz::rpc_frame(data));
