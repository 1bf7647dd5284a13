//! Lists of operations as tables for a device that is a Python object.

use numpy::{IntoPyArray, PyArrayMethods};
use nutpie_core::device::{Place, Refresh, Span, Turn};
use nutpie_core::error::{Error, Result};
use pyo3::prelude::*;

/// A list of operations: whole numbers and floats, one line for each.
#[derive(Default)]
pub struct Table {
    ints: Vec<i64>,
    floats: Vec<f64>,
    lines: usize,
}

impl Table {
    /// Add an operation.
    pub fn add<const I: usize, const F: usize>(&mut self, ints: [usize; I], floats: [f64; F]) {
        self.ints.extend(ints.map(|i| i as i64));
        self.floats.extend(floats);
        self.lines += 1;
    }

    /// One line for each operation.
    pub fn from<T, const I: usize, const F: usize>(
        ops: &[T],
        line: impl Fn(&T) -> ([usize; I], [f64; F]),
    ) -> Self {
        let mut table = Table::default();
        ops.iter().map(line).for_each(|(ints, floats)| table.add(ints, floats));
        table
    }

    /// Arrays of two dimensions.
    pub fn into_python(self, py: Python<'_>) -> PyResult<[Bound<'_, PyAny>; 2]> {
        let Table { ints, floats, lines } = self;
        let widths = [ints.len(), floats.len()].map(|length| length / lines.max(1));
        Ok([
            ints.into_pyarray(py).reshape([lines, widths[0]])?.into_any(),
            floats.into_pyarray(py).reshape([lines, widths[1]])?.into_any(),
        ])
    }
}

/// No row.
pub const NONE: usize = usize::MAX;

/// Put what a phase found, all of one kind after all of another, where it belongs.
pub fn deal(found: &[f64], into: &mut [&mut [f64]]) -> Result<()> {
    let mut rest = found;
    for out in into {
        let Some((own, others)) = rest.split_at_checked(out.len()) else {
            return Err(Error::Device("a phase of the device found too little".into()));
        };
        out.copy_from_slice(own);
        rest = others;
    }
    Ok(())
}

/// Metric and row, and the address of the random numbers.
pub fn key_words(fresh: &Refresh) -> [usize; 7] {
    let Refresh { metric, row, key, purpose } = *fresh;
    let (low, high) = (key.seed as u32, (key.seed >> 32) as u32);
    let words = [low, high, key.draw, key.chain, purpose.code()].map(|word| word as usize);
    [metric, row, words[0], words[1], words[2], words[3], words[4]]
}

/// A point under a metric.
pub fn place_line(place: &Place) -> ([usize; 2], [f64; 0]) {
    ([place.metric, place.row], [])
}

/// A turn.
pub fn turn_line(op: &Turn) -> ([usize; 3], [f64; 2]) {
    ([op.metric, op.from, op.to], [op.kick, op.angle])
}

/// Start, leaf it belongs to, and whether that is the next point.
pub fn span_table(counts: impl Iterator<Item = usize>, spans: &[Span]) -> Table {
    let owners = counts.enumerate().flat_map(|(leaf, count)| std::iter::repeat_n((leaf, count), count));
    let mut table = Table::default();
    let mut last = NONE;
    for ((leaf, _), span) in owners.zip(spans) {
        // Only the first span of a leaf may be that from the point just before.
        let adjacent = usize::from(span.adjacent && leaf != last);
        last = leaf;
        table.add([span.start, leaf, adjacent], []);
    }
    table
}
