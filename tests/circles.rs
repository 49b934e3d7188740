//! No file of a crate needs one that needs it, by whatever way round: what two files share lies below both.
//!
//! A file needs those whose names stand in its code as paths: `use crate::a::B`, `super::b()`, `child::C`. `mod child;`
//! alone needs nothing. A name that another file hands on by `pub use` leads to where it is defined; who hands it on
//! needs that file as well. Comments and unit tests are left out. Which crates may know which is left to
//! `tests/architecture.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::visit::Visit;

/// A module or a name, from the root of its crate: `["consumer", "state"]`.
type Name = Vec<String>;

/// A path as it stands in the code of a module.
struct Named {
    path: Name,
    line: usize,
}

#[derive(Default)]
struct Module {
    /// The file that it stands in, from the folder of the sources.
    file: String,
    named: Vec<Named>,
    /// What it hands on, by the name there.
    handed_on: BTreeMap<String, Name>,
    /// Modules of which it hands on everything.
    all_of: Vec<Name>,
    /// What it defines.
    defined: BTreeSet<String>,
}

/// The modules of a crate.
type Modules = BTreeMap<Name, Module>;

/// What leads from one file to another: the line, and the path that stands there.
type Arrows = BTreeMap<String, BTreeMap<String, (usize, String)>>;

/// Reads a file of a crate, and those of its modules.
fn read_file(modules: &mut Modules, name: &Name, file: &Path, read: &dyn Fn(&Path) -> Option<String>) {
    let text = read(file).unwrap_or_else(|| panic!("{} is not there", file.display()));
    let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let stem = file.file_stem().and_then(|s| s.to_str()).expect("names are text");
    // Where the files of its modules are.
    let is_of_folder = matches!(stem, "lib" | "main" | "mod");
    let folder = if is_of_folder { file.with_file_name("") } else { file.with_extension("") };
    read_items(modules, name, file, &parsed.items);
    let mut inner = vec![(name.clone(), folder, &parsed.items)];
    while let Some((name, folder, items)) = inner.pop() {
        for item in items {
            let syn::Item::Mod(item) = item else { continue };
            if is_test(&item.attrs) {
                continue;
            }
            let mut child: Name = [&name[..], &[item.ident.unraw().to_string()]].concat();
            let stem = folder.join(child.last().expect("it was just named"));
            if let Some((_, items)) = &item.content {
                read_items(modules, &child, file, items);
                inner.push((child, stem, items));
                continue;
            }
            let named = path_of(&item.attrs).map(|path| file.with_file_name(path));
            // One of two, of which each build has one: nobody can name this one but by what it is called in both.
            if named.is_some() {
                child.push("in other builds".into());
            }
            let places = named.map_or_else(|| vec![stem.with_extension("rs"), stem.join("mod.rs")], |path| vec![path]);
            let of_child = places.iter().find(|f| read(f).is_some());
            let of_child = of_child.unwrap_or_else(|| panic!("{} has no file", child.join("::")));
            read_file(modules, &child, of_child, read);
        }
    }
}

/// Reads what a module consists of, but for the modules in it.
fn read_items(modules: &mut Modules, name: &Name, file: &Path, items: &[syn::Item]) {
    let mut module = Module { file: file.to_string_lossy().into_owned(), ..Module::default() };
    for item in items.iter().filter(|item| !is_test(attributes(item))) {
        module.defined.extend(defined(item));
        match item {
            syn::Item::Mod(_) => {}
            syn::Item::Use(item) => {
                let mut found = Vec::new();
                trees(&item.tree, &mut Vec::new(), &mut found);
                for Branch { path, known_as, line } in found {
                    let is_handed_on = !matches!(item.vis, syn::Visibility::Inherited);
                    match known_as {
                        Some(known_as) if is_handed_on => drop(module.handed_on.insert(known_as, path.clone())),
                        None if is_handed_on => module.all_of.push(path.clone()),
                        _ => {}
                    }
                    module.named.push(Named { path, line });
                }
            }
            other => Paths(&mut module.named).visit_item(other),
        }
    }
    modules.insert(name.clone(), module);
}

/// The file that `#[path = "…"]` names.
fn path_of(attributes: &[syn::Attribute]) -> Option<String> {
    let path = attributes.iter().find(|a| a.path().is_ident("path"))?;
    let syn::Meta::NameValue(syn::MetaNameValue { value, .. }) = &path.meta else { return None };
    match value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    }
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(i) => &i.attrs,
        syn::Item::Enum(i) => &i.attrs,
        syn::Item::Fn(i) => &i.attrs,
        syn::Item::Impl(i) => &i.attrs,
        syn::Item::Macro(i) => &i.attrs,
        syn::Item::Mod(i) => &i.attrs,
        syn::Item::Static(i) => &i.attrs,
        syn::Item::Struct(i) => &i.attrs,
        syn::Item::Trait(i) => &i.attrs,
        syn::Item::Type(i) => &i.attrs,
        syn::Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

/// Whether something is there for tests alone.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|a| match &a.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let words: Vec<String> = list.tokens.clone().into_iter().map(|t| t.to_string()).collect();
            words[0] == "test" || words[0] == "all" && words[1].contains("test")
        }
        _ => false,
    })
}

fn defined(item: &syn::Item) -> Option<String> {
    let name = match item {
        syn::Item::Const(i) => &i.ident,
        syn::Item::Enum(i) => &i.ident,
        syn::Item::Fn(i) => &i.sig.ident,
        syn::Item::Macro(i) => i.ident.as_ref()?,
        syn::Item::Static(i) => &i.ident,
        syn::Item::Struct(i) => &i.ident,
        syn::Item::Trait(i) => &i.ident,
        syn::Item::Type(i) => &i.ident,
        _ => return None,
    };
    Some(name.unraw().to_string())
}

/// One path of a `use`.
struct Branch {
    path: Name,
    /// Nothing for all that is in it.
    known_as: Option<String>,
    line: usize,
}

/// The paths of a tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn trees(tree: &syn::UseTree, before: &mut Name, found: &mut Vec<Branch>) {
    let of = |name: &syn::Ident| name.unraw().to_string();
    let line = |span: Span| span.start().line;
    match tree {
        syn::UseTree::Path(path) => {
            before.push(of(&path.ident));
            trees(&path.tree, before, found);
            before.pop();
        }
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| trees(tree, before, found)),
        syn::UseTree::Glob(glob) => {
            found.push(Branch { path: before.clone(), known_as: None, line: line(glob.star_token.spans[0]) });
        }
        syn::UseTree::Name(_) | syn::UseTree::Rename(_) => {
            let (name, known_as) = match tree {
                syn::UseTree::Rename(name) => (&name.ident, &name.rename),
                syn::UseTree::Name(name) => (&name.ident, &name.ident),
                _ => unreachable!("it is one of both"),
            };
            let (mut path, mut known_as) = (before.clone(), of(known_as));
            match name == "self" {
                true if known_as == "self" => known_as = path.last().cloned().unwrap_or_default(),
                true => {}
                false => path.push(of(name)),
            }
            found.push(Branch { path, known_as: Some(known_as), line: line(name.span()) });
        }
    }
}

/// Collects the paths of code, those within macros too.
struct Paths<'a>(&'a mut Vec<Named>);

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Name = path.segments.iter().map(|s| s.ident.unraw().to_string()).collect();
        let line = path.segments[0].ident.span().start().line;
        if path.leading_colon.is_none() && names.len() > 1 {
            self.0.push(Named { path: names, line });
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_use_tree(&mut self, tree: &'ast syn::UseTree) {
        let mut found = Vec::new();
        trees(tree, &mut Vec::new(), &mut found);
        self.0.extend(found.into_iter().map(|Branch { path, line, .. }| Named { path, line }));
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}

impl Paths<'_> {
    fn tokens(&mut self, tokens: TokenStream) {
        let (mut path, mut line, mut colons): (Name, _, _) = (Vec::new(), 0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(name) if path.is_empty() || colons == 2 => {
                    line = if path.is_empty() { name.span().start().line } else { line };
                    path.push(name.unraw().to_string());
                    colons = 0;
                    continue;
                }
                TokenTree::Punct(p) if p.as_char() == ':' && !path.is_empty() && colons < 2 => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(name) => {
                    self.end(std::mem::take(&mut path), line);
                    (line, colons) = (name.span().start().line, 0);
                    path.push(name.unraw().to_string());
                    continue;
                }
                _ => {}
            }
            self.end(std::mem::take(&mut path), line);
            colons = 0;
        }
        self.end(path, line);
    }

    fn end(&mut self, path: Name, line: usize) {
        if path.len() > 1 {
            self.0.push(Named { path, line });
        }
    }
}

/// A path of a module, from the root of its crate; nothing where it leads out of that.
fn from_root(modules: &Modules, module: &Name, path: &[String]) -> Option<Name> {
    let rest = |n: usize| &path[n..];
    match path[0].as_str() {
        "crate" => Some(rest(1).to_vec()),
        "self" => Some([&module[..], rest(1)].concat()),
        "super" => {
            let above = path.iter().take_while(|name| *name == "super").count();
            // Within a macro, what `super` is depends on who calls it.
            Some([&module[..module.len().checked_sub(above)?], rest(above)].concat())
        }
        first => {
            let child = [&module[..], &[first.to_owned()]].concat();
            modules.contains_key(&child).then(|| [&child[..], rest(1)].concat())
        }
    }
}

/// The file where what a path names is defined.
fn file_of(modules: &Modules, mut path: Name) -> Option<&str> {
    // Each round follows one that hands a name on; a ring of them does not compile.
    loop {
        let depth = (0..=path.len()).rev().find(|n| modules.contains_key(&path[..*n]))?;
        let (at, rest) = (path[..depth].to_vec(), &path[depth..]);
        let module = &modules[&at];
        let Some(name) = rest.first().filter(|name| !module.defined.contains(*name)) else {
            return Some(&module.file);
        };
        if let Some(handed_on) = module.handed_on.get(name) {
            path = [&from_root(modules, &at, handed_on)?[..], &rest[1..]].concat();
            continue;
        }
        let from = module
            .all_of
            .iter()
            .filter_map(|of| from_root(modules, &at, of))
            .find(|of| modules.get(of).is_some_and(|m| m.defined.contains(name) || m.handed_on.contains_key(name)));
        match from {
            Some(of) => path = [&of[..], rest].concat(),
            None => return Some(&module.file),
        }
    }
}

/// Which file of a crate needs which.
fn arrows(root: &str, read: &dyn Fn(&Path) -> Option<String>) -> Arrows {
    let mut modules = Modules::new();
    read_file(&mut modules, &Vec::new(), Path::new(root), read);
    let mut arrows = Arrows::new();
    for (name, module) in &modules {
        let from = arrows.entry(module.file.clone()).or_default();
        for named in &module.named {
            let to = from_root(&modules, name, &named.path).and_then(|path| file_of(&modules, path));
            if let Some(to) = to.filter(|to| **to != module.file) {
                from.entry(to.to_owned()).or_insert_with(|| (named.line, named.path.join("::")));
            }
        }
    }
    arrows
}

/// The shortest circle that a file is in: itself first, and behind it what each needs.
fn circle<'a>(arrows: &'a Arrows, start: &'a str) -> Option<Vec<&'a str>> {
    let mut came_from = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(at) = next.pop_front() {
        for to in arrows[at].keys().map(String::as_str) {
            if to == start {
                let mut way = vec![at];
                while way[way.len() - 1] != start {
                    way.push(came_from[way[way.len() - 1]]);
                }
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(to) {
                came_from.insert(to, at);
                next.push_back(to);
            }
        }
    }
    None
}

/// The shortest circles, no two of which share a file, each with its lines.
fn circles(arrows: &Arrows) -> Vec<String> {
    let mut found: Vec<Vec<&str>> = arrows.keys().filter_map(|file| circle(arrows, file)).collect();
    found.sort_by_key(Vec::len);
    let mut seen = BTreeSet::new();
    found.retain(|circle| {
        !circle.iter().any(|file| seen.contains(file)) && circle.iter().all(|file| seen.insert(*file))
    });
    let drawn = |circle: Vec<&str>| {
        let lines = circle.iter().zip(circle.iter().cycle().skip(1)).map(|(from, to)| {
            let (line, path) = &arrows[*from][*to];
            format!("    {from}:{line} names {path}")
        });
        let lines: Vec<String> = lines.collect();
        format!("{} → {}\n{}", circle.join(" → "), circle[0], lines.join("\n"))
    };
    found.into_iter().map(drawn).collect()
}

/// The file that a crate begins with.
fn root_file(folder: &Path) -> &'static str {
    if folder.join("lib.rs").exists() { "lib.rs" } else { "main.rs" }
}

/// Where the sources of a crate are.
fn sources(of: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(of);
    if folder.join("src").exists() { folder.join("src") } else { folder }
}

#[test]
fn no_file_needs_one_that_needs_it() {
    let mut wrong = Vec::new();
    for of in CRATES {
        let folder = sources(of);
        let arrows = arrows(root_file(&folder), &|file| std::fs::read_to_string(folder.join(file)).ok());
        assert!(arrows.len() == 1 || arrows.values().any(|to| !to.is_empty()), "{of}: nothing was found");
        wrong.extend(circles(&arrows).into_iter().map(|circle| format!("{of}: {circle}")));
    }
    assert!(wrong.is_empty(), "what two files share lies below both:\n\n{}", wrong.join("\n\n"));
}

/// The circles of a crate that consists of these files, its root first.
fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
    let read = |file: &Path| files.iter().find(|(name, _)| Path::new(name) == file).map(|(_, text)| (*text).to_owned());
    circles(&arrows(files[0].0, &read))
}

/// The folders of the crates that have no circle.
const CRATES: &[&str] = &[
    "bench",
    "broker",
    "cli",
    "crates/api",
    "crates/broker-core",
    "crates/client-core",
    "crates/commit-log",
    "crates/control",
    "crates/model",
    "crates/plugin-host",
    "crates/quic",
    "crates/replica",
    "crates/wire",
    "demo",
    "sdk-node",
    "sdk-python",
    "sdk-rust",
    "tests",
    "xtask",
];

#[test]
fn a_circle_is_drawn_with_its_lines() {
    let drawn = circles_of(&[
        ("a.rs", "mod b;\nmod c;\nmod d;"),
        ("a/b.rs", "use crate::c::{C, self as c};\npub struct B(C, c::C);"),
        ("a/c.rs", "pub struct C;\nfn f() {\n    assert!(super::d::is_d());\n}"),
        ("a/d.rs", "pub fn is_d() -> bool {\n    crate::b::B::new()\n}"),
    ]);
    let expected = [
        "a/b.rs → a/c.rs → a/d.rs → a/b.rs",
        "    a/b.rs:1 names crate::c::C",
        "    a/c.rs:3 names super::d::is_d",
        "    a/d.rs:2 names crate::b::B::new",
    ];
    assert_eq!(drawn, [expected.join("\n")]);
}

#[test]
fn who_hands_a_name_on_needs_its_file_and_who_takes_it_needs_that_alone() {
    let root = "mod b;\npub use b::{B, C as D};\npub use b::deep::*;";
    let b = |code: &str| format!("pub mod deep;\npub struct B;\npub struct C;\n{code}");
    let circles = |b: &str, deep: &str| circles_of(&[("a.rs", root), ("a/b.rs", b), ("a/b/deep.rs", deep)]).len();
    assert_eq!(circles(&b(""), "pub struct E(crate::B);"), 0);
    assert_eq!(circles(&b("use deep::E;"), "pub struct E(crate::B);"), 1, "by the name that is handed on");
    assert_eq!(circles(&b("use deep::E;"), "pub struct E(crate::D);"), 1, "by the name that it got");
    assert_eq!(circles(&b("use crate::E;"), "pub struct E(super::B);"), 1, "by all that is handed on");
    assert_eq!(circles(&b("fn f() -> crate::Own {}"), ""), 1, "what the root itself has");
}

#[test]
fn what_stands_in_comments_and_tests_needs_nothing() {
    let with = |c: &str| circles_of(&[("a.rs", "mod b;\nmod c;"), ("a/b.rs", "use super::c::C;"), ("a/c.rs", c)]).len();
    assert_eq!(with("use crate::b::B;"), 1);
    assert_eq!(with("/// As [`crate::b`].\npub(super) struct C; // crate::b::B"), 0);
    assert_eq!(with("#[cfg(test)]\nmod tests {\n    use crate::b::B;\n}"), 0);
    assert_eq!(with("#[cfg(all(test, unix))]\nuse crate::b::B;"), 0);
    assert_eq!(with("#[cfg(any(test, unix))]\nuse crate::b::B;"), 1);
    assert_eq!(with("mod inner {\n    fn f() { super::super::b::g() }\n}"), 1);
    assert_eq!(with("macro_rules! m { () => { $crate::b::B } }"), 1);
}
