//! What the clients for other languages are made of besides: it may change with every release.
//!
//! Options come as the caller's language has them, names of choices as text; what they mean, what goes together and
//! what they are by default is said once, here and in the builders.

use std::time::Duration;

use thalweg_model::{Assignor, Codec, OnFailure};
pub use thalweg_model::{BatchHeader, RecordSpan, counted};

pub use crate::admin::{Arguments, Value, call, position};
pub use crate::batch::{Part, Spot};
pub use crate::consumer::{Asks, Taken};
pub use crate::producer::Untold;
use crate::{
    Acks, Client, ConsumerBuilder, Error, ErrorKind, OnBadRecord, OnOutOfRange, Place, Position, ProducerBuilder,
    Rebalance, Result,
};

/// An option's name as the language writes it: `session_timeout` is `sessionTimeout` in Node.
pub type Spelling = fn(&str) -> String;

/// As Python writes names.
pub fn snake(name: &str) -> String {
    name.to_owned()
}

/// As Node writes them.
pub fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (head, tail) = word.split_at(word.len().min(1));
        name + &head.to_uppercase() + tail
    })
}

/// A name of Node's as Rust and Python write it.
pub fn snaked(name: &str) -> String {
    let mut snaked = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snaked.push('_');
        }
        snaked.push(c.to_ascii_lowercase());
    }
    snaked
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

/// One of several names, or what the builder does by itself.
fn chosen<T>(
    spelling: Spelling,
    option: &str,
    given: Option<String>,
    find: fn(&str) -> Option<T>,
    names: &str,
) -> Result<Option<T>> {
    let Some(given) = given else { return Ok(None) };
    let unknown = || invalid(format!("{} is {given:?}; {names}", spelling(option)));
    find(&given).map(Some).ok_or_else(unknown)
}

/// A time in seconds; nothing is shorter than none.
pub fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// The same in milliseconds.
pub fn milliseconds(ms: f64) -> Duration {
    seconds(ms / 1e3)
}

/// A partition, of the one topic or of a named one.
pub fn place(topic: Option<String>, partition: u32) -> Place {
    topic.map_or_else(|| partition.into(), |topic| (topic, partition).into())
}

/// What has changed, by its name, with topic and partition.
pub fn change(rebalance: Rebalance) -> (&'static str, String, u32) {
    match rebalance {
        Rebalance::Assigned { topic, partition } => ("assigned", topic, partition),
        Rebalance::Revoked { topic, partition } => ("revoked", topic, partition),
        Rebalance::Lost { topic, partition } => ("lost", topic, partition),
    }
}

/// Goes on with a builder where an option is given.
fn with<B, T>(builder: B, option: Option<T>, set: impl FnOnce(B, T) -> B) -> B {
    match option {
        Some(value) => set(builder, value),
        None => builder,
    }
}

/// Options of a producer; what is `None` is as [`ProducerBuilder`] has it.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "as the methods of `ProducerBuilder`")]
pub struct ProducerOptions {
    pub linger: Option<Duration>,
    pub batch_bytes: Option<usize>,
    pub compression: Option<String>,
    pub acks: Option<String>,
    pub delivery_timeout: Option<Duration>,
    pub buffer_bytes: Option<usize>,
}

impl ProducerOptions {
    /// A producer to `topic`, or to those that its records name.
    ///
    /// # Errors
    /// `invalid` for a word that is none of an option's.
    pub fn builder(self, client: &Client, topic: Option<String>, spelling: Spelling) -> Result<ProducerBuilder> {
        let builder = match topic {
            Some(topic) => client.producer(&topic),
            None => client.producer_of_any_topic(),
        };
        let codec =
            chosen(spelling, "compression", self.compression, Codec::from_name, "none, gzip, snappy, lz4 or zstd")?;
        let acks = chosen(spelling, "acks", self.acks, Acks::from_name, "none, leader or quorum")?;
        let builder = with(builder, codec, ProducerBuilder::compression);
        let builder = with(builder, acks, ProducerBuilder::acks);
        let builder = with(builder, self.linger, ProducerBuilder::linger);
        let builder = with(builder, self.batch_bytes, ProducerBuilder::batch_bytes);
        let builder = with(builder, self.delivery_timeout, ProducerBuilder::delivery_timeout);
        Ok(with(builder, self.buffer_bytes, ProducerBuilder::buffer_bytes))
    }
}

/// Options of a consumer; what is `None` is as [`ConsumerBuilder`] has it.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "as the methods of `ConsumerBuilder`")]
pub struct ConsumerOptions {
    pub partitions: Option<Vec<u32>>,
    pub start: Option<Position>,
    pub starts: Vec<(Place, Position)>,
    pub until_end: bool,
    pub filter: Option<String>,
    pub filter_config: Option<Vec<u8>>,
    pub on_filter_failure: Option<String>,
    pub on_bad_record: Option<String>,
    pub out_of_range: Option<String>,
    pub buffer_bytes: Option<u64>,
    /// Somebody asks for changes, to tell them.
    pub tells: bool,
    pub group: Option<String>,
    pub instance: Option<String>,
    pub session_timeout: Option<Duration>,
    /// How often what is done is committed; `None`: the default, `Some(None)`: by hand only.
    pub auto_commit: Option<Option<Duration>>,
    pub assignor: Option<String>,
    pub max_processing: Option<Duration>,
    pub wait_for_topics: bool,
}

impl ConsumerOptions {
    /// A consumer of these topics.
    ///
    /// # Errors
    /// `invalid` for a word that is none of an option's.
    pub fn builder(self, client: &Client, topics: Vec<String>, spelling: Spelling) -> Result<ConsumerBuilder> {
        let failure = "fail, skip or pass";
        let on_failure = chosen(spelling, "on_filter_failure", self.on_filter_failure, OnFailure::from_name, failure)?;
        let on_bad = chosen(spelling, "on_bad_record", self.on_bad_record, OnBadRecord::from_name, "fail or skip")?;
        let range = "earliest, latest or fail";
        let out_of_range = chosen(spelling, "out_of_range", self.out_of_range, OnOutOfRange::from_name, range)?;
        let assignor = chosen(spelling, "assignor", self.assignor, Assignor::from_name, "uniform or range")?;
        let mut builder = client.consumer_of(topics);
        for (place, position) in self.starts {
            builder = builder.start_at(place, position);
        }
        for (is_set, set) in [
            (self.until_end, ConsumerBuilder::until_end as fn(ConsumerBuilder) -> ConsumerBuilder),
            (self.tells, ConsumerBuilder::tell_rebalances),
            (self.wait_for_topics, ConsumerBuilder::wait_for_topics),
        ] {
            builder = if is_set { set(builder) } else { builder };
        }
        let builder = with(builder, self.partitions, ConsumerBuilder::partitions);
        let builder = with(builder, self.start, ConsumerBuilder::start);
        let builder = with(builder, self.filter, ConsumerBuilder::filter);
        let builder = with(builder, self.filter_config, ConsumerBuilder::filter_config);
        let builder = with(builder, on_failure, ConsumerBuilder::on_filter_failure);
        let builder = with(builder, on_bad, ConsumerBuilder::on_bad_record);
        let builder = with(builder, out_of_range, ConsumerBuilder::on_out_of_range);
        let builder = with(builder, self.buffer_bytes, ConsumerBuilder::buffer_bytes);
        let builder = with(builder, self.group, ConsumerBuilder::group);
        let builder = with(builder, self.instance, ConsumerBuilder::instance);
        let builder = with(builder, self.session_timeout, ConsumerBuilder::session_timeout);
        let builder = with(builder, self.auto_commit, ConsumerBuilder::auto_commit);
        let builder = with(builder, assignor, ConsumerBuilder::assignor);
        Ok(with(builder, self.max_processing, ConsumerBuilder::max_processing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_choice_is_named_as_the_language_writes_it() {
        let client = Client::unconnected();
        let text = |error: Error| error.to_string();
        let consumer = |spelling| {
            let options = ConsumerOptions { on_filter_failure: Some("retry".into()), ..Default::default() };
            options.builder(&client, vec!["t".into()], spelling).map(drop).map_err(text)
        };
        assert_eq!(consumer(snake), Err("on_filter_failure is \"retry\"; fail, skip or pass".into()));
        assert_eq!(consumer(camel), Err("onFilterFailure is \"retry\"; fail, skip or pass".into()));
        let options = ProducerOptions { acks: Some("all".into()), ..Default::default() };
        let acks = options.builder(&client, None, camel).map(drop).map_err(text);
        assert_eq!(acks, Err("acks is \"all\"; none, leader or quorum".into()));
    }

    #[test]
    fn a_name_comes_back_from_the_other_spelling() {
        for name in ["topics", "timestamp_ahead_max_ms"] {
            assert_eq!(snaked(&camel(name)), name);
        }
    }

    #[test]
    fn times_are_not_cut_in_silence() {
        assert_eq!((seconds(-1.0), milliseconds(1_500.0)), (Duration::ZERO, Duration::from_millis(1_500)));
        assert_eq!(seconds(f64::MAX), Duration::MAX);
    }
}
