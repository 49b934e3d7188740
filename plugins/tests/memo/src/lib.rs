//! A filter for tests: records whose value contains the config. It remembers each value's verdict, so that its heap has
//! holes which the next chunk is put into, and allocations that move between calls.

use std::collections::HashMap;
use std::sync::Mutex;

use thalweg_guest::{Filter, Record, Verdict, filter};

struct Memo {
    wanted: Vec<u8>,
    known: Mutex<HashMap<Vec<u8>, Verdict>>,
}

impl Filter for Memo {
    fn init(config: &[u8]) -> Result<Self, String> {
        Ok(Memo { wanted: config.to_vec(), known: Mutex::default() })
    }

    fn filter(&self, record: &Record<'_>) -> Verdict {
        let value = record.value.unwrap_or_default();
        let mut known = self.known.lock().expect("one thread");
        if let Some(verdict) = known.get(value) {
            return *verdict;
        }
        let contains = self.wanted.is_empty() || value.windows(self.wanted.len()).any(|w| w == self.wanted);
        let verdict = if contains { Verdict::Keep } else { Verdict::Drop };
        known.insert(value.to_vec(), verdict);
        verdict
    }
}

filter!(Memo);
