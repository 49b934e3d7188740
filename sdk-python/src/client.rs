//! The client: topics and plugins, and where producers and consumers come from.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thalweg::{
    Acks, Assignor, ClientBuilder, Codec, Error, ErrorKind, OnBadRecord, OnFailure, OnOutOfRange, PluginInfo, Position,
    Topic, TopicInfo,
};

use crate::consumer::{Consumer, place};
use crate::error::raise;
use crate::producer::Producer;
use crate::runtime::future_into_py;

#[pyclass(frozen)]
pub(crate) struct Client {
    inner: thalweg::Client,
}

#[pyfunction]
#[pyo3(signature = (address, client_id, ca_pem, timeout_s, identity_pem))]
pub(crate) fn connect(
    py: Python<'_>,
    address: String,
    client_id: String,
    ca_pem: Option<Vec<u8>>,
    timeout_s: f64,
    identity_pem: Option<(Vec<u8>, Vec<u8>)>,
) -> PyResult<Bound<'_, PyAny>> {
    future_into_py(py, async move {
        let mut builder = ClientBuilder::new(address).client_id(client_id).timeout(Duration::from_secs_f64(timeout_s));
        if let Some(pem) = ca_pem {
            builder = builder.ca_pem(pem);
        }
        if let Some((certificate, key)) = identity_pem {
            builder = builder.identity_pem(certificate, key);
        }
        let inner = builder.connect().await.map_err(raise)?;
        Ok(Client { inner })
    })
}

type Dict = Py<PyDict>;

fn topic_dict(t: &TopicInfo) -> PyResult<Dict> {
    Python::attach(|py| {
        let d = PyDict::new(py);
        d.set_item("name", &t.name)?;
        d.set_item("id", &t.id)?;
        d.set_item("partitions", t.partitions)?;
        d.set_item("partitioner", t.partitioner.as_deref())?;
        d.set_item("retention_ms", t.retention_ms)?;
        d.set_item("retention_bytes", t.retention_bytes)?;
        d.set_item("segment_bytes", t.segment_bytes)?;
        d.set_item("segment_ms", t.segment_ms)?;
        d.set_item("timestamp_ahead_max_ms", t.timestamp_ahead_max_ms)?;
        Ok(d.unbind())
    })
}

fn plugin_dict(p: &PluginInfo) -> PyResult<Dict> {
    Python::attach(|py| {
        let d = PyDict::new(py);
        d.set_item("name", &p.name)?;
        d.set_item("version", p.version)?;
        d.set_item("kind", &p.kind)?;
        d.set_item("digest", &p.digest)?;
        d.set_item("bytes", p.bytes)?;
        d.set_item("created_ms", p.created_ms)?;
        Ok(d.unbind())
    })
}

fn invalid(message: String) -> PyErr {
    raise(Error::new(ErrorKind::Invalid, message))
}

/// "earliest", "latest", ("offset", n) or ("timestamp", ms), as the Python side has checked it.
pub(crate) fn position(kind: &str, value: i64) -> PyResult<Position> {
    Ok(match kind {
        "earliest" => Position::Earliest,
        "latest" => Position::Latest,
        "offset" => Position::Offset(u64::try_from(value).map_err(|_| invalid(format!("offset {value} is negative")))?),
        "timestamp" => Position::Timestamp(value),
        other => {
            return Err(invalid(format!("position {other:?} is unknown; earliest, latest, offset or timestamp")));
        }
    })
}

#[pymethods]
impl Client {
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of the Python side")]
    fn create_topic<'py>(
        &self,
        py: Python<'py>,
        name: String,
        partitions: u32,
        partitioner: Option<String>,
        partitioner_config: Vec<u8>,
        retention_ms: Option<i64>,
        retention_bytes: Option<i64>,
        segment_bytes: Option<u64>,
        segment_ms: Option<u64>,
        timestamp_ahead_max_ms: Option<i64>,
        replication_factor: Option<u32>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let client = self.inner.clone();
        let mut topic = Topic::partitions(partitions).partitioner_config(partitioner_config);
        if let Some(partitioner) = partitioner {
            topic = topic.partitioner(partitioner);
        }
        if let Some(ms) = retention_ms {
            topic = topic.retention_ms(ms);
        }
        if let Some(bytes) = retention_bytes {
            topic = topic.retention_bytes(bytes);
        }
        if let Some(bytes) = segment_bytes {
            topic = topic.segment_bytes(bytes);
        }
        if let Some(ms) = segment_ms {
            topic = topic.segment_ms(ms);
        }
        if let Some(ms) = timestamp_ahead_max_ms {
            topic = topic.timestamp_ahead_max_ms(ms);
        }
        if let Some(copies) = replication_factor {
            topic = topic.replication_factor(copies);
        }
        future_into_py(py, async move { topic_dict(&client.create_topic(&name, topic).await.map_err(raise)?) })
    }

    fn delete_topic<'py>(&self, py: Python<'py>, name: String) -> PyResult<Bound<'py, PyAny>> {
        let client = self.inner.clone();
        future_into_py(py, async move { client.delete_topic(&name).await.map_err(raise) })
    }

    fn topics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let client = self.inner.clone();
        future_into_py(py, async move {
            client.topics().await.map_err(raise)?.iter().map(topic_dict).collect::<PyResult<Vec<_>>>()
        })
    }

    fn offsets<'py>(&self, py: Python<'py>, topic: String, kind: String, value: i64) -> PyResult<Bound<'py, PyAny>> {
        let client = self.inner.clone();
        future_into_py(py, async move {
            let offsets = client.offsets(&topic, position(&kind, value)?).await.map_err(raise)?;
            Ok(offsets.into_iter().map(|o| (o.partition, o.offset)).collect::<Vec<_>>())
        })
    }

    fn upload_plugin<'py>(&self, py: Python<'py>, name: String, module: Vec<u8>) -> PyResult<Bound<'py, PyAny>> {
        let client = self.inner.clone();
        future_into_py(py, async move { plugin_dict(&client.upload_plugin(&name, module).await.map_err(raise)?) })
    }

    fn plugins<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let client = self.inner.clone();
        future_into_py(py, async move {
            client.plugins().await.map_err(raise)?.iter().map(plugin_dict).collect::<PyResult<Vec<_>>>()
        })
    }

    #[allow(clippy::too_many_arguments, reason = "keyword arguments of the Python side")]
    fn producer(
        &self,
        topic: Option<String>,
        linger_ms: f64,
        batch_bytes: usize,
        compression: String,
        acks: String,
        delivery_timeout_s: f64,
        buffer_bytes: usize,
    ) -> PyResult<Producer> {
        let codec = Codec::from_name(&compression).ok_or_else(|| {
            invalid(format!("compression {compression:?} is unknown; none, gzip, snappy, lz4 or zstd"))
        })?;
        let acks = match acks.as_str() {
            "none" => Acks::None,
            "leader" => Acks::Leader,
            "quorum" => Acks::Quorum,
            other => {
                return Err(invalid(format!("acks {other:?} is unknown; none, leader or quorum")));
            }
        };
        let builder = match topic {
            Some(topic) => self.inner.producer(&topic),
            None => self.inner.producer_of_any_topic(),
        };
        let builder = builder
            .linger(Duration::from_secs_f64(linger_ms.max(0.0) / 1e3))
            .batch_bytes(batch_bytes)
            .compression(codec)
            .acks(acks)
            .delivery_timeout(Duration::from_secs_f64(delivery_timeout_s.max(0.0)))
            .buffer_bytes(buffer_bytes);
        Ok(Producer::new(builder.start().map_err(raise)?))
    }

    /// Options of the consumer as a dictionary; those that are None are left as they are.
    fn consumer<'py>(
        &self,
        py: Python<'py>,
        topics: Vec<String>,
        options: ConsumerOptions,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut builder = self.inner.consumer_of(topics);
        if let Some((kind, value)) = options.start {
            builder = builder.start(position(&kind, value)?);
        }
        for (topic, partition, kind, value) in options.starts {
            builder = builder.start_at(place(topic, partition), position(&kind, value)?);
        }
        if let Some(partitions) = options.partitions {
            builder = builder.partitions(partitions);
        }
        if options.until_end {
            builder = builder.until_end();
        }
        if let Some(filter) = options.filter {
            let policy = &options.on_filter_failure[..];
            let policy = OnFailure::from_name(policy)
                .ok_or_else(|| invalid(format!("on_filter_failure is {policy:?}; fail, skip or pass")))?;
            builder = builder.filter(filter).filter_config(options.filter_config).on_filter_failure(policy);
        }
        let on_bad = &options.on_bad_record[..];
        let on_bad = OnBadRecord::from_name(on_bad)
            .ok_or_else(|| invalid(format!("on_bad_record is {on_bad:?}; fail or skip")))?;
        builder = builder.on_bad_record(on_bad);
        let out_of_range = &options.out_of_range[..];
        let out_of_range = OnOutOfRange::from_name(out_of_range)
            .ok_or_else(|| invalid(format!("out_of_range is {out_of_range:?}; earliest, latest or fail")))?;
        builder = builder.on_out_of_range(out_of_range).buffer_bytes(options.buffer_bytes);
        if options.tells {
            builder = builder.tell_rebalances();
        }
        if let Some(group) = options.group {
            let seconds = Duration::from_secs_f64;
            let assignor = &options.assignor[..];
            let assignor = Assignor::from_name(assignor)
                .ok_or_else(|| invalid(format!("assignor is {assignor:?}; uniform or range")))?;
            builder = builder.group(group).assignor(assignor);
            builder = builder.session_timeout(seconds(options.session_timeout.max(0.0)));
            builder = builder.auto_commit(options.auto_commit.map(|s| seconds(s.max(0.0))));
            if let Some(limit) = options.max_processing {
                builder = builder.max_processing(seconds(limit.max(0.0)));
            }
            if options.wait_for_topics {
                builder = builder.wait_for_topics();
            }
        }
        if let Some(instance) = options.instance {
            builder = builder.instance(instance);
        }
        future_into_py(py, async move { Ok(Consumer::new(builder.build().await.map_err(raise)?)) })
    }

    /// All consumer groups: (group, state, members).
    fn groups<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let client = self.inner.clone();
        future_into_py(py, async move {
            let groups = client.groups().await.map_err(raise)?;
            Ok(groups.into_iter().map(|g| (g.group, g.state, g.members)).collect::<Vec<_>>())
        })
    }

    /// A group: state, epoch, coordinator, assignor, filter, members, offsets.
    fn describe_group<'py>(&self, py: Python<'py>, group: String) -> PyResult<Bound<'py, PyAny>> {
        let client = self.inner.clone();
        future_into_py(py, async move {
            let g = client.describe_group(&group).await.map_err(raise)?;
            let lags = client.group_lag(&g).await.map_err(raise)?;
            let members: Vec<_> = g
                .members
                .into_iter()
                .map(|m| (m.member, m.instance, m.client, m.host, m.partitions, m.revoked, m.is_away))
                .collect();
            let offsets: Vec<_> = lags
                .into_iter()
                .map(|(topic, partition, lag)| {
                    let at = g.offsets.iter().find(|o| o.topic == topic && o.partition == partition);
                    let (committed, filtered, failed) =
                        at.map_or((None, 0, 0), |o| (Some(o.committed), o.filtered, o.failed));
                    (topic, partition, committed, lag, filtered, failed)
                })
                .collect();
            Ok((g.state, g.epoch, g.coordinator, g.assignor, g.filter, members, offsets))
        })
    }

    fn delete_group<'py>(&self, py: Python<'py>, group: String) -> PyResult<Bound<'py, PyAny>> {
        let client = self.inner.clone();
        future_into_py(py, async move { client.delete_group(&group).await.map_err(raise) })
    }

    /// Moves a group without members; answers with (partition, offset).
    fn reset_group<'py>(
        &self,
        py: Python<'py>,
        group: String,
        topic: String,
        partitions: Vec<u32>,
        to: (String, i64),
        dry_run: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (client, to) = (self.inner.clone(), position(&to.0, to.1)?);
        future_into_py(py, async move {
            let plan = client.plan_group_offsets(&topic, &partitions, to).await.map_err(raise)?;
            if !dry_run {
                client.set_group_offsets(&group, &topic, &plan).await.map_err(raise)?;
            }
            Ok(plan)
        })
    }

    fn set_partitioner<'py>(
        &self,
        py: Python<'py>,
        topic: String,
        partitioner: Option<String>,
        config: Vec<u8>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let client = self.inner.clone();
        future_into_py(py, async move {
            let with = partitioner.as_deref().map(|p| (p, config.into()));
            client.set_partitioner(&topic, with).await.map(drop).map_err(raise)
        })
    }
}

/// What `consumer` in `_client.py` passes on.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct ConsumerOptions {
    partitions: Option<Vec<u32>>,
    start: Option<(String, i64)>,
    starts: Vec<(Option<String>, u32, String, i64)>,
    until_end: bool,
    filter: Option<String>,
    filter_config: Vec<u8>,
    on_filter_failure: String,
    on_bad_record: String,
    out_of_range: String,
    buffer_bytes: u64,
    tells: bool,
    group: Option<String>,
    instance: Option<String>,
    session_timeout: f64,
    auto_commit: Option<f64>,
    assignor: String,
    max_processing: Option<f64>,
    wait_for_topics: bool,
}
