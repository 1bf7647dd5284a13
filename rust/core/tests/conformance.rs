//! What every device must do: each phase of the trait against a plain reference in double precision, over many shapes, with
//! outputs that are NaN before, rows that nobody asked for, and lists of one and of many operations.
//!
//! `cargo test --release -p nutpie-core --test conformance -- --include-ignored --nocapture` tries all shapes and prints the
//! table of `docs/devices.md`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "common/devices.rs"]
mod devices;
#[path = "common/metrics.rs"]
mod metrics;
#[path = "common/naive.rs"]
mod naive;
#[path = "common/phases.rs"]
mod phases;

use std::sync::Arc;

use devices::{Candidate, all, gpus};
use metrics::scattered;
use naive::Naive;
use nutpie_core::device::{Leaf, Phase, Place, Row};
use nutpie_core::metric::Metric;
use phases::{Chains, PHASES, Shape};

/// How far a number is from what it should be, relative to its size or to one.
fn deviation(a: f64, b: f64) -> f64 {
    let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    let found = (a - b).abs() / (1.0 + b.abs());
    if same { 0.0 } else { Some(found).filter(|v| !v.is_nan()).unwrap_or(f64::INFINITY) }
}

/// The largest deviation of some numbers, and where it is; a number that should not be one is the largest of all.
fn largest<'a>(pairs: impl Iterator<Item = (&'a Vec<f64>, &'a Vec<f64>)>) -> (f64, [usize; 2]) {
    let mut most = (0.0, [0, 0]);
    for (i, (a, b)) in pairs.enumerate() {
        assert_eq!(a.len(), b.len());
        for (j, (a, b)) in a.iter().zip(b).enumerate() {
            let found = deviation(*a, *b);
            if found > most.0 {
                most = (found, [i, j]);
            }
        }
    }
    most
}

/// What the phases of a device were seen to do: the largest deviations of rows and of scalars, and the number of shapes.
struct Seen {
    candidate: Candidate,
    phases: [([f64; 2], usize); PHASES.len()],
}

impl Seen {
    fn print(&self) {
        let precision = if self.candidate.single { "float32" } else { "float64" };
        eprintln!(
            "\n| `{}`, {precision} | shapes | rows | scalars |\n|---|---|---|---|",
            self.candidate.name
        );
        for (phase, ([rows, scalars], shapes)) in PHASES.iter().zip(self.phases) {
            eprintln!("| {phase} | {shapes} | {rows:.0e} | {scalars:.0e} |");
        }
    }
}

/// Every phase on every device, against the reference.
fn check(all: &mut [Seen], shape: &Shape) {
    let (dim, chains, rank) = (shape.dim, shape.chains(), shape.rank);
    let mut devices: Vec<_> = all.iter().map(|seen| seen.candidate.open()).collect();
    let mut ours: Vec<_> = devices.iter_mut().map(|dev| Chains::new(&mut **dev, shape)).collect();
    for (which, phase) in PHASES.into_iter().enumerate() {
        let mut naive = Naive::default();
        let mut reference = Chains::new(&mut naive, shape);
        reference.run_afresh(shape, phase, std::iter::once(0..chains));
        let expected = reference.rows();
        for (Seen { candidate, phases }, ours) in all.iter_mut().zip(&mut ours) {
            // Momenta of covariance M can be made with any root of M. With many directions the CPU takes a triangular one.
            let other_root = candidate.name == "cpu" && 2 * rank > dim;
            if other_root && ["refresh", "renew", "change", "trajectory"].contains(&phase) {
                continue;
            }
            ours.run_afresh(shape, phase, std::iter::once(0..chains));
            let (rows, at) = largest(ours.rows().iter().zip(&expected));
            let (scalars, of) = largest(ours.numbers.iter().zip(&reference.numbers));
            let coupled = rank > 0 || phase == "succession";
            let within = if coupled { candidate.coupled_exactness } else { candidate.exactness };
            let Candidate { name, single, .. } = candidate;
            let what = format!("{name} (single: {single}): {phase}, {chains} chains of {dim}, rank {rank}");
            // Lengths of hundreds, and eigenvalues up to 30.
            assert!(rows <= 1000.0 * within, "{what}: row {}, column {}: {rows}", at[0], at[1]);
            let most = (100.0 + dim as f64) * 10.0 * within;
            assert!(scalars <= most, "{what}: chain {}, number {}: {scalars}", of[0], of[1]);
            let ([most_rows, most_scalars], shapes) = phases[which];
            phases[which] = ([most_rows.max(rows), most_scalars.max(scalars)], shapes + 1);
        }
    }
}

/// All phases on all devices, with a table of what was seen.
fn check_all(shapes: impl Iterator<Item = (usize, usize, usize)>) {
    let seen = |candidate| Seen { candidate, phases: [([0.0; 2], 0); PHASES.len()] };
    let mut all: Vec<_> = all().into_iter().map(seen).collect();
    shapes.for_each(|shape| check(&mut all, &Shape::new(shape)));
    all.iter().for_each(Seen::print);
}

/// Parameters, chains and rank of shapes.
fn small_shapes() -> impl Iterator<Item = (usize, usize, usize)> {
    let sizes = [
        (1, 1),
        (1, 33),
        (2, 3),
        (7, 5),
        (15, 4),
        (16, 4),
        (17, 8),
        (63, 5),
        (64, 3),
        (65, 4),
        (257, 9),
        (2048, 2),
        (4097, 4),
    ];
    let ranks = |(dim, chains)| [0, 1, 3, dim].map(|rank| (dim, chains, rank));
    // A full rank of many parameters is among the large shapes.
    sizes.into_iter().flat_map(ranks).filter(|(dim, _, rank)| rank <= dim && (*rank < 4 || *dim < 66))
}

#[test]
fn phases_are_as_documented() {
    check_all(small_shapes());
}

#[test]
#[ignore = "long: large shapes"]
fn phases_of_large_shapes_are_as_documented() {
    check_all(small_shapes().chain([
        (1, 4097, 0),
        (3, 4097, 2),
        (100, 1025, 0),
        (301, 257, 5),
        (300, 2, 300),
        (65_537, 3, 2),
        (1_000_000, 2, 0),
        (1_000_001, 1, 1),
    ]));
}

/// In single precision, too: what is computed of a new momentum is computed of the one that is kept.
#[test]
fn energies_are_those_of_the_numbers_in_the_arrays() {
    for candidate in gpus() {
        let mut dev = candidate.open();
        let dim = 5000;
        let phase = Phase::alloc(&mut *dev, 2, dim).unwrap();
        let metrics = dev.alloc_metrics(1, dim).unwrap();
        let inv_mass: Vec<f64> = scattered(dim, 5).iter().map(|v| v.exp()).collect();
        dev.set_metric(&metrics, 0, &Arc::new(Metric::diagonal(&inv_mass, Vec::new()))).unwrap();
        for (buf, seed) in [(phase.x, 1), (phase.p, 2), (phase.g, 3)] {
            dev.write(Row { buf, index: 0 }, &scattered(dim, seed)).unwrap();
        }
        let (mut found, mut again) = ([f64::NAN], [f64::NAN]);
        let onward = Some((1, 0.2));
        let leaf = Leaf { metric: 0, row: 0, kick: 0.1, onward, spans: 0, passing: false };
        dev.finish_leaf(&phase, &metrics, &[leaf], &[], &mut found, &mut []).unwrap();
        let place = Place { metric: 0, row: 0 };
        dev.products(&phase, &metrics, &[place], &mut again, &mut [[0.0; 2]]).unwrap();
        assert_eq!(found, again, "{} (single: {})", candidate.name, candidate.single);
    }
}

#[test]
fn a_chain_gets_the_same_numbers_in_any_company() {
    for candidate in all() {
        let mut dev = candidate.open();
        for (dim, chains, rank) in [(5, 7, 0), (40, 9, 3), (2049, 4, 2)] {
            let shape = Shape::new((dim, chains, rank));
            let mut ours = Chains::new(&mut *dev, &shape);
            for phase in PHASES {
                ours.run_afresh(&shape, phase, std::iter::once(0..chains));
                let (numbers, rows) = (ours.numbers.clone(), ours.rows());
                ours.run_afresh(&shape, phase, (0..chains).rev().map(|c| c..c + 1));
                let what = format!("{}: {phase}, {chains} chains of {dim}, rank {rank}", candidate.name);
                let bits = |v: &Vec<f64>| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(
                    numbers.iter().map(bits).collect::<Vec<_>>(),
                    ours.numbers.iter().map(bits).collect::<Vec<_>>(),
                    "{what}"
                );
                assert!(rows.iter().map(bits).eq(ours.rows().iter().map(bits)), "{what}");
            }
        }
    }
}
