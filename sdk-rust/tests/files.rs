//! No file of this crate imports one that imports it, by whatever way round: what two files share lies below both.
//!
//! Which crates may know which is left to `tests/architecture.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A file or a name, from the root of the crate: `["consumer", "state"]`.
type Name = Vec<String>;

/// The code of each file, without comments and unit tests.
fn files(folder: &Path, module: &[String]) -> BTreeMap<Name, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("the sources are there").map_while(Result::ok) {
        let (path, name) = (entry.path(), entry.file_name().into_string().expect("names are ASCII"));
        match name.strip_suffix(".rs") {
            None => found.extend(files(&path, &[module, &[name]].concat())),
            Some("tests") => {}
            Some(stem) => {
                let own = if matches!(stem, "mod" | "lib") { None } else { Some(stem.to_owned()) };
                let text = std::fs::read_to_string(&path).expect("source is text");
                let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default().lines();
                let code: Vec<&str> = code.filter(|line| !line.trim_start().starts_with("//")).collect();
                found.insert(module.iter().cloned().chain(own).collect(), code.join("\n"));
            }
        }
    }
    found
}

/// The paths of a tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(tree: &str, found: &mut Vec<Name>) {
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return found.push(path.split("::").map(|name| name.trim().to_owned()).collect());
    };
    let inner = &tree[open + 1..tree.rfind('}').expect("a brace that opens closes")];
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        depth += (c == '{') as i32 - (c == '}') as i32;
        if c == ',' && depth == 0 {
            let branch = inner[start..at].trim();
            start = (at + 1).min(inner.len());
            if !branch.is_empty() {
                paths(&format!("{}{branch}", &tree[..open]), found);
            }
        }
    }
}

/// What a file names of this crate, and what it hands on of that under a name of its own.
fn named(module: &[String], code: &str) -> (Vec<Name>, BTreeMap<String, Name>) {
    let from_root = |path: Name| match path.first().map(|first| &first[..]) {
        Some("crate") => Some(path[1..].to_vec()),
        Some("self") => Some([module, &path[1..]].concat()),
        Some("super") => Some([&module[..module.len() - 1], &path[1..]].concat()),
        // In the root, a path begins with one of its files.
        Some(_) if module.is_empty() => Some(path),
        _ => None,
    };
    let (mut all, mut handed_on) = (Vec::new(), BTreeMap::new());
    for statement in code.split_inclusive(';') {
        let declared =
            statement.lines().position(|l| l.starts_with("use ") || l.starts_with("pub") && l.contains(" use "));
        let Some(at) = declared else {
            let is_of_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
            let words = statement.split(|c| !is_of_path(c));
            all.extend(words.filter(|w| w.contains("::")).filter_map(|w| {
                let path: Name = w.split("::").map(str::to_owned).collect();
                from_root(path).filter(|_| !module.is_empty())
            }));
            continue;
        };
        let text = statement.lines().skip(at).collect::<Vec<_>>().join(" ");
        let (head, tree) = text.split_once("use ").expect("it was looked for");
        let mut found = Vec::new();
        paths(tree.trim_end_matches(';'), &mut found);
        let found: Vec<Name> = found.into_iter().filter_map(from_root).collect();
        if !head.is_empty() {
            handed_on.extend(found.iter().filter_map(|path| Some((path.last()?.clone(), path.clone()))));
        }
        all.extend(found);
    }
    (all, handed_on)
}

#[test]
fn no_file_imports_one_that_imports_it() {
    let files = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &[]);
    let named: BTreeMap<&Name, _> = files.iter().map(|(module, code)| (module, named(module, code))).collect();
    // The file that a path leads to, through those that hand names on.
    let file_of = |mut path: Name| loop {
        let depth = (0..=path.len()).rev().find(|n| files.contains_key(&path[..*n])).expect("the root is a file");
        let (module, rest) = (path[..depth].to_vec(), &path[depth..]);
        match rest.first().and_then(|name| named[&module].1.get(name)) {
            Some(handed_on) if *handed_on != path => path = [&handed_on[..], &rest[1..]].concat(),
            _ => return module,
        }
    };
    let mut imports: BTreeMap<&Name, BTreeSet<Name>> = BTreeMap::new();
    for (module, (paths, _)) in &named {
        let of = paths.iter().cloned().map(file_of).filter(|file| file != *module && !file.is_empty());
        imports.insert(module, of.collect());
    }
    assert!(imports[&vec!["consumer".to_owned(), "taking".to_owned()]].len() > 5, "imports are found");
    // What imports nothing that is left, or is imported by nothing that is left, goes; a circle stays.
    let is_at_an_end = |imports: &BTreeMap<&Name, BTreeSet<Name>>, module: &Name| {
        let is_imported = imports.values().any(|of| of.contains(module));
        !is_imported || !imports[module].iter().any(|i| imports.contains_key(i))
    };
    while let Some(module) = imports.keys().copied().find(|module| is_at_an_end(&imports, module)) {
        imports.remove(module);
    }
    let names = |name: &Name| name.join("::");
    let left: Vec<String> = imports
        .iter()
        .map(|(module, of)| {
            let circle: Vec<String> = of.iter().filter(|i| imports.contains_key(i)).map(names).collect();
            format!("{} imports {}", names(module), circle.join(", "))
        })
        .collect();
    assert!(left.is_empty(), "among these files there is a circle:\n{}", left.join("\n"));
}
