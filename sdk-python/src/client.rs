//! The client: topics and plugins, and where producers and consumers come from.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3_async_runtimes::tokio::future_into_py;
use thalweg::{Acks, ClientBuilder, Codec, Error, ErrorKind, PluginInfo, Position, Topic, TopicInfo};

use crate::consumer::Consumer;
use crate::error::raise;
use crate::producer::Producer;

#[pyclass(frozen)]
pub(crate) struct Client {
    inner: thalweg::Client,
}

#[pyfunction]
#[pyo3(signature = (address, ca_pem, timeout_s, identity_pem))]
pub(crate) fn connect(
    py: Python<'_>,
    address: String,
    ca_pem: Option<Vec<u8>>,
    timeout_s: f64,
    identity_pem: Option<(Vec<u8>, Vec<u8>)>,
) -> PyResult<Bound<'_, PyAny>> {
    future_into_py(py, async move {
        let mut builder =
            ClientBuilder::new(address).client_name("thalweg-python").timeout(Duration::from_secs_f64(timeout_s));
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
    fn producer<'py>(
        &self,
        py: Python<'py>,
        topic: String,
        linger_ms: f64,
        batch_bytes: usize,
        compression: String,
        acks: String,
        delivery_timeout_s: f64,
        buffer_bytes: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let codec = Codec::from_name(&compression)
            .ok_or_else(|| invalid(format!("compression {compression:?} is unknown; none, lz4 or zstd")))?;
        let acks = match acks.as_str() {
            "none" => Acks::None,
            "leader" => Acks::Leader,
            "quorum" => Acks::Quorum,
            other => {
                return Err(invalid(format!("acks {other:?} is unknown; none, leader or quorum")));
            }
        };
        let builder = self
            .inner
            .producer(&topic)
            .linger(Duration::from_secs_f64(linger_ms.max(0.0) / 1e3))
            .batch_bytes(batch_bytes)
            .compression(codec)
            .acks(acks)
            .delivery_timeout(Duration::from_secs_f64(delivery_timeout_s.max(0.0)))
            .buffer_bytes(buffer_bytes);
        future_into_py(py, async move { Ok(Producer::new(builder.build().await.map_err(raise)?)) })
    }

    #[allow(clippy::too_many_arguments, reason = "keyword arguments of the Python side")]
    fn consumer<'py>(
        &self,
        py: Python<'py>,
        topic: String,
        partitions: Option<Vec<u32>>,
        start: (String, i64),
        until_end: bool,
        filter: Option<String>,
        filter_config: Vec<u8>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut builder = self.inner.consumer(&topic).start(position(&start.0, start.1)?);
        if let Some(partitions) = partitions {
            builder = builder.partitions(partitions);
        }
        if until_end {
            builder = builder.until_end();
        }
        if let Some(filter) = filter {
            builder = builder.filter(filter).filter_config(filter_config);
        }
        future_into_py(py, async move { Ok(Consumer::new(builder.build().await.map_err(raise)?)) })
    }
}
