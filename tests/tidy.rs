//! What docs/STYLE.md asks for and neither rustfmt nor clippy holds. Each rule names the lines that break it.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The project's own files with one of these endings, by their paths from its root.
fn files(endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).expect("a folder of the project").map_while(Result::ok) {
            let name = entry.file_name().into_string().expect("names are ASCII");
            let is_built = ["target", "node_modules", "venv"].contains(&name.as_str()) || name.starts_with('.');
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            match entry.file_type().expect("it is there").is_dir() {
                true if !is_built => folders.push(path),
                false if endings.iter().any(|e| path.ends_with(e)) => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    // Written by a program.
    found.retain(|file| file != "crates/wire/src/thalweg.rs");
    found
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// Fails with the lines of these files of which `is_wrong` says so.
fn check(files: &[String], rule: &str, is_wrong: impl Fn(&str) -> bool) {
    let mut wrong = Vec::new();
    for file in files {
        let text = read(file);
        let lines = text.lines().enumerate().filter(|(_, line)| is_wrong(line));
        wrong.extend(lines.map(|(number, line)| format!("{file}:{}: {}", number + 1, line.trim())));
    }
    assert!(wrong.is_empty(), "{rule}:\n{}", wrong.join("\n"));
}

#[test]
fn no_line_of_rust_is_wider_than_code_may_be() {
    let is_wide = |line: &str| line.chars().count() > COLUMNS_MAX;
    check(&files(&[".rs"]), "wider than 120 columns", is_wide);
}

/// A broker is no he, and a user need not be.
#[test]
fn nothing_and_nobody_is_a_he() {
    let is_one = |line: &str| {
        let words = line.split(|c: char| !c.is_ascii_alphabetic()).map(str::to_ascii_lowercase);
        words.into_iter().any(|word| ["he", "his", "him", "himself"].contains(&word.as_str()))
    };
    let mut all = files(&[".rs", ".md", ".py", ".js", ".mjs", ".ts"]);
    all.retain(|file| file != "tests/tidy.rs");
    check(&all, "say it, they, or who is meant", is_one);
}

/// A file that a document or a comment names between backquotes, or links to, is there.
#[test]
fn what_documents_name_is_there() {
    let mut missing = Vec::new();
    for file in files(&[".md"]) {
        let folder = Path::new(&file).parent().expect("it is a file").to_owned();
        for target in links(&read(&file)) {
            let (path, _) = target.split_once('#').unwrap_or((&target, ""));
            let is_elsewhere = path.is_empty() || path.contains("://");
            if !is_elsewhere && !root().join(&folder).join(path).exists() {
                missing.push(format!("{file} links to {path}"));
            }
        }
    }
    for file in files(&[".rs", ".md"]) {
        for path in named_paths(&read(&file)) {
            if !root().join(&path).exists() {
                missing.push(format!("{file} names {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// What stands in the brackets of `[words](here)`.
fn links(text: &str) -> Vec<String> {
    let behind = text.split("](").skip(1);
    behind.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).filter(|target| !target.contains(' ')).collect()
}

/// Paths of documents from the project's root, as comments name them.
fn named_paths(text: &str) -> Vec<String> {
    let is_of_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let words = text.split(|c: char| !is_of_path(c));
    let paths = words.filter(|word| word.starts_with("docs/") && word.ends_with(".md"));
    paths.map(str::to_owned).collect()
}

#[test]
fn links_and_paths_are_found() {
    assert_eq!(links("see [a](docs/STYLE.md#b), [c](https://d) and f](g h)"), ["docs/STYLE.md#b", "https://d"]);
    assert_eq!(named_paths("Source: docs/STYLE.md; `docs/x`, adocs/y.md"), ["docs/STYLE.md"]);
}

#[test]
fn what_is_public_is_documented_in_more_than_a_word_or_two() {
    let mut all = files(&[".rs"]);
    all.retain(|file| ["crates/", "broker/", "sdk-rust/"].iter().any(|folder| file.starts_with(folder)));
    let mut short = Vec::new();
    for file in all {
        short.extend(short_docs(&read(&file)).into_iter().map(|(number, doc)| format!("{file}:{number}: {doc}")));
    }
    assert!(short.is_empty(), "say what it is, and its unit or limit:\n{}", short.join("\n"));
}

/// Lines where the documentation of a public item ends, and its text, where that has too few words.
fn short_docs(text: &str) -> Vec<(usize, String)> {
    let (mut short, mut doc) = (Vec::new(), String::new());
    for (number, line) in text.lines().map(str::trim).enumerate() {
        match line.strip_prefix("///") {
            Some(words) => doc += words,
            // Attributes stand between a doc and its item.
            None if line.starts_with("#[") => {}
            None => {
                let words = doc.split_whitespace().count();
                if line.starts_with("pub ") && (1..DOC_WORDS_MIN).contains(&words) {
                    short.push((number, doc.trim().to_owned()));
                }
                doc.clear();
            }
        }
    }
    short
}

#[test]
fn short_docs_are_found() {
    let text =
        "/// Its id.\n#[inline]\npub id: u32,\n/// The limit of this, in ms.\npub a: u32,\n/// Its name.\nname: u32,";
    assert_eq!(short_docs(text), [(2, "Its id.".to_owned())]);
}

/// Who opens a file sees first what it is for.
#[test]
fn constants_stand_below_what_they_are_for() {
    let mut wrong = Vec::new();
    for file in files(&[".rs"]) {
        wrong.extend(misplaced(&read(&file)).into_iter().map(|(line, name)| format!("{file}:{line}: {name}")));
    }
    assert!(wrong.is_empty(), "they go below the types and functions, and above the tests:\n{}", wrong.join("\n"));
}

/// Constants behind which a type or a function comes that is no test, and those behind the tests; with their lines.
fn misplaced(text: &str) -> Vec<(usize, String)> {
    let file = syn::parse_file(text).expect("it compiles");
    let is_code = |item: &syn::Item| match item {
        syn::Item::Use(_) | syn::Item::Const(_) => false,
        syn::Item::Mod(module) => module.content.is_some() && !is_of_tests(&module.attrs),
        syn::Item::Fn(function) => !is_of_tests(&function.attrs),
        _ => true,
    };
    // Past the last type or function.
    let below = file.items.iter().rposition(is_code).map_or(0, |last| last + 1);
    let is_tests = |item: &syn::Item| matches!(item, syn::Item::Mod(module) if is_of_tests(&module.attrs));
    let tests = file.items[below..].iter().position(is_tests).map_or(file.items.len(), |tests| below + tests);
    let mut wrong = Vec::new();
    for (at, item) in file.items.iter().enumerate() {
        // What has no name is an assertion, and stands with what it asserts.
        if let syn::Item::Const(constant) = item
            && constant.ident != "_"
            && !(below..tests).contains(&at)
        {
            wrong.push((constant.ident.span().start().line, constant.ident.to_string()));
        }
    }
    wrong
}

/// `#[test]`, `#[tokio::test]`, `#[cfg(test)]` and the like.
fn is_of_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string().contains("test"),
        meta => meta.path().segments.last().is_some_and(|name| name.ident == "test"),
    })
}

/// As rustfmt.toml says of code; comments and texts keep to it as well.
const COLUMNS_MAX: usize = 120;

/// Words that a public item's documentation has at least: fewer only repeat its name.
const DOC_WORDS_MIN: usize = 4;

#[test]
fn constants_that_stand_too_high_or_too_low_are_found() {
    let good = "use a::B;\nmod c;\nstruct D;\nfn e() {}\n/// Its limit.\nconst F: u32 = 1;\n#[cfg(test)]\nmod tests {}";
    assert_eq!(misplaced(good), []);
    let high = "use a::B;\nconst F: u32 = 1;\nconst _: () = assert!(F > 0);\nstruct D;\nconst G: u32 = 1;";
    assert_eq!(misplaced(high), [(2, "F".to_owned())]);
    let low = "fn e() {}\n#[cfg(test)]\nmod tests {}\nconst F: u32 = 1;";
    assert_eq!(misplaced(low), [(4, "F".to_owned())]);
    assert_eq!(misplaced("const F: u32 = 1;\n#[test]\nfn g() {}"), [], "a file of tests");
}

/// A row of the table of requests says what the request does: that is what a broker's owner reads first.
#[test]
fn every_request_has_a_word_of_its_own() {
    let table = read("crates/api/src/table.rs");
    let lines: Vec<&str> = table.lines().map(str::trim).collect();
    let is_row = |line: &str| {
        line.split_once(" = ")
            .is_some_and(|(name, rest)| name.ends_with("Request") && rest.contains(" => ") && rest.ends_with('{'))
    };
    let rows: Vec<usize> = (0..lines.len()).filter(|at| is_row(lines[*at])).collect();
    assert!(rows.len() > 20, "{} rows", rows.len());
    let bare: Vec<&str> = rows.iter().filter(|at| !lines[**at - 1].starts_with("///")).map(|at| lines[*at]).collect();
    assert!(bare.is_empty(), "rows without a doc: {bare:?}");
}

/// One document a word: what the glossary defines twice has two meanings.
#[test]
fn the_glossary_has_each_word_once() {
    let mut seen = std::collections::BTreeSet::new();
    for row in read("docs/GLOSSARY.md").lines().filter(|line| line.starts_with("| ")) {
        let first = row.split('|').nth(1).expect("a row has cells").trim().to_owned();
        assert!(seen.insert(first.clone()), "{first} stands twice");
    }
    assert!(seen.len() > 10);
}
