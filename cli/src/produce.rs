//! `thalweg produce`: lines, JSON Lines or whole files become records.

use std::io::{BufRead, Read};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use thalweg::{Acks, Codec, Record};
use thalweg_model::counted;

use crate::connect::Connect;
use crate::output::{Output, done};

/// Sends records: one a line of the input
#[derive(Args)]
pub(crate) struct Produce {
    /// The topic
    topic: String,
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
    /// Compression of batches: none, gzip, snappy, lz4 or zstd
    #[arg(long, default_value = "none", value_parser = codec)]
    compression: Codec,
    /// When a record counts as sent
    #[arg(long, value_enum, default_value_t = AcksArg::Quorum)]
    acks: AcksArg,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Each line is a value
    Lines,
    /// Each line is an object with value, and if you like key, headers, timestamp
    Jsonl,
    /// Each file (or all of standard input) is one value
    File,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AcksArg {
    /// When it was handed to the connection
    None,
    /// When the leader has appended it
    Leader,
    /// When a majority has fsynced it
    Quorum,
}

fn codec(text: &str) -> Result<Codec, String> {
    Codec::from_name(text).ok_or_else(|| "none, gzip, snappy, lz4 or zstd".to_owned())
}

impl Produce {
    pub(crate) async fn run(self) -> Result<()> {
        let client = self.connect.client().await?;
        let producer = client
            .producer(&self.topic)
            .compression(self.compression)
            .acks(match self.acks {
                AcksArg::None => Acks::None,
                AcksArg::Leader => Acks::Leader,
                AcksArg::Quorum => Acks::Quorum,
            })
            .delivery_timeout(self.connect.timeout())
            .build()
            .await?;
        // Reading blocks, so it has a thread of its own; the channel is what is read ahead.
        let (sender, mut records) = tokio::sync::mpsc::channel::<Result<Vec<Record>>>(4);
        let (topic, output) = (self.topic.clone(), self.connect.output);
        std::thread::spawn(move || {
            if let Err(error) = self.read(&sender) {
                let _ = sender.blocking_send(Err(error));
            }
        });
        let mut count = 0u64;
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        loop {
            let chunk = tokio::select! {
                chunk = records.recv() => chunk,
                _ = &mut interrupted => None,
            };
            let Some(chunk) = chunk else { break };
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    producer.close().await?;
                    return Err(error
                        .context(format!("stopped after {}; what was read before is sent", counted(count, "record"))));
                }
            };
            count += chunk.len() as u64;
            // The receipt is dropped: a failure shows at the close.
            drop(producer.enqueue_batch(chunk).await?);
        }
        producer.close().await?;
        if output == Output::Json {
            done(output, "", &json!({ "topic": topic, "records": count }))?;
        } else {
            eprintln!("{} to {topic}", counted(count, "record"));
        }
        Ok(())
    }

    fn read(&self, sender: &tokio::sync::mpsc::Sender<Result<Vec<Record>>>) -> Result<()> {
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

    fn read_from(
        &self,
        mut input: impl BufRead,
        name: &str,
        sender: &tokio::sync::mpsc::Sender<Result<Vec<Record>>>,
    ) -> Result<()> {
        if self.format == Format::File {
            let mut value = Vec::new();
            input.read_to_end(&mut value).with_context(|| format!("{name} does not read"))?;
            let _ = sender.blocking_send(Ok(vec![self.keyed(Record::new(value))]));
            return Ok(());
        }
        let mut chunk = Vec::new();
        let mut line = Vec::new();
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
            let record = self.parse(&line).with_context(|| format!("{name} line {number}"));
            match record {
                Ok(record) => chunk.push(record),
                Err(error) => {
                    let _ = sender.blocking_send(Ok(chunk));
                    return Err(error);
                }
            }
            // A slow pipe's records go out one by one, a fast one's together.
            let is_due = chunk.len() == CHUNK_RECORDS || sender.capacity() == sender.max_capacity();
            if is_due && sender.blocking_send(Ok(std::mem::take(&mut chunk))).is_err() {
                return Ok(());
            }
        }
        let _ = sender.blocking_send(Ok(chunk));
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
    if let Some(unknown) = fields.keys().find(|k| !matches!(k.as_str(), "key" | "value" | "headers" | "timestamp")) {
        bail!("field {unknown:?} is unknown; key, value, headers and timestamp are known");
    }
    let bytes = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut record = match fields.get("value") {
        None => bail!("no value in it"),
        Some(Value::Null) => Record::tombstone(),
        Some(value) => Record::new(bytes(value)),
    };
    if let Some(key) = fields.get("key").filter(|k| !k.is_null()) {
        record = record.key(bytes(key));
    }
    if let Some(timestamp) = fields.get("timestamp") {
        record = record.timestamp_ms(timestamp.as_i64().context("timestamp is not a number of milliseconds")?);
    }
    if let Some(headers) = fields.get("headers") {
        for (name, value) in headers.as_object().context("headers is not an object")? {
            record = match value {
                Value::Null => record.null_header(name),
                value => record.header(name, bytes(value)),
            };
        }
    }
    Ok(record)
}

/// Records placed and buffered together.
const CHUNK_RECORDS: usize = 2048;
/// Longest line that is read: a record of the largest size and some room for its JSON.
const LINE_BYTES_MAX: usize = 4 << 20;
