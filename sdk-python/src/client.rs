//! The client: topics and plugins, and where producers and consumers come from.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyInt, PyList, PyString};
use thalweg::bindings::{self, ConsumerOptions, ProducerOptions, Value, milliseconds, seconds};
use thalweg::{ClientBuilder, ConsumerBuilder};

use crate::consumer::Consumer;
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

/// What a call answers with: a struct is a dictionary of its fields.
struct Answer(Value);

impl<'py> IntoPyObject<'py> for Answer {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self.0 {
            Value::None => py.None().into_bound(py),
            Value::Bool(it) => PyBool::new(py, it).to_owned().into_any(),
            Value::Int(it) => it.into_pyobject(py)?.into_any(),
            Value::Text(it) => it.into_pyobject(py)?.into_any(),
            Value::Bytes(it) => PyBytes::new(py, &it).into_any(),
            Value::List(items) => PyList::new(py, items.into_iter().map(Answer))?.into_any(),
            Value::Map(fields) => {
                let dict = PyDict::new(py);
                fields.into_iter().try_for_each(|(name, value)| dict.set_item(name, Answer(value)))?;
                dict.into_any()
            }
        })
    }
}

/// An argument as it was given; lists are lists or tuples.
fn value_of(given: &Bound<'_, PyAny>) -> PyResult<Value> {
    Ok(if given.is_none() {
        Value::None
    } else if let Ok(it) = given.cast::<PyBool>() {
        Value::Bool(it.is_true())
    } else if given.is_instance_of::<PyInt>() {
        Value::Int(given.extract().map_err(|_| PyValueError::new_err(format!("{given} has more than 128 bits")))?)
    } else if given.is_instance_of::<PyString>() {
        Value::Text(given.extract()?)
    } else if let Ok(it) = given.cast::<PyBytes>() {
        Value::Bytes(it.as_bytes().to_vec().into())
    } else if let Ok(items) = given.extract::<Vec<Bound<'_, PyAny>>>() {
        Value::List(items.iter().map(value_of).collect::<PyResult<_>>()?)
    } else {
        return Err(PyTypeError::new_err(format!("no call takes a {}", given.get_type().name()?)));
    })
}

#[pymethods]
impl Client {
    /// A call of `thalweg::bindings`, by its name and with arguments by theirs.
    fn call<'py>(&self, py: Python<'py>, name: String, arguments: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
        let client = self.inner.clone();
        let argument = |(name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>)| Ok((name.extract()?, value_of(&value)?));
        let arguments = arguments.iter().map(argument).collect::<PyResult<bindings::Arguments>>()?;
        future_into_py(py, async move { bindings::call(client, &name, arguments).await.map(Answer).map_err(raise) })
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
    fn consumer(&self, topics: Vec<String>, options: Reading) -> PyResult<Unopened> {
        let builder = options.builder(&self.inner, topics).map_err(raise)?;
        builder.check().map_err(raise)?;
        Ok(Unopened { builder })
    }
}

/// A consumer that is not open yet. What can be known of its options without asking the cluster has been checked.
#[pyclass(frozen)]
pub(crate) struct Unopened {
    builder: ConsumerBuilder,
}

#[pymethods]
impl Unopened {
    fn open<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let builder = self.builder.clone();
        future_into_py(py, async move { Ok(Consumer::new(builder.build().await.map_err(raise)?)) })
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
