//! `src/thalweg.rs` is what `src/thalweg.proto` says. `THALWEG_BLESS=1 cargo test -p thalweg-wire --test generated`
//! writes it anew.

use std::fmt::Write;
use std::path::Path;

#[test]
fn the_messages_are_those_of_the_proto_file() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let made = tempfile::tempdir().unwrap();
    let files = protox::compile([source.join("thalweg.proto")], [&source]).unwrap();
    prost_build::Config::new().bytes(["."]).out_dir(made.path()).compile_fds(files).unwrap();
    let made = underived(&std::fs::read_to_string(made.path().join("thalweg.rs")).unwrap());
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

/// What prost-build has made, with a call of `message!` in place of each derived `Message` (src/message.rs).
fn underived(made: &str) -> String {
    let mut out = String::new();
    let mut message = String::new();
    // Tag, and what `message!` is told of the field.
    let mut fields: Vec<(u32, String)> = Vec::new();
    let mut next = None;
    let mut messages = Vec::new();
    for line in made.lines() {
        if let Some(attributes) = line.trim().strip_prefix("#[prost(").and_then(|l| l.strip_suffix(")]")) {
            next = Some(field(attributes));
            continue;
        }
        let name = line.split_whitespace().nth(1).unwrap_or_default().trim_end_matches(':');
        if let Some((tag, kind)) = next.take() {
            fields.push((tag, format!("{tag} {name}: {kind}")));
        }
        if line.starts_with("pub struct ") {
            message = line.split_whitespace().nth(2).expect("a struct has a name").to_owned();
        }
        writeln!(out, "{}", line.replace("::prost::Message", "Debug, Default")).unwrap();
        if !message.is_empty() && line.ends_with('}') {
            // Fields are written in the order of their tags.
            fields.sort();
            messages.push(message.clone());
            let fields: Vec<String> = fields.drain(..).map(|(_, field)| field).collect();
            writeln!(out, "message!({message} {{ {} }});", fields.join(", ")).unwrap();
            message.clear();
        }
    }
    let rows: String = messages.chunks(8).map(|row| format!("            {}\n", row.join(" "))).collect();
    out += "/// Calls a macro with the names of all messages, in the order of the proto file.\n#[doc(hidden)]\n";
    out += "#[macro_export]\nmacro_rules! for_each_message {\n    ($callback:ident) => {\n        $callback! {\n";
    writeln!(out, "{rows}        }}\n    }};\n}}").unwrap();
    assert!(!out.contains("prost("), "`message!` knows no enums, oneofs and maps yet");
    out
}

/// Tag, kind and label of a field, from what prost-build tells prost-derive: `uint32, repeated, tag = "6"`.
fn field(attributes: &str) -> (u32, String) {
    let mut words = attributes.split(", ");
    let kind = words.next().expect("the kind stands first").split(" = ").next().expect("a word");
    let (mut tag, mut label) = (None, "");
    for word in words {
        match word.split_once(" = ") {
            None if word == "optional" => label = " optional",
            None if word == "repeated" && matches!(kind, "message" | "string" | "bytes") => label = " repeated",
            None if word == "repeated" => label = " packed",
            Some(("tag", number)) => tag = number.trim_matches('"').parse().ok(),
            _ => panic!("`message!` does not know {word} of {attributes}"),
        }
    }
    (tag.expect("every field has a tag"), format!("{kind}{label}"))
}
