//! docs/MUTANTS.md as data: what finds each planted bug.

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The bug's name.
    pub bug: &'static str,
    /// What finds it.
    pub finder: Finder,
    /// What the seed's failure says; for a file, the rule that is broken.
    pub words: &'static str,
}

/// Where a planted bug shows.
#[derive(Clone, Copy, Debug)]
pub enum Finder {
    /// In this seed of the simulator.
    Seed(u64),
    /// In a unit test of this file.
    File(&'static str),
}

/// The rows of the table.
///
/// # Panics
/// When a row names neither a seed nor a file: no bug may be without a finder.
pub fn rows() -> Vec<Row> {
    let table = include_str!("../../docs/MUTANTS.md").lines().filter_map(|line| line.strip_prefix("| "));
    let cells = table.filter_map(|line| {
        let mut cells = line.trim_end_matches('|').split(" | ").map(str::trim);
        Some((cells.next()?, cells.next()?, cells.next()?))
    });
    let row = |(bug, finder, words): (&'static str, &'static str, &'static str)| {
        let finder = match (finder.parse(), finder.trim_matches('`')) {
            (Ok(seed), _) => Finder::Seed(seed),
            (Err(_), file) if file.ends_with(".rs") => Finder::File(file),
            _ => panic!("{bug:?} has no finder in docs/MUTANTS.md"),
        };
        Row { bug, finder, words }
    };
    cells.filter(|(bug, ..)| *bug != "planted bug").map(row).collect()
}
