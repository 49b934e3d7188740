//! `thalweg consume`: prints records.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};

use anyhow::{Result, bail};
use clap::Args;
use thalweg::{ConsumerRecord, OnBadRecord, OnFailure, Position};
use thalweg_model::counted;

use crate::connect::Connect;
use crate::dev::stopped;
use crate::output::{Output, escaped, nobody_reads};
use crate::shape;

/// Prints records as they come
#[derive(Args)]
pub(crate) struct Consume {
    /// Topics, by name or by pattern: '^flights-' stands for all whose names begin so, those that come later too
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Starts with the first record kept; without it, with what comes from now on. A group goes on where it left off:
    /// for it this, --offset and --since are where it begins in partitions that it has not read before
    #[arg(long)]
    from_beginning: bool,
    /// Starts at this offset of each partition
    #[arg(long, conflicts_with = "from_beginning")]
    offset: Option<u64>,
    /// Starts with the first record at or after this time, as in 2026-01-31T12:00:00Z or "2h" ago
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with_all = ["from_beginning", "offset"])]
    since: Option<i64>,
    /// Only these partitions
    #[arg(long, short, value_delimiter = ',', conflicts_with = "group")]
    partition: Option<Vec<u32>>,
    /// Shares the partitions with the other consumers of this group, and goes on where the group left off
    #[arg(long, short)]
    group: Option<String>,
    /// A name that outlives this process, for static membership
    #[arg(long, requires = "group")]
    instance: Option<String>,
    /// Unheard for so long, a member of a group counts as dead
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    session_timeout: std::time::Duration,
    /// Plugin that chooses the records, "name" or "name@version"
    #[arg(long)]
    filter: Option<String>,
    /// The plugin's parameters
    #[arg(long, requires = "filter")]
    filter_config: Option<String>,
    /// What becomes of a record on which the plugin fails
    #[arg(long, value_name = "fail|skip|pass", default_value = "fail", value_parser = policy)]
    on_filter_failure: OnFailure,
    /// What becomes of a stored batch that does not decode
    #[arg(long, value_name = "fail|skip", default_value = "fail", value_parser = bad_record)]
    on_bad_record: OnBadRecord,
    /// Ends when everything that was there at the start has been scanned
    #[arg(long)]
    until_end: bool,
    /// Ends after this many records
    #[arg(long, short = 'n')]
    limit: Option<u64>,
    /// How a record is printed: {topic} {partition} {offset} {timestamp} {key} {value} {headers}, and \n and \t
    #[arg(long, short, default_value = "{value}\\n")]
    format: String,
    #[command(flatten)]
    connect: Connect,
}

fn time(text: &str) -> Result<i64, String> {
    let ms = |t: std::time::SystemTime| t.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(ms(std::time::SystemTime::now().checked_sub(ago).ok_or("too long ago")?));
    }
    humantime::parse_rfc3339_weak(text).map(ms).map_err(|e| e.to_string())
}

fn policy(text: &str) -> Result<OnFailure, String> {
    OnFailure::from_name(text).ok_or_else(|| "fail, skip or pass".to_owned())
}

fn bad_record(text: &str) -> Result<OnBadRecord, String> {
    OnBadRecord::from_name(text).ok_or_else(|| "fail or skip".to_owned())
}

impl Consume {
    pub(crate) async fn run(self) -> Result<()> {
        let format = Format::parse(&self.format)?;
        let client = self.connect.client().await?;
        let mut builder = client.consumer_of(&self.topics).on_bad_record(self.on_bad_record);
        if self.from_beginning {
            builder = builder.from_beginning();
        }
        if let Some(offset) = self.offset {
            builder = builder.start(Position::Offset(offset));
        }
        if let Some(since) = self.since {
            builder = builder.start(Position::Timestamp(since));
        }
        if let Some(partitions) = self.partition {
            builder = builder.partitions(partitions);
        }
        if let Some(filter) = self.filter {
            let config = self.filter_config.unwrap_or_default();
            builder = builder.filter(filter).filter_config(config).on_filter_failure(self.on_filter_failure);
        }
        if let Some(group) = self.group {
            builder = builder.group(group).session_timeout(self.session_timeout);
        }
        if let Some(instance) = self.instance {
            builder = builder.instance(instance);
        }
        if self.until_end {
            builder = builder.until_end();
        }
        let consumer = builder.build().await?;
        // Records are anybody's. Whoever passes them on gets them byte by byte; whoever looks at them on a terminal
        // sees what would have the terminal do something.
        let to_terminal = std::io::stdout().is_terminal();
        let mut left = self.limit.unwrap_or(u64::MAX);
        let mut out = std::io::BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
        let (interrupted, unread) = (stopped()?, nobody_reads());
        tokio::pin!(interrupted, unread);
        let mut result = Ok(());
        while left > 0 {
            let at_most = usize::try_from(left).unwrap_or(usize::MAX);
            let batch = tokio::select! {
                batch = consumer.next_batch_of(at_most) => batch,
                () = &mut interrupted => break,
                () = &mut unread => break,
            };
            let batch = match batch {
                None => break,
                Some(Ok(batch)) => batch,
                Some(Err(error)) => {
                    result = Err(error.into());
                    break;
                }
            };
            for record in batch.records() {
                match self.connect.output {
                    Output::Json => writeln!(out, "{}", shape::record(&record))?,
                    Output::Table => format.write(&mut out, &record, to_terminal)?,
                }
            }
            left -= batch.len() as u64;
            // Whoever watches wants it now; a batch is as much as came together.
            out.flush()?;
        }
        out.flush()?;
        let c = consumer.counts();
        if c.unreadable > 0 {
            eprintln!("passed over {} that cannot be decoded", counted(c.unreadable, "record"));
        }
        if let Some(filter) = consumer.filter() {
            eprintln!(
                "filter {}@{}: {} kept, {} dropped, {} failed of {} scanned",
                filter.name,
                filter.version,
                c.delivered,
                c.filtered,
                c.failed,
                c.scanned()
            );
        }
        // What was printed is done.
        consumer.finish().await?;
        result
    }
}

/// A parsed format string.
struct Format(Vec<Piece>);

enum Piece {
    Text(String),
    Field(Field),
}

#[derive(Clone, Copy)]
enum Field {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Value,
    Headers,
}

impl Format {
    fn parse(text: &str) -> Result<Format> {
        let text = text.replace("\\n", "\n").replace("\\t", "\t");
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, behind)) = after.split_once('}') else { bail!("format: no }} after {{") };
            let field = match name {
                "topic" => Field::Topic,
                "partition" => Field::Partition,
                "offset" => Field::Offset,
                "timestamp" => Field::Timestamp,
                "key" => Field::Key,
                "value" => Field::Value,
                "headers" => Field::Headers,
                _ => bail!("format: field {{{name}}} is unknown; see thalweg consume --help"),
            };
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Field(field));
            rest = behind;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Format(pieces))
    }

    fn write(&self, out: &mut impl Write, record: &ConsumerRecord, to_terminal: bool) -> std::io::Result<()> {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.write_all(text.as_bytes())?,
                Piece::Field(Field::Topic) => out.write_all(record.topic().as_bytes())?,
                Piece::Field(Field::Partition) => write!(out, "{}", record.partition())?,
                Piece::Field(Field::Offset) => write!(out, "{}", record.offset())?,
                Piece::Field(Field::Timestamp) => write!(out, "{}", record.timestamp_ms())?,
                Piece::Field(Field::Key) => out.write_all(&shown(record.key().map_or(&[], |b| b), to_terminal))?,
                Piece::Field(Field::Value) => out.write_all(&shown(record.value().map_or(&[], |b| b), to_terminal))?,
                Piece::Field(Field::Headers) => {
                    for (i, (key, value)) in record.headers().enumerate() {
                        let comma = if i == 0 { "" } else { "," };
                        write!(out, "{comma}")?;
                        out.write_all(&shown(key.as_bytes(), to_terminal))?;
                        write!(out, "=")?;
                        out.write_all(&shown(value.map_or(&[], |b| b), to_terminal))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Bytes as they are printed: on a terminal as text that moves nothing, and elsewhere as they are.
fn shown(bytes: &[u8], to_terminal: bool) -> Cow<'_, [u8]> {
    match to_terminal {
        false => Cow::Borrowed(bytes),
        true => Cow::Owned(escaped(&String::from_utf8_lossy(bytes), "\t").into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_terminal_sees_what_a_file_gets_byte_by_byte() {
        let value = b"\x1b[2Jrow\t1\n\xff";
        assert_eq!(&*super::shown(value, false), value);
        assert_eq!(super::shown(value, true).to_vec(), "\\u{1b}[2Jrow\t1\\n\u{fffd}".as_bytes());
    }
}
