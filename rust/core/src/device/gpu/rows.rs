//! Many rows at a time: within the device by one kernel, and to and from the host in one transfer.

use super::work::{Cut, RECORD, Scratch, Table, int};
use super::{Arg, Gpu};
use crate::device::{Buf, Device, Row};
use crate::error::Result;

/// Bytes that go between host and device in one transfer. Rows of more than half as many go one by one.
const TRANSFER: usize = 1 << 24;

/// Rows from one place to another, where a row has `dim` numbers.
pub struct Move {
    /// Address, and numbers from one row to the next.
    pub src: (Arg, usize),
    pub dst: (Arg, usize),
    pub dim: usize,
}

impl Gpu {
    /// Copy rows by one kernel; `rows` are pairs of a source and a destination.
    pub(super) fn move_rows(
        &mut self,
        which: Move,
        rows: impl Iterator<Item = (usize, usize)>,
    ) -> Result<()> {
        let mut table = Vec::new();
        for (from, to) in rows {
            let start = table.len();
            table.resize(start + RECORD, 0.0);
            table[start..start + 2].copy_from_slice(&[from as f64, to as f64]);
        }
        if table.is_empty() || which.dim == 0 {
            return Ok(());
        }
        let ops = Arg::Mem(self.work.table(Table::Ops, &table)?);
        let Move { src, dst, dim } = which;
        let args = [src.0, int(src.1), dst.0, int(dst.1), ops];
        self.work.launch("move_rows", table.len() / RECORD, Cut::new(dim), &args)
    }

    pub(super) fn copy_rows(&mut self, src: Buf, dst: Buf, rows: &[[usize; 2]]) -> Result<()> {
        self.check(src, rows.iter().map(|[from, _]| *from));
        self.check(dst, rows.iter().map(|[_, to]| *to));
        rows.iter().for_each(|[_, to]| self.arrays[dst.0].along.forget(*to));
        let dims = [src, dst].map(|buf| self.array(buf).dim);
        let which = Move { src: (self.mem(src), dims[0]), dst: (self.mem(dst), dims[1]), dim: dims[0] };
        assert_eq!(dims[0], dims[1], "rows of another length");
        if let [[from, to]] = *rows {
            let [from, to] = [(src, from), (dst, to)]
                .map(|(buf, index)| (self.array(buf).mem, self.start(Row { buf, index }) * self.bytes()));
            let length = dims[0] * self.bytes();
            return if length == 0 { Ok(()) } else { self.work.runtime.copy(from, to, length) };
        }
        self.move_rows(which, rows.iter().map(|[from, to]| (*from, *to)))
    }

    /// Rows that go between host and device together.
    fn together(&self, buf: Buf) -> usize {
        (TRANSFER / (self.array(buf).dim * self.bytes()).max(1)).max(1)
    }

    pub(super) fn download_rows(&mut self, buf: Buf, rows: &mut [(usize, &mut [f64])]) -> Result<()> {
        let (dim, together) = (self.array(buf).dim, self.together(buf));
        self.check(buf, rows.iter().map(|(row, _)| *row));
        let mut numbers = Vec::new();
        for rows in rows.chunks_mut(together) {
            if let [(index, dst)] = rows {
                self.read(Row { buf, index: *index }, dst)?;
                continue;
            }
            let staged = self.work.scratch(Scratch::Rows, rows.len() * dim * self.bytes())?;
            let which = Move { src: (self.mem(buf), dim), dst: (Arg::Mem(staged), dim), dim };
            self.move_rows(which, rows.iter().map(|(row, _)| *row).zip(0..))?;
            numbers.resize(rows.len() * dim, 0.0);
            self.read_reals(staged, 0, &mut numbers)?;
            let lines = numbers.chunks_exact(dim.max(1));
            rows.iter_mut().zip(lines).for_each(|((_, dst), line)| dst.copy_from_slice(line));
        }
        Ok(())
    }

    pub(super) fn upload_rows(&mut self, buf: Buf, rows: &[(usize, &[f64])]) -> Result<()> {
        let (dim, together) = (self.array(buf).dim, self.together(buf));
        self.check(buf, rows.iter().map(|(row, _)| *row));
        for rows in rows.chunks(together) {
            assert!(rows.iter().all(|(_, src)| src.len() == dim), "a row of another length");
            rows.iter().for_each(|(row, _)| self.arrays[buf.0].along.forget(*row));
            if let [(index, src)] = *rows {
                self.write(Row { buf, index }, src)?;
                continue;
            }
            let staged = self.work.scratch(Scratch::Rows, rows.len() * dim * self.bytes())?;
            let numbers: Vec<f64> = rows.iter().flat_map(|(_, src)| src.iter().copied()).collect();
            self.write_reals(staged, 0, &numbers)?;
            let which = Move { src: (Arg::Mem(staged), dim), dst: (self.mem(buf), dim), dim };
            self.move_rows(which, (0..).zip(rows.iter().map(|(row, _)| *row)))?;
        }
        Ok(())
    }
}
