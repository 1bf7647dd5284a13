//! A density that lives on a device that is a Python object.

use nutpie_core::density::Density;
use nutpie_core::device::{Device, Metrics, Phase};
use nutpie_core::error::{Error, Result};
use nutpie_core::integrate::{Asked, Found};

use crate::lines::{NONE, Table, deal, span_table};
use crate::pydevice::PyDevice;

/// The density of the device that a block of chains is on.
pub struct ResidentDensity {
    dim: usize,
}

impl ResidentDensity {
    /// Of so many parameters.
    pub fn new(dim: usize) -> Self {
        ResidentDensity { dim }
    }
}

fn own(dev: &mut dyn Device) -> Result<&mut PyDevice> {
    dev.foreign()
        .and_then(|device| device.downcast_mut())
        .ok_or_else(|| Error::Device("this density belongs to another device".into()))
}

/// Whether all steps of a round are leapfrog steps, or all isokinetic ones.
fn kinds(asked: &Asked<'_>) -> [bool; 2] {
    let all = asked.rows.len();
    [asked.leaves.len() == all, asked.glides.len() == all]
}

/// The leapfrog steps of a round: metric, start, new point, whether the first half was done before, point after that, whether
/// nobody wants the new momentum; kick, drift, drift of the step after.
fn leapfrogs(dev: &PyDevice, metrics: &Metrics, asked: &Asked<'_>) -> Table {
    let mut steps = asked.steps.iter().peekable();
    let mut table = Table::default();
    for leaf in dev.placed(metrics, asked.leaves) {
        let step = steps.next_if(|step| step.to == leaf.row);
        let (from, drift) = step.map_or((leaf.row, 0.0), |step| (step.from, step.drift));
        let (on, onward) = leaf.onward.unwrap_or((NONE, 0.0));
        let begun = usize::from(step.is_none());
        let passing = usize::from(leaf.passing);
        table.add([leaf.metric, from, leaf.row, begun, on, passing], [leaf.kick, drift, onward]);
    }
    table
}

fn glides(dev: &PyDevice, metrics: &Metrics, asked: &Asked<'_>) -> Table {
    let mut table = Table::default();
    for op in dev.placed(metrics, asked.glides) {
        table.add([op.metric, op.from, op.to], [op.scale, op.kick, op.drift]);
    }
    table
}

impl Density for ResidentDensity {
    fn dim(&self) -> usize {
        self.dim
    }

    fn logp_grad(
        &mut self,
        dev: &mut dyn Device,
        phase: &Phase,
        rows: &[usize],
        logp: &mut [f64],
    ) -> Result<()> {
        let mut table = Table::default();
        rows.iter().for_each(|row| table.add([*row], []));
        deal(&own(dev)?.call("evaluate", &[phase.x, phase.g], [table], &[phase.g])?, &mut [logp])
    }

    fn round(
        &mut self,
        dev: &mut dyn Device,
        phase: &Phase,
        metrics: &Metrics,
        asked: &Asked<'_>,
        found: &mut Found<'_>,
    ) -> Result<()> {
        let changed = [phase.x, phase.p, phase.g];
        match kinds(asked) {
            [true, _] => {
                let spans = span_table(asked.leaves.iter().map(|leaf| leaf.spans), asked.spans);
                let own = own(dev)?;
                let tables = [leapfrogs(own, metrics, asked), spans];
                let scalars = own.phase("leapfrog", phase, metrics, tables, &changed)?;
                let (kinetic, dots) = &mut found.of_leaves;
                deal(&scalars, &mut [&mut *found.logp, &mut **kinetic, dots.as_flattened_mut()])?;
                asked.reach(dev, phase, metrics, found)
            }
            [_, true] => {
                let own = own(dev)?;
                let table = glides(own, metrics, asked);
                let scalars = own.phase("isokinetic", phase, metrics, [table], &changed)?;
                let (kinetic, dots) = &mut found.of_places;
                deal(&scalars, &mut [&mut *found.logp, &mut **kinetic, dots.as_flattened_mut()])
            }
            _ => {
                asked.before(dev, phase, metrics)?;
                self.logp_grad(dev, phase, asked.rows, found.logp)?;
                asked.after(dev, phase, metrics, found)
            }
        }
    }
}
