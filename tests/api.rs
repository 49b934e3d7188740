//! What users of the Rust client are shown: nothing of it names a type that is not theirs to name. Over rustdoc's JSON,
//! whose documentation builds without a warning besides.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The documentation of `thalweg` as JSON.
fn documentation(target: &Path) -> Value {
    // The format is for nightly compilers; this is the one way to have it from the one that builds everything else, and
    // no crate is built anew for it.
    let wrapper = target.join("rustdoc-json.sh");
    std::fs::write(&wrapper, "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec \"${THALWEG_RUSTDOC:-rustdoc}\" \"$@\"\n").unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let rustdoc = std::env::var_os("RUSTDOC").unwrap_or_else(|| "rustdoc".into());
    let mut command = Command::new(cargo);
    // What cargo says of this package to its test: build scripts that look at the like would run anew.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|n| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    let cargo_says = "rustdoc --quiet --offline --profile fast --package thalweg --features testing";
    let rustdoc_says = "-Z unstable-options --output-format json --deny warnings";
    let output = command
        .args(cargo_says.split(' ').chain(["--"]).chain(rustdoc_says.split(' ')))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("RUSTDOC", &wrapper)
        .env("THALWEG_RUSTDOC", rustdoc)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&std::fs::read(target.join("doc/thalweg.json")).expect("it is written")).expect("JSON")
}

/// Ids of the types that something names.
fn named(what: &Value, ids: &mut BTreeSet<u64>) {
    match what {
        Value::Array(all) => all.iter().for_each(|v| named(v, ids)),
        Value::Object(fields) => {
            for (key, value) in fields {
                if matches!(&key[..], "resolved_path" | "trait" | "trait_") {
                    ids.extend(value["id"].as_u64());
                }
                named(value, ids);
            }
        }
        _ => {}
    }
}

/// Made once for all tests.
fn docs() -> &'static Value {
    static DOCS: std::sync::OnceLock<Value> = std::sync::OnceLock::new();
    DOCS.get_or_init(|| {
        // `…/fast/deps/api-…`
        let program = std::env::current_exe().unwrap();
        documentation(program.ancestors().nth(3).expect("in the target folder"))
    })
}

/// Structs or enums of the client itself, without those that are hidden.
fn types(kind: &str) -> Vec<&'static Value> {
    let items = docs()["index"].as_object().expect("an index").values();
    items.filter(|item| item["crate_id"] == 0 && item["inner"][kind].is_object()).collect()
}

fn has_public_fields(item: &Value) -> bool {
    item["inner"]["struct"]["kind"]["plain"]["fields"].as_array().is_some_and(|fields| !fields.is_empty())
}

fn names(items: impl Iterator<Item = &'static Value>) -> Vec<&'static str> {
    items.map(|item| item["name"].as_str().unwrap_or("?")).collect()
}

/// Crates whose types may stand in signatures: users have them, or will want them.
const SHOWN: &[&str] =
    &["std", "core", "alloc", "bytes", "serde", "serde_core", "serde_json", "futures_core", "thalweg"];

#[test]
fn fields_and_choices_may_be_added() {
    // With a field that is private, nobody makes one or takes it apart.
    let is_open = |item: &&Value| {
        has_public_fields(item) && item["inner"]["struct"]["kind"]["plain"]["has_stripped_fields"] != true
    };
    let open = types("struct").into_iter().filter(is_open).chain(types("enum"));
    let closed = names(open.filter(|item| !item["attrs"].to_string().contains("non_exhaustive")));
    assert!(closed.is_empty(), "these can be taken apart or made by users: {closed:?}");
}

/// What a user calls, and does not only read.
#[test]
fn every_type_with_methods_alone_has_an_example() {
    let opaque: Vec<_> = types("struct").into_iter().filter(|item| !has_public_fields(item)).collect();
    assert!(opaque.len() > 12, "{} are few: has the format changed?", opaque.len());
    let lacks = names(opaque.into_iter().filter(|item| !item["docs"].as_str().unwrap_or_default().contains("```")));
    assert!(lacks.is_empty(), "without an example: {lacks:?}");
}

#[test]
fn the_clients_public_types_name_no_internal_one() {
    let docs = docs();
    let index = docs["index"].as_object().expect("an index");
    let name = |item: &Value| item["name"].as_str().unwrap_or("?").to_owned();
    // What is handed on from other crates of the house under the client's name.
    let handed_on: BTreeSet<u64> = index.values().filter_map(|item| item["inner"]["use"]["id"].as_u64()).collect();
    let mut strangers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut looked_at = 0;
    for item in index.values().filter(|item| item["crate_id"] == 0) {
        let inner = &item["inner"];
        // Of traits that are implemented for everything, and of those that the compiler adds, nobody here has chosen
        // the words.
        let is_given = |kind: &str| inner["impl"][kind] == true || inner["impl"]["blanket_impl"].is_object();
        if is_given("is_synthetic") || inner["module"].is_object() || inner["use"].is_object() {
            continue;
        }
        looked_at += 1;
        let mut ids = BTreeSet::new();
        named(inner, &mut ids);
        for id in ids.iter().filter(|id| !handed_on.contains(id)) {
            let Some(path) = docs["paths"][id.to_string()]["path"].as_array() else { continue };
            let path: Vec<&str> = path.iter().filter_map(Value::as_str).collect();
            if path.first().is_some_and(|of| !SHOWN.contains(of)) {
                strangers.entry(path.join("::")).or_default().insert(name(item));
            }
        }
    }
    assert!(looked_at > 300, "{looked_at} items are few: has the format changed?");
    assert!(
        strangers.is_empty(),
        "these are no user's to name, and stand in the public items behind them: {strangers:#?}"
    );
}
