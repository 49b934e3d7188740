//! The client: topics and plugins, and where producers and consumers come from.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thalweg::bindings::{self, ConsumerOptions, ProducerOptions, TopicOptions, milliseconds, seconds};
use thalweg::{ClientBuilder, ConsumerBuilder, PluginInfo, TopicInfo};

use crate::consumer::{Consumer, position};
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
        let mut builder = ClientBuilder::new(address).client_id(client_id).timeout(seconds(timeout_s));
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
        let topic = TopicOptions {
            partitions: Some(partitions),
            partitioner,
            partitioner_config: Some(partitioner_config),
            retention_ms,
            retention_bytes,
            segment_bytes,
            segment_ms,
            timestamp_ahead_max_ms,
            replication_factor,
        };
        let topic = topic.topic();
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
        let options = ProducerOptions {
            linger: Some(milliseconds(linger_ms)),
            batch_bytes: Some(batch_bytes),
            compression: Some(compression),
            acks: Some(acks),
            delivery_timeout: Some(seconds(delivery_timeout_s)),
            buffer_bytes: Some(buffer_bytes),
        };
        let builder = options.builder(&self.inner, topic, bindings::snake).map_err(raise)?;
        Ok(Producer::new(builder.start().map_err(raise)?))
    }

    /// Options of the consumer as a dictionary; those that are None are left as they are.
    fn consumer<'py>(&self, py: Python<'py>, topics: Vec<String>, options: Reading) -> PyResult<Bound<'py, PyAny>> {
        let builder = options.builder(&self.inner, topics).map_err(raise)?;
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
struct Reading {
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

impl Reading {
    fn builder(self, client: &thalweg::Client, topics: Vec<String>) -> thalweg::Result<ConsumerBuilder> {
        let starts = self.starts.into_iter().map(|(topic, partition, kind, value)| {
            Ok((bindings::place(topic, partition), bindings::position(&kind, value)?))
        });
        let options = ConsumerOptions {
            partitions: self.partitions,
            start: self.start.map(|(kind, value)| bindings::position(&kind, value)).transpose()?,
            starts: starts.collect::<thalweg::Result<_>>()?,
            until_end: self.until_end,
            filter: self.filter,
            filter_config: Some(self.filter_config),
            on_filter_failure: Some(self.on_filter_failure),
            on_bad_record: Some(self.on_bad_record),
            out_of_range: Some(self.out_of_range),
            buffer_bytes: Some(self.buffer_bytes),
            tells: self.tells,
            group: self.group,
            instance: self.instance,
            session_timeout: Some(seconds(self.session_timeout)),
            auto_commit: Some(self.auto_commit.map(seconds)),
            assignor: Some(self.assignor),
            max_processing: self.max_processing.map(seconds),
            wait_for_topics: self.wait_for_topics,
        };
        options.builder(client, topics, bindings::snake)
    }
}
