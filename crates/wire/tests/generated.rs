//! `src/thalweg.rs` is what `src/thalweg.proto` says. `THALWEG_BLESS=1 cargo test -p thalweg-wire --test generated`
//! writes it anew.

use std::path::Path;

#[test]
fn the_messages_are_those_of_the_proto_file() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let made = tempfile::tempdir().unwrap();
    let files = protox::compile([source.join("thalweg.proto")], [&source]).unwrap();
    prost_build::Config::new().bytes(["."]).out_dir(made.path()).compile_fds(files).unwrap();
    let made = std::fs::read_to_string(made.path().join("thalweg.rs")).unwrap();
    let there = source.join("thalweg.rs");
    if std::env::var_os("THALWEG_BLESS").is_some() {
        return std::fs::write(there, made).unwrap();
    }
    let is_current = std::fs::read_to_string(there).is_ok_and(|there| there == made);
    assert!(
        is_current,
        "crates/wire/src/thalweg.rs is not what thalweg.proto says: `THALWEG_BLESS=1 cargo test -p thalweg-wire \
         --test generated`"
    );
}
