//! What `thalweg produce` reads: lines, JSON Lines or whole files become records.

use std::fmt::{self, Display};
use std::io::{BufRead, Read};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::{Args, ValueEnum};
use serde_json::Value;
use thalweg::Record;
use tokio::sync::mpsc::Sender;

/// Where records come from, and how they stand there.
#[derive(Args)]
pub(crate) struct Input {
    /// Files to read instead of standard input
    files: Vec<PathBuf>,
    /// What the input is
    #[arg(long, short, value_enum, default_value_t = Format::Lines)]
    format: Format,
    /// Splits each line into key and value at the first occurrence
    #[arg(long, short = 'k', value_name = "TEXT")]
    key_separator: Option<String>,
    /// Key of every record
    #[arg(long, conflicts_with = "key_separator")]
    key: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Each line is a value
    Lines,
    /// Each line is an object with value, and if you like key, headers and timestamp; what `thalweg consume --output
    /// json` prints is taken, too: of that, topic, partition and offset are left out
    Jsonl,
    /// Each file (or all of standard input) is one value
    File,
}

/// Where a record stood: a file, and a line in it.
#[derive(Clone)]
pub(crate) struct Place {
    input: Arc<str>,
    /// None: it is the whole file.
    line: Option<u64>,
}

impl Place {
    /// The place so many lines further down.
    pub(crate) fn plus(&self, lines: u64) -> Place {
        Place { input: self.input.clone(), line: self.line.map(|line| line + lines) }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{} line {line}", self.input),
            None => write!(f, "{}", self.input),
        }
    }
}

/// Records that stood in lines one after the other.
pub(crate) struct Chunk {
    /// Where the first of them stood.
    pub(crate) place: Place,
    pub(crate) records: Vec<Record>,
}

impl Input {
    /// Reads all of it. Where that fails, what stood before was handed on.
    pub(crate) fn read(&self, sender: &Sender<Result<Chunk>>) -> Result<()> {
        if self.files.is_empty() {
            return self.read_from(std::io::stdin().lock(), "standard input", sender);
        }
        for path in &self.files {
            let name = path.display().to_string();
            let file = std::fs::File::open(path).with_context(|| format!("file {name} does not open"))?;
            self.read_from(std::io::BufReader::with_capacity(1 << 16, file), &name, sender)?;
        }
        Ok(())
    }

    fn read_from(&self, mut input: impl BufRead, name: &str, sender: &Sender<Result<Chunk>>) -> Result<()> {
        let place = |line| Place { input: name.into(), line };
        if self.format == Format::File {
            let mut value = Vec::new();
            input.read_to_end(&mut value).with_context(|| format!("{name} does not read"))?;
            let records = vec![self.keyed(Record::new(value))];
            let _ = sender.blocking_send(Ok(Chunk { place: place(None), records }));
            return Ok(());
        }
        let (mut records, mut first, mut line) = (Vec::new(), 1, Vec::new());
        for number in 1u64.. {
            line.clear();
            let read = (&mut input).take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
            if read.with_context(|| format!("{name} does not read"))? == 0 {
                break;
            }
            if line.len() > LINE_BYTES_MAX {
                bail!("{name} line {number} is longer than {LINE_BYTES_MAX} bytes; send it with --format file");
            }
            if line.last() == Some(&b'\n') {
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
            }
            match self.parse(&line).with_context(|| place(Some(number)).to_string()) {
                Ok(record) => records.push(record),
                Err(error) => {
                    let _ = sender.blocking_send(Ok(Chunk { place: place(Some(first)), records }));
                    return Err(error);
                }
            }
            // A slow pipe's records go out one by one, a fast one's together.
            if records.len() == CHUNK_RECORDS || sender.capacity() == sender.max_capacity() {
                let records = std::mem::take(&mut records);
                if sender.blocking_send(Ok(Chunk { place: place(Some(first)), records })).is_err() {
                    return Ok(());
                }
                first = number + 1;
            }
        }
        let _ = sender.blocking_send(Ok(Chunk { place: place(Some(first)), records }));
        Ok(())
    }

    fn keyed(&self, record: Record) -> Record {
        match &self.key {
            Some(key) => record.key(key.as_str()),
            None => record,
        }
    }

    fn parse(&self, line: &[u8]) -> Result<Record> {
        if self.format == Format::Jsonl {
            return parse_object(line).map(|r| self.keyed(r));
        }
        let Some(separator) = &self.key_separator else {
            return Ok(self.keyed(Record::new(line)));
        };
        let found = line.windows(separator.len().max(1)).position(|w| w == separator.as_bytes());
        match found {
            Some(at) => Ok(Record::new(&line[at + separator.len()..]).key(&line[..at])),
            None => bail!("no key separator {separator:?} in it"),
        }
    }
}

fn parse_object(line: &[u8]) -> Result<Record> {
    let object: Value = serde_json::from_slice(line).context("not JSON")?;
    let Value::Object(fields) = object else { bail!("not a JSON object") };
    if let Some(unknown) = fields.keys().find(|k| !FIELDS.contains(&k.as_str())) {
        bail!("field {unknown:?} is unknown; key, value, headers and timestamp are known");
    }
    let mut record = match fields.get("value") {
        None => bail!("no value in it"),
        Some(Value::Null) => Record::tombstone(),
        Some(value) => Record::new(bytes(value)?),
    };
    if let Some(key) = fields.get("key").filter(|k| !k.is_null()) {
        record = record.key(bytes(key)?);
    }
    if let Some(timestamp) = fields.get("timestamp") {
        record = record.timestamp_ms(timestamp.as_i64().context("timestamp is not a number of milliseconds")?);
    }
    let mut header = |name: &str, value: &Value| {
        let bare = std::mem::replace(&mut record, Record::tombstone());
        record = match value {
            Value::Null => bare.null_header(name),
            value => bare.header(name, bytes(value)?),
        };
        anyhow::Ok(())
    };
    match fields.get("headers") {
        None => {}
        Some(Value::Object(headers)) => headers.iter().try_for_each(|(name, value)| header(name, value))?,
        Some(Value::Array(headers)) => {
            headers.iter().try_for_each(|pair| match pair.as_array().map(Vec::as_slice) {
                Some([Value::String(name), value]) => header(name, value),
                _ => bail!("a header is not a pair of a name and a value"),
            })?
        }
        Some(_) => bail!("headers is neither an object nor a list of pairs"),
    }
    Ok(record)
}

/// A text's bytes, those that `{"base64": …}` stands for, or the JSON of anything else.
fn bytes(value: &Value) -> Result<Vec<u8>> {
    match value {
        Value::String(text) => Ok(text.clone().into_bytes()),
        Value::Object(fields) if fields.len() == 1 && fields.contains_key("base64") => {
            let text = fields["base64"].as_str().context("base64 is not a text")?;
            BASE64_STANDARD.decode(text).context("base64 does not decode")
        }
        other => Ok(other.to_string().into_bytes()),
    }
}

/// What an object may have: the last three are where it was read.
const FIELDS: [&str; 7] = ["key", "value", "headers", "timestamp", "topic", "partition", "offset"];
/// Records placed and buffered together.
const CHUNK_RECORDS: usize = 2048;
/// Longest line that is read: a record of the largest size and some room for its JSON.
const LINE_BYTES_MAX: usize = 4 << 20;
