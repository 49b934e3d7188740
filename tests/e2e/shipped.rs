//! What the broker of these tests is made of: what people get.

use thalweg_tests::process::thalweg;

/// tests/architecture.rs holds that no manifest asks for the switch of the planted bugs; here the program itself is
/// looked at, whatever command has built it.
#[test]
fn no_bug_can_be_planted_in_the_broker_that_is_tested() {
    let program = std::fs::read(thalweg()).expect("the built broker");
    let has = |symbol: &[u8]| program.windows(symbol.len()).any(|at| at == symbol);
    assert!(has(b"thalweg_broker_core"), "it has no symbols: what it is made of cannot be seen");
    assert!(!has(b"7planted7PLANTED"), "it is built with the feature `mutants`: build it with `cargo build`");
}
