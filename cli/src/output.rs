//! What goes to the terminal: tables or JSON, and the log.

/// Prints a line; whether anybody reads it any more makes no difference. (`println!` panics when nobody does.)
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}
pub(crate) use say;

use std::future::pending;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

/// How listings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

/// What was being done, and what went wrong. What lies below an error of the client stands in its own words already.
pub(crate) fn words(error: &anyhow::Error) -> String {
    let mut words = Vec::new();
    // Only what this program says itself has lines, as a configuration that does not read.
    let mut kept = "\n";
    for cause in error.chain() {
        words.push(cause.to_string());
        if cause.is::<thalweg::Error>() {
            kept = "";
            break;
        }
    }
    escaped(&words.join(": "), kept)
}

/// A text as a terminal may show it: what would move its cursor, change its colours or turn its direction is written
/// out, but for the characters in `kept`.
pub(crate) fn escaped(text: &str, kept: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_shown(c) || kept.contains(c) {
            true => out.push(c),
            false => out.extend(c.escape_default()),
        }
    }
    out
}

/// False for control characters, and for those that have a terminal write from right to left, or on another line.
fn is_shown(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Prints rows under their columns; numbers stand right. Each row is a list with a cell for each column.
pub(crate) fn table(columns: &[&str], rows: &[Value]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|c| c.to_uppercase()));
    for row in rows {
        table.add_row((0..columns.len()).map(|i| text(&row[i])));
    }
    for i in 0..columns.len() {
        if rows.iter().any(|r| r[i].is_number())
            && let Some(column) = table.column_mut(i)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.lines() {
        writeln!(out, "{}", line.strip_prefix(' ').unwrap_or(&line).trim_end())?;
    }
    Ok(())
}

/// Prints a JSON document.
pub(crate) fn json(value: &Value) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => escaped(text, ""),
        other => escaped(&other.to_string(), ""),
    }
}

/// Prints the words that say what was done, or a JSON document.
pub(crate) fn done(output: Output, words: &str, object: &Value) -> Result<()> {
    match output {
        Output::Table => Ok(writeln!(std::io::stdout().lock(), "{}", escaped(words, "\n"))?),
        Output::Json => json(object),
    }
}

/// Logs to standard error, from `level` on unless `THALWEG_LOG` says otherwise; as JSON where nobody watches.
pub(crate) fn log(level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("THALWEG_LOG")
        .unwrap_or_else(|_| format!("warn,thalweg={level},thalweg_broker={level},quinn=error").into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A broker outlives whoever read its log: a line that cannot be written is no reason to panic over another one.
    let builder = builder.log_internal_errors(false);
    if level == "info" && !std::io::stderr().is_terminal() {
        builder.json().init();
    } else {
        builder.with_target(false).without_time().with_ansi(std::io::stderr().is_terminal()).init();
    }
}

/// Waits until nobody reads standard output any more, which a command that has nothing to write would not notice.
pub(crate) async fn nobody_reads() {
    // Another descriptor of the same pipe, which stays as it is otherwise: writes to it go on to wait. A file has no
    // readers to be told of, and is not to be watched.
    let again = std::io::stdout().as_fd().try_clone_to_owned();
    let Ok(stdout) = again.and_then(|fd| Sender::from_file_unchecked(fd.into())) else { return pending().await };
    // The end of a pipe without a reader is in error.
    if stdout.ready(Interest::ERROR).await.is_err() {
        pending().await
    }
}

/// True when whoever read our output has gone: no error of ours.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<std::io::Error>()).any(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_nothing_but_text() {
        let hostile = "\u{1b}]0;PWNED\u{7}\u{1b}[2J\u{1b}[31mgroup\nbilling2  stable  1\r";
        let shown = escaped(hostile, "");
        assert!(shown.chars().all(|c| !c.is_control()), "{shown:?}");
        assert!(shown.contains("billing2") && shown.contains("\\u{1b}") && shown.contains("\\n"), "{shown}");
        assert_eq!(escaped("Köln, 東京 — \u{202e}gnp.exe\u{9b}", ""), "Köln, 東京 — \\u{202e}gnp.exe\\u{9b}");
        assert_eq!(escaped("two\nlines\t", "\n\t"), "two\nlines\t");
        assert_eq!(text(&Value::from("a\u{1b}b")), "a\\u{1b}b");
    }

    #[test]
    fn what_a_broker_says_is_one_line_and_what_this_program_says_may_be_several() {
        let ours = anyhow::anyhow!("line 1\nline 2 \u{1b}");
        assert_eq!(words(&ours), "line 1\nline 2 \\u{1b}");
    }
}
