//! The phases of the exact-normal integrator, and distances in the norm of a metric.

use super::phases::{Group, record};
use super::runtime::Mem;
use super::work::{Scratch, Table, int};
use super::{Arg, Gpu};
use crate::device::{Metrics, Phase, Place, Turn};
use crate::error::Result;

impl Gpu {
    /// D^-1 (x - centre) of points, or M (x - centre) where the metric is diagonal: for each place the row of the result.
    fn pull_of_diagonal(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        group: &Group,
        places: &[(Place, usize)],
        to: Mem,
    ) -> Result<Arg> {
        let under = self.under(metrics, group.coupling.as_deref());
        let table: Vec<f64> = places
            .iter()
            .flat_map(|(Place { metric, row }, to)| record([*metric, *row, *to].map(|v| v as f64)))
            .collect();
        let ops = Arg::Mem(self.work.table(Table::More, &table)?);
        let same_scale = int(usize::from(under.rank > 0));
        let args =
            [self.mem(phase.x), self.mem(metrics.center), under.mass_sqrt, Arg::Mem(to), same_scale, ops];
        self.work.launch("pull", places.len(), self.cut(phase.x), &args)?;
        Ok(ops)
    }

    pub(super) fn find_pulls(&mut self, phase: &Phase, metrics: &Metrics, places: &[Place]) -> Result<()> {
        let pulls = phase.pulls()?;
        self.check(pulls, places.iter().map(|place| place.row));
        for group in self.groups(metrics, places, |place| place.metric) {
            let to = self.array(pulls).mem;
            let mine: Vec<_> = group.members.iter().map(|i| (places[*i], places[*i].row)).collect();
            let ops = self.pull_of_diagonal(phase, metrics, &group, &mine, to)?;
            let Some(coupling) = group.coupling.as_deref() else { continue };
            let (n, rank) = (mine.len(), coupling.rank);
            let found = self.work.scratch(Scratch::Found, n * rank * size_of::<f64>())?;
            let rows: Vec<_> = mine.iter().enumerate().map(|(i, (_, row))| [i, *row]).collect();
            self.project(coupling, to, &rows, (found, rank))?;
            let weights = Arg::Mem(self.weights(n, rank)?);
            let (found, values) = (Arg::Mem(found), Arg::Mem(coupling.values));
            // No sums are wanted, so there is no T g and there are no partial sums.
            let args =
                [found, int(rank), found, int(0), values, int(rank), ops, weights, int(0), weights, int(0)];
            self.work.launch_each("weigh_mass", n, &args)?;
            self.spread(coupling, to, n, ops, weights)?;
        }
        Ok(())
    }

    pub(super) fn distances(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        places: &[Place],
        out: &mut [f64],
    ) -> Result<()> {
        self.check(phase.x, places.iter().map(|place| place.row));
        let cut = self.cut(phase.x);
        let partials = Arg::Mem(self.work.partials(places.len(), cut)?);
        for group in self.groups(metrics, places, |place| place.metric) {
            let under = self.under(metrics, group.coupling.as_deref());
            let (n, rank) = (group.members.len(), under.rank);
            let mut coupled = None;
            if let Some(coupling) = group.coupling.as_deref() {
                let scaled = self.work.scratch(Scratch::Rows, n * cut.dim * self.bytes())?;
                let mine: Vec<_> = group.members.iter().enumerate().map(|(to, i)| (places[*i], to)).collect();
                self.pull_of_diagonal(phase, metrics, &group, &mine, scaled)?;
                let found = self.work.scratch(Scratch::Found, n * rank * size_of::<f64>())?;
                let rows: Vec<_> = (0..n).map(|i| [i, i]).collect();
                self.project(coupling, scaled, &rows, (found, rank))?;
                let along = self.know(coupling, phase.g, mine.iter().map(|(place, _)| place.row))?;
                coupled = Some((found, along, self.weights(n, rank)?));
            }
            let table: Vec<f64> = group
                .members
                .iter()
                .flat_map(|&i| {
                    let Place { metric, row } = places[i];
                    let [metric, row, scale, sum] = [metric, row, under.row(metric), i].map(|v| v as f64);
                    [metric, row, 0.0, scale, 0.0, 0.0, 0.0, sum]
                })
                .collect();
            let ops = Arg::Mem(self.work.table(Table::Ops, &table)?);
            let stride = int(cut.stride());
            if let Some((found, (along, of_along), weights)) = coupled {
                let [found, along, weights] = [found, along, weights].map(Arg::Mem);
                let rank = int(rank);
                let under = [under.values, rank, ops, weights, int(1), partials, stride];
                let args = [&[found, rank, along, int(of_along)], &under[..]].concat();
                self.work.launch_each("weigh_mass", n, &args)?;
            }
            let [x, g, center] = [phase.x, phase.g, metrics.center].map(|buf| self.mem(buf));
            let args = [x, g, center, under.inv_mass, under.mass_sqrt, int(rank), ops, partials, stride];
            self.work.launch("fisher_distance", n, cut, &args)?;
        }
        self.work.add_up(cut, &mut out[..places.len()])
    }

    pub(super) fn begin_turns(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Turn]) -> Result<()> {
        let pulls = phase.pulls()?;
        self.check(phase.x, ops.iter().flat_map(|op| [op.from, op.to]));
        let cut = self.cut(phase.x);
        for Group { coupling, members } in self.groups(metrics, ops, |op| op.metric) {
            let under = self.under(metrics, coupling.as_deref());
            let mine = || members.iter().map(|i| &ops[*i]);
            let weights = match coupling.as_deref() {
                Some(coupling) => {
                    // The kick by the gradient; that by the pull is a multiple of x - centre.
                    let kicks: Vec<_> = mine().map(|op| ([op.from, op.to], 1.0, op.kick)).collect();
                    Arg::Mem(self.weigh_kicks(coupling, phase, &kicks)?)
                }
                None => under.values,
            };
            mine().for_each(|op| self.arrays[phase.p.0].along.forget(op.to));
            let table: Vec<f64> = mine()
                .flat_map(|&Turn { metric, from, to, kick, angle }| {
                    let (sin, cos) = (angle.sin(), angle.cos());
                    // 1 - cos without cancellation.
                    let fall = sin * sin / (1.0 + cos);
                    let share = if under.rank > 0 { kick * sin - fall } else { -fall };
                    let [center, from, to, scale] = [metric, from, to, under.row(metric)].map(|v| v as f64);
                    [center, from, to, kick, sin, cos, share, scale]
                })
                .collect();
            let ops = Arg::Mem(self.work.table(Table::Ops, &table)?);
            let [x, p, g] = [phase.x, phase.p, phase.g].map(|buf| self.mem(buf));
            let [pull, center] = [pulls, metrics.center].map(|buf| self.mem(buf));
            let metric = [center, under.inv_mass, under.directions, weights, int(under.rank), ops];
            self.work.launch("turn", members.len(), cut, &[&[x, p, g, pull], &metric[..]].concat())?;
        }
        Ok(())
    }

    pub(super) fn finish_turns(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Turn],
        kinetic: &mut [f64],
    ) -> Result<()> {
        let pulls = phase.pulls()?;
        self.check(phase.p, ops.iter().map(|op| op.to));
        let cut = self.cut(phase.p);
        let partials = Arg::Mem(self.work.partials(ops.len(), cut)?);
        for Group { coupling, members } in self.groups(metrics, ops, |op| op.metric) {
            let under = self.under(metrics, coupling.as_deref());
            let table: Vec<f64> = members
                .iter()
                .flat_map(|&i| {
                    let Turn { metric, to, kick, .. } = ops[i];
                    [under.row(metric) as f64, to as f64, kick, 0.0, 0.0, 0.0, 0.0, i as f64]
                })
                .collect();
            let rows = || members.iter().map(|i| ops[*i].to);
            rows().for_each(|row| self.arrays[phase.p.0].along.forget(row));
            let [p, g, pull] = [phase.p, phase.g, pulls].map(|buf| self.mem(buf));
            let table_arg = Arg::Mem(self.work.table(Table::Ops, &table)?);
            let (rank, stride) = (int(under.rank), int(cut.stride()));
            let args = [p, g, pull, under.inv_mass, rank, table_arg, partials, stride];
            self.work.launch("finish_turn", members.len(), cut, &args)?;
            if let Some(coupling) = coupling.as_deref() {
                let (along, of_along) = self.know(coupling, phase.p, rows())?;
                let table_arg = Arg::Mem(self.work.table(Table::Ops, &table)?);
                let (along, of_along) = (Arg::Mem(along), int(of_along));
                // T g is not read, for only the first of the products is wanted.
                let args = [along, along, of_along, of_along, under.values, rank, table_arg, int(1)];
                let args = [&args[..], &[partials, stride]].concat();
                self.work.launch_each("weigh_products", members.len(), &args)?;
            }
        }
        let kinetic = &mut kinetic[..ops.len()];
        self.work.add_up(cut, kinetic)?;
        kinetic.iter_mut().for_each(|v| *v *= 0.5);
        Ok(())
    }
}
