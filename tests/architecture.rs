//! The borders: which crate may know which, and what the pure ones may not touch. Over `cargo metadata`, direct
//! dependencies. Source: docs/ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|p| {
            let direct = p["dependencies"].as_array().expect("dependencies").iter();
            let direct = direct.filter(|d| d["kind"] != "dev").map(|d| d["name"].as_str().expect("a name").to_owned());
            (p["name"].as_str().expect("a name").to_owned(), direct.collect())
        })
        .collect()
}

#[test]
fn arrows_run_only_where_the_house_has_them() {
    let all = dependencies();
    for (name, allowed) in ARROWS {
        let ours = all[*name].iter().filter(|d| all.contains_key(*d));
        for known in ours {
            assert!(allowed.contains(&known.as_str()), "{name} must not know {known}");
        }
    }
    for name in all.keys().filter(|n| !matches!(n.as_str(), "thalweg-tests" | "thalweg-bench")) {
        assert!(ARROWS.iter().any(|(n, _)| n == name), "{name} has no place in the house yet");
    }
}

#[test]
fn pure_crates_stay_pure() {
    let all = dependencies();
    for name in PURE {
        for known in all[*name].iter().filter(|d| !all.contains_key(*d)) {
            // raft-rs is the one exception, fenced by replica; slog is what it asks for.
            let fenced = *name == "thalweg-replica" && matches!(known.as_str(), "raft" | "slog");
            assert!(fenced || PURE_ALLOWED.contains(&known.as_str()), "{name} must not know {known}");
        }
    }
}

/// The packages below `package`, with the features that they get when `selection` is built.
fn features(selection: &[&str], package: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = |arguments: &[&str]| {
        let mut command = Command::new(&cargo);
        command.args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--format"]).args(arguments);
        let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
        let text = String::from_utf8(output.stdout).expect("names are text");
        text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect::<BTreeSet<String>>()
    };
    let below = tree(&["{p}", "--package", package]);
    let all = tree(&[&["{p}|{f}"], selection].concat());
    let is_below = |line: &String| line.split_once('|').is_some_and(|(p, _)| below.contains(p));
    all.into_iter().filter(is_below).collect()
}

/// Whoever installs a binding alone, as pip does, finds wasmtime built already: three minutes of compiling.
#[test]
fn wasmtime_has_the_same_features_in_the_workspace_and_in_a_binding_alone() {
    let whole = features(&["--workspace"], "wasmtime");
    assert!(whole.iter().any(|l| l.starts_with("cranelift-codegen ")), "{whole:?}");
    for binding in ["thalweg-python", "thalweg-node"] {
        let alone = features(&["--package", binding], "wasmtime");
        let differs: Vec<_> = whole.symmetric_difference(&alone).collect();
        assert!(differs.is_empty(), "{binding} alone: {differs:?}; see crates/plugin-host/Cargo.toml");
    }
}

/// Those of them that are on when `selection` is built, with dependencies of these kinds.
fn features_of_tests(selection: &[&str], kinds: &str) -> BTreeSet<&'static str> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["tree", "--offline", "--prefix", "none", "--edges", kinds]).args(selection);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).expect("names are text");
    let is_on = |feature: &str| tree.lines().any(|line| line.starts_with(feature));
    OF_TESTS.iter().copied().filter(|feature| is_on(feature)).collect()
}

/// The planted bugs, a disk in memory, brokers for tests: nothing that is built to be used has them. The workspace's
/// build is among what is asked, because the demo, the end-to-end tests and the benches run what it makes.
#[test]
fn nothing_that_is_built_to_be_used_has_a_feature_of_the_tests() {
    for selection in [
        &["--workspace"][..],
        &["--package", "thalweg-cli"],
        &["--package", "thalweg-python"],
        &["--package", "thalweg-node"],
        &["--package", "thalweg"],
    ] {
        let on = features_of_tests(selection, "features,normal,build");
        assert!(on.is_empty(), "{selection:?} is built with {on:?}: only a dev-dependency may ask for that");
    }
    let tested = features_of_tests(&["--workspace"], "features,normal,build,dev");
    assert_eq!(tested.len(), OF_TESTS.len(), "the tests are built with {tested:?} alone");
}

#[test]
fn pure_crates_name_no_clock_chance_socket_or_file() {
    const FORBIDDEN: &[&str] =
        &["Instant::now", "SystemTime", "std::net", "std::fs", "std::thread", "tokio", "quinn", "wasmtime", "rand::"];
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    for name in PURE {
        let folder = root.join("crates").join(name.trim_start_matches("thalweg-")).join("src");
        for file in walk(&folder) {
            let text = std::fs::read_to_string(&file).expect("source is text");
            let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
            for (line, forbidden) in code.flat_map(|l| FORBIDDEN.iter().map(move |f| (l, f))) {
                assert!(!line.contains(forbidden), "{}: {line}", file.display());
            }
        }
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the crate has sources").map(|e| e.expect("readable").path());
    entries.flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] }).collect()
}

/// What cargo does not know of: the packages of the other languages are published together.
#[test]
fn every_package_has_the_version_of_the_workspace() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, line) in [
        ("sdk-node/package.json", format!("\"version\": \"{version}\"")),
        ("sdk-python/pyproject.toml", format!("cli = [\"thalweg-cli=={version}\"]")),
    ] {
        assert!(read(file).contains(&line), "{file} does not say {line}");
    }
}

fn read(file: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What cargo knows of the client, its page and its guide say too.
#[test]
fn the_page_of_the_rust_client_says_how_to_get_it() {
    let page: String = read("sdk-rust/src/lib.rs").lines().filter_map(|l| l.strip_prefix("//!")).collect();
    let guide = read("docs/guides/rust.md");
    let oldest = format!("Rust {} or later", env!("CARGO_PKG_RUST_VERSION"));
    for text in [&page, &guide] {
        assert!(text.contains("thalweg = {") && text.contains(&oldest), "{text}");
    }
    let manifest = read("sdk-rust/Cargo.toml");
    let features = manifest.split("[features]").nth(1).and_then(|rest| rest.split("\n[").next()).expect("features");
    let names = features.lines().filter_map(|line| Some(line.split_once(" = ")?.0)).filter(|name| *name != "default");
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "the page does not say what the feature {name} is for");
    }
}

/// A new error code or option is no new major version of the client.
#[test]
fn what_may_grow_is_not_exhaustive() {
    for (file, items) in [
        ("crates/api/src/error.rs", &["enum ErrorKind", "enum ErrorCode"][..]),
        ("crates/client-core/src/consumer.rs", &["struct Counts"]),
        ("crates/model/src/codec/kind.rs", &["enum Codec"]),
        ("crates/model/src/choice.rs", &["enum OnFailure", "enum Acks", "enum Position"]),
        ("sdk-rust/src/consumer/rebalance.rs", &["enum Rebalance"]),
        ("sdk-rust/src/consumer/out_of_range.rs", &["enum OnOutOfRange"]),
        ("sdk-rust/src/batch.rs", &["enum OnBadRecord"]),
        ("sdk-rust/src/producer/receipt.rs", &["struct Delivery"]),
    ] {
        let text = read(file);
        for item in items {
            let defined = text.split_once(&format!("pub {item} {{")).unwrap_or_else(|| panic!("{file} has no {item}"));
            let mut above =
                defined.0.trim_end().lines().rev().take_while(|line| line.trim_start().starts_with(['#', '/']));
            assert!(above.any(|line| line.trim() == "#[non_exhaustive]"), "{file}: {item}");
        }
    }
}

/// Crates, with their versions, that a build of the client without default features takes, on this platform.
fn crates_of_a_small_client() -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["tree", "--locked", "--offline", "--package", "thalweg", "--no-default-features"]);
    command.args(["--edges", "normal,build", "--prefix", "none", "--format", "{p}"]);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).expect("names are text");
    // `name v1.2.3`, and behind that a path, or that it is a macro or was shown before.
    tree.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

/// Every arrow that there may be: a crate and whom it may know.
const ARROWS: &[(&str, &[&str])] = &[
    ("thalweg-model", &[]),
    ("thalweg-api", &["thalweg-model"]),
    ("thalweg-wire", &["thalweg-model", "thalweg-api"]),
    ("thalweg-commit-log", &["thalweg-model"]),
    ("thalweg-control", &["thalweg-model", "thalweg-api"]),
    ("thalweg-plugin-host", &["thalweg-model"]),
    ("thalweg-quic", &["thalweg-wire"]),
    ("thalweg-replica", &["thalweg-model", "thalweg-api", "thalweg-commit-log"]),
    ("thalweg-client-core", &["thalweg-model", "thalweg-api"]),
    (
        "thalweg-broker-core",
        &["thalweg-model", "thalweg-api", "thalweg-commit-log", "thalweg-replica", "thalweg-control"],
    ),
    (
        "thalweg-broker",
        &[
            "thalweg-model",
            "thalweg-api",
            "thalweg-wire",
            "thalweg-commit-log",
            "thalweg-replica",
            "thalweg-broker-core",
            "thalweg-control",
            "thalweg-plugin-host",
            "thalweg-quic",
        ],
    ),
    (
        "thalweg",
        &["thalweg-model", "thalweg-api", "thalweg-wire", "thalweg-client-core", "thalweg-plugin-host", "thalweg-quic"],
    ),
    ("thalweg-cli", &["thalweg-model", "thalweg-broker", "thalweg", "thalweg-plugin-host"]),
    ("thalweg-python", &["thalweg"]),
    ("thalweg-node", &["thalweg"]),
    ("thalweg-demo", &["thalweg", "thalweg-model"]),
    ("thalweg-sim", PURE),
    ("xtask", &[]),
];

/// Crates that read no clock, own no socket and draw no chance.
const PURE: &[&str] = &[
    "thalweg-model",
    "thalweg-api",
    "thalweg-wire",
    "thalweg-commit-log",
    "thalweg-replica",
    "thalweg-broker-core",
    "thalweg-control",
    "thalweg-client-core",
];

/// What a pure crate may know from outside. A list of what is allowed, so that nothing new slips in.
const PURE_ALLOWED: &[&str] = &[
    "bytes",
    "crc32c",
    "flate2",
    "lz4",
    "snap",
    "zstd",
    "thiserror",
    "uuid",
    "prost",
    // Patterns of topics.
    "regex-lite",
    "sha2",
];

/// Features that are there for tests alone, as `cargo tree` shows them.
const OF_TESTS: &[&str] =
    &["thalweg-model feature \"mutants\"", "thalweg-commit-log feature \"testing\"", "thalweg feature \"testing\""];

/// Whoever builds a client builds neither a compiler of protobuf nor what a default feature brings.
#[test]
fn nothing_below_a_small_client_is_built_for_what_it_does_without() {
    let crates = crates_of_a_small_client();
    assert!(crates.iter().any(|c| c.starts_with("thalweg-wire ")), "{crates:?}");
    for name in ["prost-build", "prost-derive", "protox", "wasmtime", "zstd", "lz4", "flate2", "snap", "indexmap"] {
        assert!(!crates.iter().any(|c| c.starts_with(&format!("{name} "))), "a client without features builds {name}");
    }
    assert!(!crates.iter().any(|c| c.starts_with("rustls-native-certs ")), "the platform's roots are a feature");
}

/// docs/guides/rust.md says so. Each crate is one to trust, to wait for, and to keep up with.
#[test]
fn a_small_client_takes_fewer_than_70_crates() {
    let crates = crates_of_a_small_client();
    assert!(crates.len() < 70, "{} crates: {crates:#?}", crates.len());
    assert!(read("docs/guides/rust.md").contains("fewer than 70 crates"), "the guide names another number");
}
