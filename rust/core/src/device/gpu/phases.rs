//! The phases of trajectories and their momenta.

use std::sync::Arc;

use super::coupling::Coupling;
use super::runtime::Mem;
use super::work::{RECORD, Scratch, Table, int};
use super::{Arg, Gpu};
use crate::device::{Buf, Dots, Glide, Leaf, Metrics, Phase, Place, Reach, Refresh, Renewal, Span};
use crate::error::Result;

/// Operations of a list that have the same coupled metric, or diagonal ones: one launch.
pub struct Group {
    pub coupling: Option<Arc<Coupling>>,
    /// Indices in the list.
    pub members: Vec<usize>,
}

/// The metrics of a group, for kernels.
pub struct Under {
    pub inv_mass: Arg,
    pub mass_sqrt: Arg,
    pub directions: Arg,
    /// Functions of the eigenvalues.
    pub values: Arg,
    pub rank: usize,
}

impl Under {
    /// The row of what a metric scales by.
    pub fn row(&self, metric: usize) -> usize {
        if self.rank > 0 { 0 } else { metric }
    }
}

/// A record of an operation.
pub fn record<const N: usize>(numbers: [f64; N]) -> [f64; RECORD] {
    std::array::from_fn(|i| numbers.get(i).copied().unwrap_or(0.0))
}

impl Gpu {
    /// The operations of a list by their metrics, in the order of the list.
    pub(super) fn groups<T>(&self, metrics: &Metrics, ops: &[T], metric: impl Fn(&T) -> usize) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (i, op) in ops.iter().enumerate() {
            let coupling = &self.couplings[metrics.id][metric(op)];
            let id = |coupling: &Option<Arc<Coupling>>| coupling.as_ref().map(|coupling| coupling.id);
            match groups.iter_mut().find(|group| id(&group.coupling) == id(coupling)) {
                Some(group) => group.members.push(i),
                None => groups.push(Group { coupling: coupling.clone(), members: vec![i] }),
            }
        }
        groups
    }

    pub(super) fn under(&self, metrics: &Metrics, coupling: Option<&Coupling>) -> Under {
        let [inv_mass, mass_sqrt] = [metrics.inv_mass, metrics.mass_sqrt].map(|buf| self.mem(buf));
        match coupling {
            Some(coupling) => Under {
                inv_mass: Arg::Mem(coupling.inv_mass),
                mass_sqrt: Arg::Mem(coupling.mass_sqrt),
                directions: Arg::Mem(coupling.directions),
                values: Arg::Mem(coupling.values),
                rank: coupling.rank,
            },
            // Any memory does for what is not read.
            None => Under { inv_mass, mass_sqrt, directions: inv_mass, values: inv_mass, rank: 0 },
        }
    }

    /// Memory for the weights of some operations.
    pub(super) fn weights(&mut self, n: usize, rank: usize) -> Result<Mem> {
        self.work.scratch(Scratch::Weights, n * rank * size_of::<f64>())
    }

    /// T p and T g of some rows of a phase, known: their memory and strides, as kernels take them.
    fn know_both(
        &mut self,
        coupling: &Coupling,
        phase: &Phase,
        rows: impl Iterator<Item = usize> + Clone,
    ) -> Result<[Arg; 4]> {
        let (p, stride_p) = self.know(coupling, phase.p, rows.clone())?;
        let (g, stride_g) = self.know(coupling, phase.g, rows)?;
        Ok([Arg::Mem(p), Arg::Mem(g), int(stride_p), int(stride_g)])
    }

    /// What a coupled metric needs before a kick and a drift: T p' of the new points, and the weights of the drifts.
    pub(super) fn weigh_kicks(
        &mut self,
        coupling: &Coupling,
        phase: &Phase,
        kicks: &[([usize; 2], f64, f64)],
    ) -> Result<Mem> {
        let along = self.know_both(coupling, phase, kicks.iter().map(|([from, _], ..)| *from))?;
        self.follows(coupling, phase.p, kicks.iter().map(|([_, to], ..)| *to));
        let table: Vec<f64> = kicks
            .iter()
            .flat_map(|([from, to], scale, kick)| record([0.0, *from as f64, *to as f64, *scale, *kick]))
            .collect();
        let ops = self.work.table(Table::Ops, &table)?;
        let weights = self.weights(kicks.len(), coupling.rank)?;
        let under = [Arg::Mem(coupling.values), int(coupling.rank), Arg::Mem(ops), Arg::Mem(weights)];
        self.work.launch_each("weigh_glide", kicks.len(), &[&along[..], &under].concat())?;
        Ok(weights)
    }

    pub(super) fn step(&mut self, phase: &Phase, metrics: &Metrics, ops: &[Glide]) -> Result<()> {
        self.check(phase.x, ops.iter().flat_map(|op| [op.from, op.to]));
        let cut = self.cut(phase.x);
        for Group { coupling, members } in self.groups(metrics, ops, |op| op.metric) {
            let under = self.under(metrics, coupling.as_deref());
            let mine = || members.iter().map(|i| &ops[*i]);
            let weights = match coupling.as_deref() {
                Some(coupling) => {
                    let kicks: Vec<_> = mine().map(|op| ([op.from, op.to], op.scale, op.kick)).collect();
                    Arg::Mem(self.weigh_kicks(coupling, phase, &kicks)?)
                }
                None => {
                    mine().for_each(|op| self.arrays[phase.p.0].along.forget(op.to));
                    under.values
                }
            };
            let table: Vec<f64> = mine()
                .flat_map(|op| {
                    let [metric, from, to] = [under.row(op.metric), op.from, op.to].map(|v| v as f64);
                    record([metric, from, to, op.scale, op.kick, op.drift])
                })
                .collect();
            let ops = Arg::Mem(self.work.table(Table::Ops, &table)?);
            let [x, p, g] = [phase.x, phase.p, phase.g].map(|buf| self.mem(buf));
            let args = [x, p, g, under.inv_mass, under.directions, weights, int(under.rank), ops];
            self.work.launch("glide", members.len(), cut, &args)?;
        }
        Ok(())
    }

    /// Upload spans.
    fn span_table(&mut self, spans: &[Span]) -> Result<Arg> {
        let table: Vec<f64> =
            spans.iter().flat_map(|span| [span.start as f64, f64::from(u8::from(span.adjacent))]).collect();
        self.work.table(Table::More, &table).map(Arg::Mem)
    }

    pub(super) fn finish_leaves(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        leaves: &[Leaf],
        spans: &[Span],
        kinetic: &mut [f64],
        dots: &mut [Dots],
    ) -> Result<()> {
        let onward = |leaf: &Leaf| leaf.onward.map(|(to, _)| to);
        self.check(phase.x, leaves.iter().flat_map(|leaf| [Some(leaf.row), onward(leaf)]).flatten());
        self.check(phase.x, spans.iter().map(|span| span.start));
        let cut = self.cut(phase.x);
        let firsts = firsts(leaves.iter().map(|leaf| leaf.spans));
        let n_sums = leaves.len() + 2 * spans.len();
        let partials = Arg::Mem(self.work.partials(n_sums, cut)?);
        let spans_arg = self.span_table(spans)?;
        let more = [partials, int(leaves.len()), int(cut.stride())];
        for Group { coupling, members } in self.groups(metrics, leaves, |leaf| leaf.metric) {
            let under = self.under(metrics, coupling.as_deref());
            let mine = || members.iter().map(|i| &leaves[*i]);
            let mut along = None;
            let weights = match coupling.as_deref() {
                Some(coupling) => {
                    let starts = members.iter().flat_map(|i| &spans[firsts[*i]..][..leaves[*i].spans]);
                    let rows = mine().map(|leaf| leaf.row).chain(starts.map(|span| span.start));
                    along = Some(self.know_both(coupling, phase, rows)?);
                    self.follows(coupling, phase.p, mine().filter_map(onward));
                    Arg::Mem(self.weights(members.len(), under.rank)?)
                }
                None => {
                    let changed = mine().flat_map(|leaf| [Some(leaf.row), onward(leaf)]).flatten();
                    changed.for_each(|row| self.arrays[phase.p.0].along.forget(row));
                    under.values
                }
            };
            let table: Vec<f64> = members
                .iter()
                .flat_map(|&i| {
                    let Leaf { metric, row, kick, onward, spans, passing } = leaves[i];
                    let (to, drift) = onward.map_or((-1.0, 0.0), |(to, drift)| (to as f64, drift));
                    let [metric, row, first, n] =
                        [under.row(metric), row, firsts[i], spans].map(|v| v as f64);
                    [metric, row, kick, to, drift, first, if passing { -1.0 } else { n }, i as f64]
                })
                .collect();
            let ops = Arg::Mem(self.work.table(Table::Ops, &table)?);
            if let Some(along) = along {
                let args = [under.values, int(under.rank), ops, spans_arg, weights];
                self.work.launch_each("weigh_leaf", members.len(), &[&along[..], &args, &more].concat())?;
            }
            let [x, p, g] = [phase.x, phase.p, phase.g].map(|buf| self.mem(buf));
            let args = [x, p, g, under.inv_mass, under.directions, weights, int(under.rank), ops, spans_arg];
            self.work.launch("finish_leaf", members.len(), cut, &[&args[..], &more].concat())?;
            let passed = mine().filter(|leaf| leaf.passing);
            passed.for_each(|leaf| self.arrays[phase.p.0].along.forget(leaf.row));
        }
        let mut sums = vec![0.0; n_sums];
        self.work.add_up(cut, &mut sums)?;
        let (of_leaves, of_spans) = sums.split_at(leaves.len());
        kinetic.iter_mut().zip(of_leaves).for_each(|(kinetic, sum)| *kinetic = 0.5 * sum);
        dots.iter_mut().zip(of_spans.as_chunks().0).for_each(|(dots, sums)| *dots = *sums);
        Ok(())
    }

    pub(super) fn measure_reaches(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        reaches: &[Reach],
        spans: &[Span],
        dots: &mut [Dots],
    ) -> Result<()> {
        self.check(phase.x, reaches.iter().map(|reach| reach.row).chain(spans.iter().map(|span| span.start)));
        let cut = self.cut(phase.x);
        let firsts = firsts(reaches.iter().map(|reach| reach.spans));
        let partials = Arg::Mem(self.work.partials(2 * spans.len(), cut)?);
        let spans_arg = self.span_table(spans)?;
        for Group { coupling, members } in self.groups(metrics, reaches, |reach| reach.metric) {
            let under = self.under(metrics, coupling.as_deref());
            let mut along = None;
            if let Some(coupling) = coupling.as_deref() {
                let starts = members.iter().flat_map(|i| &spans[firsts[*i]..][..reaches[*i].spans]);
                let rows = members.iter().map(|i| reaches[*i].row).chain(starts.map(|span| span.start));
                along = Some(self.know(coupling, phase.p, rows)?);
            }
            let table: Vec<f64> = members
                .iter()
                .flat_map(|&i| {
                    let Reach { metric, row, half, spans } = reaches[i];
                    let [metric, row, first, n] =
                        [under.row(metric), row, firsts[i], spans].map(|v| v as f64);
                    record([metric, row, half, -1.0, 0.0, first, n])
                })
                .collect();
            let ops = Arg::Mem(self.work.table(Table::Ops, &table)?);
            let more = [ops, spans_arg, partials, int(cut.stride())];
            if let Some((mem, stride)) = along {
                let args = [Arg::Mem(mem), int(stride), under.values, int(under.rank)];
                self.work.launch_each("weigh_reach", members.len(), &[&args[..], &more].concat())?;
            }
            let args = [self.mem(phase.x), self.mem(phase.p), under.inv_mass, int(under.rank)];
            self.work.launch("reach", members.len(), cut, &[&args[..], &more].concat())?;
        }
        self.work.add_up(cut, dots[..spans.len()].as_flattened_mut())
    }

    pub(super) fn inner_products(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        places: &[Place],
        kinetic: &mut [f64],
        dots: &mut [Dots],
    ) -> Result<()> {
        self.check(phase.p, places.iter().map(|place| place.row));
        let cut = self.cut(phase.p);
        let partials = Arg::Mem(self.work.partials(3 * places.len(), cut)?);
        for Group { coupling, members } in self.groups(metrics, places, |place| place.metric) {
            let under = self.under(metrics, coupling.as_deref());
            let mut along = None;
            if let Some(coupling) = coupling.as_deref() {
                along = Some(self.know_both(coupling, phase, members.iter().map(|i| places[*i].row))?);
            }
            let table: Vec<f64> = members
                .iter()
                .flat_map(|&i| {
                    let Place { metric, row } = places[i];
                    let [metric, row, sum] = [under.row(metric), row, 3 * i].map(|v| v as f64);
                    [metric, row, 0.0, 0.0, 0.0, 0.0, 0.0, sum]
                })
                .collect();
            let ops = Arg::Mem(self.work.table(Table::Ops, &table)?);
            if let Some(along) = along {
                let args = [under.values, int(under.rank), ops, int(3), partials, int(cut.stride())];
                self.work.launch_each("weigh_products", members.len(), &[&along[..], &args].concat())?;
            }
            let [p, g] = [phase.p, phase.g].map(|buf| self.mem(buf));
            let args = [p, g, under.inv_mass, int(under.rank), ops, partials, int(cut.stride())];
            self.work.launch("products", members.len(), cut, &args)?;
        }
        let mut sums = vec![0.0; 3 * places.len()];
        self.work.add_up(cut, &mut sums)?;
        for ((sums, kinetic), dots) in sums.as_chunks::<3>().0.iter().zip(kinetic).zip(dots) {
            (*kinetic, *dots) = (0.5 * sums[0], [sums[1], sums[2]]);
        }
        Ok(())
    }

    /// Run `refresh` for some operations, into rows of memory. The sums go to the given places.
    fn draw(
        &mut self,
        to: Arg,
        under: &Under,
        ops: &[(Refresh, f64, usize)],
        rows: impl Iterator<Item = usize>,
        buf: Buf,
    ) -> Result<()> {
        let cut = self.cut(buf);
        let table: Vec<f64> = ops
            .iter()
            .zip(rows)
            .flat_map(|((Refresh { metric, key, purpose, .. }, keep, _), row)| {
                let halves = [key.seed as u32, (key.seed >> 32) as u32];
                let [low, high, draw, chain, code] =
                    [halves[0], halves[1], key.draw, key.chain, purpose.code()].map(f64::from);
                [under.row(*metric) as f64, row as f64, low, high, draw, chain, code, *keep]
            })
            .collect();
        let places: Vec<f64> = ops.iter().map(|(.., place)| *place as f64).collect();
        let n_sums = ops.iter().map(|(.., place)| place + 1).max().unwrap_or(0);
        let [table, places] = [(Table::Ops, table), (Table::More, places)]
            .map(|(which, numbers)| self.work.table(which, &numbers).map(Arg::Mem));
        let partials = Arg::Mem(self.work.partials(n_sums, cut)?);
        // The directions add nothing to these sums, whatever the rank.
        let args =
            [to, under.inv_mass, under.mass_sqrt, int(0), table?, places?, partials, int(cut.stride())];
        self.work.launch("refresh", ops.len(), cut, &args)
    }

    pub(super) fn draw_momenta(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Refresh],
        kinetic: &mut [f64],
    ) -> Result<()> {
        self.check(phase.p, ops.iter().map(|op| op.row));
        let cut = self.cut(phase.p);
        self.work.partials(ops.len(), cut)?;
        for Group { coupling, members } in self.groups(metrics, ops, |op| op.metric) {
            let under = self.under(metrics, coupling.as_deref());
            let mine: Vec<_> = members.iter().map(|i| (ops[*i], 0.0, *i)).collect();
            let rows = || mine.iter().map(|(op, ..)| op.row);
            let p = self.array(phase.p).mem;
            self.draw(Arg::Mem(p), &under, &mine, rows(), phase.p)?;
            let Some(coupling) = coupling.as_deref() else {
                rows().for_each(|row| self.arrays[phase.p.0].along.forget(row));
                continue;
            };
            let along = self.along(phase.p, coupling.rank)?;
            self.follows(coupling, phase.p, rows());
            let places: Vec<_> = rows().map(|row| [row, row]).collect();
            self.make_momenta(coupling, p, &places, along)?;
        }
        let kinetic = &mut kinetic[..ops.len()];
        self.work.add_up(cut, kinetic)?;
        kinetic.iter_mut().for_each(|v| *v *= 0.5);
        Ok(())
    }

    /// Make S^-1 z in rows of memory into momenta with covariance M, and find T p: for each place its row there and the row
    /// of z.
    fn make_momenta(
        &mut self,
        coupling: &Coupling,
        p: Mem,
        places: &[[usize; 2]],
        (along, stride): (Mem, usize),
    ) -> Result<()> {
        self.project(coupling, p, places, (along, stride))?;
        let table: Vec<f64> =
            places.iter().flat_map(|[to, row]| record([0.0, *to as f64, *row as f64])).collect();
        let ops = Arg::Mem(self.work.table(Table::Ops, &table)?);
        let weights = Arg::Mem(self.weights(places.len(), coupling.rank)?);
        let args =
            [Arg::Mem(along), int(stride), Arg::Mem(coupling.values), int(coupling.rank), ops, weights];
        self.work.launch_each("weigh_momentum", places.len(), &args)?;
        self.spread(coupling, p, places.len(), ops, weights)
    }

    /// Add T^T weights / D to the rows that the records have in their third place.
    pub(super) fn spread(
        &mut self,
        coupling: &Coupling,
        to: Mem,
        n: usize,
        ops: Arg,
        weights: Arg,
    ) -> Result<()> {
        let [to, mass_sqrt, directions] = [to, coupling.mass_sqrt, coupling.directions].map(Arg::Mem);
        let args = [to, mass_sqrt, directions, weights, int(coupling.rank), ops];
        self.work.launch("spread", n, super::Cut::new(coupling.metric.dim()), &args)
    }

    pub(super) fn renew_momenta(
        &mut self,
        phase: &Phase,
        metrics: &Metrics,
        ops: &[Renewal],
        kinetic: &mut [f64],
    ) -> Result<()> {
        self.check(phase.p, ops.iter().map(|op| op.fresh.row));
        let (cut, p) = (self.cut(phase.p), self.mem(phase.p));
        let rows = |members: &[usize]| members.iter().map(|i| ops[*i].fresh.row).collect::<Vec<_>>();
        for Group { coupling, members } in self.groups(metrics, ops, |op| op.fresh.metric) {
            let under = self.under(metrics, coupling.as_deref());
            rows(&members).into_iter().for_each(|row| self.arrays[phase.p.0].along.forget(row));
            let n = members.len();
            let Some(coupling) = coupling.as_deref() else {
                let mine: Vec<_> =
                    members.iter().enumerate().map(|(sum, i)| (ops[*i].fresh, ops[*i].keep, sum)).collect();
                self.draw(p, &under, &mine, rows(&members).into_iter(), phase.p)?;
                let mut sums = vec![0.0; n];
                self.work.add_up(cut, &mut sums)?;
                // Of what is drawn afresh the sum is that of z^2, which is the same.
                members.iter().zip(sums).for_each(|(i, sum)| kinetic[*i] = 0.5 * sum);
                continue;
            };
            let fresh = self.work.scratch(Scratch::Rows, n * cut.dim * self.bytes())?;
            let mine: Vec<_> = members.iter().enumerate().map(|(sum, i)| (ops[*i].fresh, 0.0, sum)).collect();
            self.draw(Arg::Mem(fresh), &under, &mine, 0..n, phase.p)?;
            let found = self.work.scratch(Scratch::Found, n * coupling.rank * size_of::<f64>())?;
            let places: Vec<_> = (0..n).map(|i| [i, i]).collect();
            self.make_momenta(coupling, fresh, &places, (found, coupling.rank))?;
            let blends = members.iter().enumerate();
            let table: Vec<f64> = blends
                .flat_map(|(i, of)| record([0.0, ops[*of].fresh.row as f64, i as f64, ops[*of].keep]))
                .collect();
            let table = Arg::Mem(self.work.table(Table::Ops, &table)?);
            self.work.launch("blend", n, cut, &[p, Arg::Mem(fresh), table])?;
            // What is known of the momentum must depend on its numbers alone, or a chain that goes on from a saved state
            // would differ in the last bit.
            let places: Vec<_> = members
                .iter()
                .map(|i| Place { metric: ops[*i].fresh.metric, row: ops[*i].fresh.row })
                .collect();
            let (mut energies, mut dots) = (vec![0.0; n], vec![[0.0; 2]; n]);
            self.inner_products(phase, metrics, &places, &mut energies, &mut dots)?;
            members.iter().zip(energies).for_each(|(i, energy)| kinetic[*i] = energy);
        }
        Ok(())
    }
}

/// Where the spans of each operation begin in the list of all.
fn firsts(counts: impl Iterator<Item = usize>) -> Vec<usize> {
    counts
        .scan(0, |next, n| {
            *next += n;
            Some(*next - n)
        })
        .collect()
}
