//! See `context-manager-test-fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| context_manager_test_fuzz::run("embeddings", data));
