//! The way of a chain out of a bad start ([`crate::adapt::descent`]).

use super::{Chain, Task};
use crate::adapt::descent::Descent;
use crate::chain::Arrays;
use crate::device::{Device, Row};
use crate::error::Result;

impl Chain {
    /// Leave a bad start: write the next position to try, or begin to sample.
    pub(super) fn go_down(&mut self, descent: Descent, dev: &mut dyn Device, arrays: &Arrays) -> Result<()> {
        if descent.is_over() {
            return self.begin(dev, arrays);
        }
        self.read_points(dev, arrays, 0, self.current_row())?;
        let [x, g, ..] = &mut self.host;
        descent.shift(x, g);
        dev.write(Row { buf: arrays.phase.x, index: self.row + usize::from(self.current == 0) }, x)?;
        self.task = Task::Descent(descent);
        Ok(())
    }

    /// Take in the log density of the position that was tried.
    pub(super) fn descend(&mut self, logp: f64, dev: &mut dyn Device, arrays: &Arrays) -> Result<()> {
        let Task::Descent(mut descent) = std::mem::replace(&mut self.task, Task::Done) else { return Ok(()) };
        let tried = self.row + self.spare_slot();
        self.read_points(dev, arrays, 0, tried)?;
        if descent.update(logp - self.logp, &self.host[1]) {
            (self.current, self.logp) = (self.spare_slot(), logp);
        }
        self.go_down(descent, dev, arrays)
    }
}
