//! Values as JSON: of records to send, and of records that were read.
//!
//! It stands above both kinds of records and above errors, which carry a record. What a value is otherwise is left to
//! `record.rs` and `batch.rs`.

use crate::{ConsumerRecord, Error, ErrorKind, Record, Result};

impl Record {
    /// A record whose value is the JSON of anything that serde writes.
    ///
    /// # Errors
    /// `invalid` for what has no JSON, a map whose keys are no strings, or a type that says so itself: send another
    /// shape of it.
    ///
    /// ```
    /// # fn main() -> Result<(), thalweg::Error> {
    /// let order = serde_json::json!({ "id": 7, "total": 19.9 });
    /// let record = thalweg::Record::json(&order)?.key("customer-7");
    /// assert_eq!(record.value_bytes().unwrap(), &br#"{"id":7,"total":19.9}"#[..]);
    /// # Ok(()) }
    /// ```
    pub fn json(value: &impl serde::Serialize) -> Result<Record> {
        let json = serde_json::to_vec(value);
        let error = |e| Error::because(ErrorKind::Invalid, "the value has no JSON", e);
        Ok(Record::new(json.map_err(error)?))
    }
}

impl ConsumerRecord {
    /// The value from JSON, as any type that serde reads; `None` for a tombstone.
    ///
    /// # Errors
    /// `invalid` for what is not JSON, or not of that type: pass the record over, or put it aside for somebody to look
    /// at.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>> {
        let json = self.value().map(|value| serde_json::from_slice(value)).transpose();
        let what = std::any::type_name::<T>();
        json.map_err(|e| {
            Error::because(ErrorKind::Invalid, format!("value at offset {} is not JSON of {what}", self.offset()), e)
        })
    }
}
