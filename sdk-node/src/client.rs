//! The client: topics and plugins, and where producers and consumers come from.

use std::collections::HashMap;

use napi::bindgen_prelude::{Buffer, Either, Either5, PromiseRaw};
use napi::{Env, Result};
use napi_derive::napi;
use thalweg::bindings::{self, Value, milliseconds};
use thalweg::{ClientBuilder, ConsumerBuilder};

use crate::consumer::{Consumer, position};
use crate::error::raise;
use crate::producer::Producer;

#[napi(object)]
pub struct ProducerOptions {
    pub linger_ms: Option<f64>,
    pub batch_bytes: Option<u32>,
    pub compression: Option<String>,
    pub acks: Option<String>,
    pub delivery_timeout_ms: Option<f64>,
    pub buffer_bytes: Option<f64>,
}

/// Where one partition starts.
#[napi(object)]
pub struct StartAt {
    pub topic: Option<String>,
    pub partition: u32,
    pub kind: String,
    pub value: f64,
}

/// `startKind` is earliest, latest, offset or timestamp.
#[napi(object)]
pub struct ConsumerOptions {
    pub partitions: Option<Vec<u32>>,
    pub start_kind: Option<String>,
    pub start_value: Option<f64>,
    pub starts: Vec<StartAt>,
    pub until_end: Option<bool>,
    pub filter: Option<String>,
    pub filter_config: Option<Buffer>,
    pub on_filter_failure: Option<String>,
    pub on_bad_record: Option<String>,
    pub out_of_range: Option<String>,
    pub buffer_bytes: Option<f64>,
    pub tells: Option<bool>,
    pub group: Option<String>,
    pub instance: Option<String>,
    pub session_timeout_ms: Option<f64>,
    /// Absent: every second; negative: never.
    pub auto_commit_ms: Option<f64>,
    pub assignor: Option<String>,
    pub max_processing_ms: Option<f64>,
    pub wait_for_topics: Option<bool>,
}

/// An argument: what is left out stands for `null`.
type Given = Either5<String, f64, bool, Buffer, Vec<Either<String, f64>>>;

/// As the JavaScript side has checked it: numbers are whole.
fn value_of(given: Given) -> Value {
    let number = |number: f64| Value::Int(number as i128);
    match given {
        Either5::A(text) => Value::Text(text),
        Either5::B(it) => number(it),
        Either5::C(it) => Value::Bool(it),
        Either5::D(bytes) => Value::Bytes(bytes.to_vec().into()),
        Either5::E(items) => {
            let item = |item| match item {
                Either::A(text) => Value::Text(text),
                Either::B(it) => number(it),
            };
            Value::List(items.into_iter().map(item).collect())
        }
    }
}

/// What a call answers with; numbers are JavaScript's.
fn json_of(value: Value) -> serde_json::Value {
    match value {
        Value::None => serde_json::Value::Null,
        Value::Bool(it) => it.into(),
        Value::Int(it) => (it as f64).into(),
        Value::Text(it) => it.into(),
        Value::Bytes(bytes) => bytes.to_vec().into(),
        Value::List(items) => items.into_iter().map(json_of).collect(),
        Value::Map(fields) => {
            fields.into_iter().map(|(name, value)| (bindings::camel(&name), json_of(value))).collect()
        }
    }
}

impl ConsumerOptions {
    fn builder(self, client: &thalweg::Client, topics: Vec<String>) -> Result<ConsumerBuilder> {
        let start = self.start_kind.map(|kind| position(&kind, self.start_value.unwrap_or(0.0))).transpose()?;
        let starts = self.starts.into_iter().map(|StartAt { topic, partition, kind, value }| {
            Ok((bindings::place(topic, partition), position(&kind, value)?))
        });
        let options = bindings::ConsumerOptions {
            partitions: self.partitions,
            start,
            starts: starts.collect::<Result<_>>()?,
            until_end: self.until_end.unwrap_or(false),
            filter: self.filter,
            filter_config: self.filter_config.map(|c| c.to_vec()),
            on_filter_failure: self.on_filter_failure,
            on_bad_record: self.on_bad_record,
            out_of_range: self.out_of_range,
            buffer_bytes: self.buffer_bytes.map(|bytes| bytes as u64),
            tells: self.tells.unwrap_or(false),
            group: self.group,
            instance: self.instance,
            session_timeout: self.session_timeout_ms.map(milliseconds),
            auto_commit: self.auto_commit_ms.map(|ms| (ms >= 0.0).then(|| milliseconds(ms))),
            assignor: self.assignor,
            max_processing: self.max_processing_ms.map(milliseconds),
            wait_for_topics: self.wait_for_topics.unwrap_or(false),
        };
        options.builder(client, topics, bindings::camel).map_err(raise)
    }
}

#[napi]
pub struct Client {
    inner: thalweg::Client,
}

#[napi]
pub async fn connect(
    address: String,
    client_id: String,
    ca_pem: Option<Buffer>,
    timeout_ms: f64,
    certificate_pem: Option<Buffer>,
    key_pem: Option<Buffer>,
) -> Result<Client> {
    let mut builder = ClientBuilder::new(address).client_id(client_id).timeout(milliseconds(timeout_ms));
    if let Some(pem) = ca_pem {
        builder = builder.ca_pem(pem.to_vec());
    }
    if let (Some(certificate), Some(key)) = (certificate_pem, key_pem) {
        builder = builder.identity_pem(certificate.to_vec(), key.to_vec());
    }
    Ok(Client { inner: builder.connect().await.map_err(raise)? })
}

#[napi]
impl Client {
    /// A call of `thalweg::bindings`, by its name and with arguments by theirs, as they are spelled here.
    #[napi]
    pub fn call<'env>(
        &self,
        env: &'env Env,
        name: String,
        arguments: HashMap<String, Given>,
    ) -> Result<PromiseRaw<'env, serde_json::Value>> {
        let (client, name) = (self.inner.clone(), bindings::snaked(&name));
        let arguments = arguments.into_iter().map(|(name, given)| (bindings::snaked(&name), value_of(given))).collect();
        env.spawn_future(async move { bindings::call(client, &name, arguments).await.map(json_of).map_err(raise) })
    }

    #[napi]
    pub fn producer(&self, topic: Option<String>, options: ProducerOptions) -> Result<Producer> {
        let options = bindings::ProducerOptions {
            linger: options.linger_ms.map(milliseconds),
            batch_bytes: options.batch_bytes.map(|bytes| bytes as usize),
            compression: options.compression,
            acks: options.acks,
            delivery_timeout: options.delivery_timeout_ms.map(milliseconds),
            buffer_bytes: options.buffer_bytes.map(|bytes| bytes as usize),
        };
        let builder = options.builder(&self.inner, topic, bindings::camel).map_err(raise)?;
        Ok(Producer::new(builder.start().map_err(raise)?))
    }

    #[napi]
    pub fn consumer<'env>(
        &self,
        env: &'env Env,
        topics: Vec<String>,
        options: ConsumerOptions,
    ) -> Result<PromiseRaw<'env, Consumer>> {
        let builder = options.builder(&self.inner, topics);
        env.spawn_future(async move { Ok(Consumer::new(builder?.build().await.map_err(raise)?)) })
    }
}
