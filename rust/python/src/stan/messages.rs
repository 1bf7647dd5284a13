//! Messages of errors, each kept once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Kinds of messages that are kept; a model with more has something else wrong with it.
const MAX_KINDS: usize = 200;

/// How often each kind of message came, with the first of its kind.
#[derive(Default)]
pub struct Messages {
    kinds: Mutex<HashMap<String, Kind>>,
}

struct Kind {
    first: String,
    count: u64,
    order: usize,
}

impl Messages {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Kind>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Count a message.
    pub fn add(&self, text: String) {
        let mut kinds = self.lock();
        let order = kinds.len();
        let key = without_numbers(&text);
        if let Some(kind) = kinds.get_mut(&key) {
            kind.count += 1;
        } else if order < MAX_KINDS {
            kinds.insert(key, Kind { first: text, count: 1, order });
        }
    }

    /// The messages in the order in which they first came, and how often they did.
    pub fn list(&self) -> Vec<(String, u64)> {
        let kinds = self.lock();
        let mut found: Vec<_> = kinds.values().collect();
        found.sort_by_key(|kind| kind.order);
        found.into_iter().map(|kind| (kind.first.clone(), kind.count)).collect()
    }
}

/// The text with all numbers alike, which differ from point to point. Places in the program, `line 5, column 2`, are kept.
fn without_numbers(text: &str) -> String {
    let (message, place) = text.rfind(" (in '").map_or((text, ""), |at| text.split_at(at));
    let mut key = String::with_capacity(text.len());
    let mut in_number = false;
    for c in message.chars() {
        let numeric = c.is_ascii_digit() || (in_number && matches!(c, '.' | 'e' | '+' | '-'));
        if numeric && !in_number {
            key.push('#');
        }
        if !numeric {
            key.push(c);
        }
        in_number = numeric;
    }
    // Signs, and what is written instead of a number.
    let key = key
        .replace("-#", "#")
        .replace("-nan", "#")
        .replace("nan", "#")
        .replace("-inf", "#")
        .replace("inf", "#");
    key + place
}
