//! Metrics that couple parameters, on the CPU device: every phase against its definition with the matrix written out.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/metrics.rs"]
mod metrics;
#[path = "common/naive.rs"]
mod naive;
#[path = "common/setup.rs"]
mod setup;

use std::sync::Arc;

use common::{Collected, Uneven};
use metrics::{coupled, dot, exact, probe, probed, scattered, solve, times};
use naive::Naive;
use nutpie_core::adapt::{AdaptSettings, Scheme};
use nutpie_core::block::{Block, Pooling, Start};
use nutpie_core::density::{Density, Failure, HostDensity, OnHost};
use nutpie_core::device::{Addition, Cpu, Device, Fit, Leaf, Moments, Place, Refresh, Sample, Span, Step};
use nutpie_core::integrate::{Batch, Request};
use nutpie_core::metric::Metric;
use nutpie_core::rng::{Purpose, fill_normal};
use nutpie_core::settings::Settings;
use setup::{ROWS, Setup, close, fresh, key};

/// Dimensions and ranks: diagonal, with few and with many eigenvectors, and dense.
fn shapes() -> impl Iterator<Item = (usize, usize)> {
    let small = (1..=24).flat_map(|dim| (0..=dim).map(move |rank| (dim, rank)));
    small.chain([(31, 5), (32, 16), (33, 17), (40, 40), (65, 20), (100, 51), (257, 9)])
}

#[test]
fn momenta_have_covariance_m() {
    for (dim, rank) in shapes() {
        let mut setup = Setup::new(Cpu::new(), dim).with(1, &coupled(dim, rank, 0));
        let matrix = probe(&mut setup.dev, &setup.metrics, 1, dim);
        // A momentum is F z, so dim + 1 of them tell F; any more must agree with it.
        let (mut z, mut p) = (Vec::new(), Vec::new());
        for draw in 0..dim as u32 + 3 {
            let mut normal = vec![0.0; dim];
            fill_normal(key(draw), Purpose::Momentum, &mut normal);
            let kinetic = setup.refresh(fresh(1, 2, draw));
            let momentum = setup.read(setup.phase.p, 2);
            let what = format!("{dim}, rank {rank}");
            close(&what, kinetic, 0.5 * dot(&normal, &normal));
            close(&what, kinetic, 0.5 * dot(&momentum, &times(&matrix, &momentum)));
            close(&what, kinetic, setup.kinetic(1, 2));
            z.push(normal);
            p.push(momentum);
        }
        if dim > 12 {
            continue;
        }
        // Row i of F from p_i = F_i z.
        let f = |i: usize| solve(z[..dim].to_vec(), p[..dim].iter().map(|p| p[i]).collect());
        let f: Vec<Vec<f64>> = (0..dim).map(f).collect();
        for (z, p) in z[dim..].iter().zip(&p[dim..]) {
            f.iter().zip(p).for_each(|(f, p)| assert!((dot(f, z) - p).abs() < 1e-7 * (1.0 + p.abs())));
        }
        // F F^T = M, as M^-1 F F^T = I.
        for j in 0..dim {
            let column: Vec<f64> = f.iter().map(|row| dot(row, &f[j])).collect();
            for (i, v) in times(&matrix, &column).into_iter().enumerate() {
                let unit = f64::from(u8::from(i == j));
                assert!((v - unit).abs() < 1e-5, "{dim}, rank {rank}: {v}");
            }
        }
    }
}

/// Directions that are not orthonormal are taken for those that are and span the same; momenta and energies go together
/// all the same.
#[test]
fn momenta_fit_energies_whatever_the_directions() {
    for (dim, rank) in [(12, 4), (12, 6), (30, 13)] {
        let mut metric = coupled(dim, rank, 0);
        metric.vectors.iter_mut().zip(scattered(dim * rank, 50)).for_each(|(u, v)| *u += 0.01 * v);
        let mut setup = Setup::new(Cpu::new(), dim).with(0, &metric);
        for draw in 0..50 {
            let kinetic = setup.refresh(fresh(0, 0, draw));
            close("kinetic energy", setup.kinetic(0, 0), kinetic);
            // Known from the draw, or computed from the momentum.
            let p = setup.read(setup.phase.p, 0);
            setup.write(setup.phase.p, 1, &p);
            close("of another row", setup.kinetic(0, 1), kinetic);
        }
    }
}

/// Momenta of a trajectory, and the log density's gradient along it.
fn trajectory(
    dim: usize,
    metric: &Metric,
    steps: usize,
    step: f64,
) -> (Setup<Cpu>, Vec<Vec<f64>>, Vec<[f64; 2]>) {
    let mut setup = Setup::new(Cpu::new(), dim).with(0, metric);
    let mut density = OnHost::new(Uneven(dim));
    let mut logp = [0.0];
    density.logp_grad(&mut setup.dev, &setup.phase, &[0], &mut logp).unwrap();
    let mut batch = Batch::default();
    let mut momenta = vec![setup.read(setup.phase.p, 0)];
    let mut dots = Vec::new();
    for k in 0..steps {
        batch.clear();
        let onward = (k + 1 < steps).then_some(k + 2);
        let request = Request { metric: 0, from: k, to: k + 1, step, begun: k > 0, onward };
        let spans = (0..=k).rev().map(|start| Span { start, adjacent: start == k });
        batch.push(request, spans);
        batch.run(&mut setup.dev, &mut density, &setup.phase, &setup.metrics).unwrap();
        momenta.push(setup.read(setup.phase.p, k + 1));
        dots.extend(batch.arrivals().flat_map(|a| a.dots.to_vec()));
    }
    (setup, momenta, dots)
}

#[test]
fn inner_products_are_those_with_the_sum_of_all_momenta() {
    for (dim, rank) in [(1, 1), (3, 1), (7, 3), (10, 10), (24, 5), (40, 21), (130, 33)] {
        let metric = coupled(dim, rank, 0);
        let matrix = probed(&mut Cpu::new(), &metric);
        for step in [0.05, -0.05] {
            let (_, momenta, dots) = trajectory(dim, &metric, 7, step);
            let mut dots = dots.into_iter();
            for k in 1..momenta.len() {
                for start in (0..k).rev() {
                    let mut rho = vec![0.0; dim];
                    for p in &momenta[start..=k] {
                        rho.iter_mut().zip(p).for_each(|(rho, p)| *rho += p);
                    }
                    let v = times(&matrix, &rho);
                    let found = dots.next().unwrap();
                    close(&format!("{dim}, rank {rank}, start"), found[0], dot(&v, &momenta[start]));
                    close(&format!("{dim}, rank {rank}, end"), found[1], dot(&v, &momenta[k]));
                }
            }
        }
    }
}

#[test]
fn trajectories_can_be_run_backward() {
    for (dim, rank) in [(1, 1), (9, 4), (16, 16), (50, 20)] {
        let metric = coupled(dim, rank, 2);
        let (mut setup, momenta, _) = trajectory(dim, &metric, 6, 0.1);
        let start = [setup.read(setup.phase.x, 0), momenta[0].clone()];
        let mut density = OnHost::new(Uneven(dim));
        let mut batch = Batch::default();
        // Back through the same rows, once with what is known of them and once as read from the host.
        for anew in [false, true] {
            let end = setup.read(setup.phase.p, 6);
            if anew {
                setup.write(setup.phase.p, 6, &end);
            }
            for k in (0..6).rev() {
                batch.clear();
                let request =
                    Request { metric: 0, from: k + 1, to: k, step: -0.1, begun: false, onward: None };
                batch.push(request, std::iter::empty());
                batch.run(&mut setup.dev, &mut density, &setup.phase, &setup.metrics).unwrap();
            }
            for (buf, start) in [setup.phase.x, setup.phase.p].into_iter().zip(&start) {
                for (back, v) in setup.read(buf, 0).iter().zip(start) {
                    assert!((back - v).abs() < 1e-12 * (1.0 + v.abs()), "{dim}, rank {rank}");
                }
            }
        }
    }
}

#[test]
fn distances_are_those_of_the_definition() {
    for (dim, rank) in shapes() {
        let metric = coupled(dim, rank, 4);
        let matrix = probed(&mut Cpu::new(), &metric);
        let mut setup = Setup::new(Cpu::new(), dim).with(2, &metric);
        let what = format!("{dim}, rank {rank}");
        for row in [0, 5] {
            let [mut y, mut g] = [setup.phase.x, setup.phase.g].map(|buf| setup.read(buf, row));
            y.iter_mut().zip(&metric.center).for_each(|(x, c)| *x -= c);
            metric.whiten(&mut y);
            metric.whiten_gradient(&mut g);
            let sum: Vec<f64> = y.iter().zip(&g).map(|(y, g)| y + g).collect();
            let found = setup.distance(2, row);
            assert!((found / dot(&sum, &sum) - 1.0).abs() < 1e-4, "{what}: {found}");
            let mut naive = Setup::new(Naive::with(2, &matrix), dim).with(2, &metric);
            close(&what, found, naive.distance(2, row));
        }
    }
}

#[test]
fn centers_come_with_metrics_that_are_made_in_place() {
    fn after<D: Device>(dev: D, samples: [u64; 2]) -> (Metric, f64, Vec<f64>) {
        let mut setup = Setup::new(dev, 9).with(0, &coupled(9, 3, 0));
        let moments = Moments::alloc(&mut setup.dev, 2, 9).unwrap();
        let phase = setup.phase;
        if samples == [0, 0] {
            let place = Place { metric: 0, row: 3 };
            setup.dev.metric_from_gradient(&setup.metrics, &phase, &[place]).unwrap();
        } else {
            let mut point = 0;
            for (row, count) in samples.into_iter().enumerate() {
                for count in 1..=count {
                    let sample = Sample { row, count };
                    setup.dev.accumulate(&moments, &phase, &[Addition { sample, point }]).unwrap();
                    point += 1;
                }
            }
            let samples = [0, 1].map(|row| Sample { row, count: samples[row] });
            setup.dev.fit_fisher_diag(&setup.metrics, &moments, &[Fit { metric: 0, samples }]).unwrap();
        }
        let distance = setup.distance(0, 6);
        let kinetic = setup.refresh(fresh(0, 1, 0));
        close("kinetic energy", kinetic, setup.kinetic(0, 1));
        (setup.dev.metric(&setup.metrics, 0).unwrap(), distance, setup.read(phase.p, 1))
    }
    for samples in [[0, 0], [3, 5], [0, 4], [6, 0]] {
        let (found, distance, p) = after(Cpu::new(), samples);
        let (naive, distance_naive, p_naive) = after(Naive::default(), samples);
        assert!(found.rank() == 0 && found.center.len() == 9);
        close("distance", distance, distance_naive);
        let pairs = [(&found.stds, &naive.stds), (&found.center, &naive.center), (&p, &p_naive)];
        for (a, b) in pairs.into_iter().flat_map(|(a, b)| a.iter().zip(b)) {
            close("metric made in place", *a, *b);
        }
    }
}

/// A few calls on the rows 3 to 7, with what they return.
fn some_calls(setup: &mut Setup<Cpu>, metric: usize) -> (Vec<f64>, Vec<Vec<f64>>) {
    let mut out = vec![setup.refresh(fresh(metric, 3, 1))];
    let Setup { dev, phase, metrics, .. } = setup;
    dev.kick_drift(phase, metrics, &[Step { metric, from: 3, to: 4, kick: 0.1, drift: 0.2 }]).unwrap();
    let leaf =
        |row, to, spans| Leaf { metric, row, kick: 0.1, onward: Some((to, 0.2)), spans, passing: false };
    let spans = [
        Span { start: 3, adjacent: true },
        Span { start: 4, adjacent: true },
        Span { start: 3, adjacent: false },
    ];
    let (mut kinetic, mut dots) = ([f64::NAN; 2], [[f64::NAN; 2]; 3]);
    dev.finish_leaf(phase, metrics, &[leaf(4, 5, 1)], &spans[..1], &mut kinetic[..1], &mut dots[..1])
        .unwrap();
    dev.finish_leaf(phase, metrics, &[leaf(5, 6, 2)], &spans[1..], &mut kinetic[1..], &mut dots[1..])
        .unwrap();
    out.extend(kinetic.into_iter().chain(dots.into_iter().flatten()));
    dev.kick_drift(phase, metrics, &[Step { metric, from: 5, to: 7, kick: -0.1, drift: 0.2 }]).unwrap();
    out.push(setup.distance(metric, 6));
    (out, setup.all())
}

#[test]
fn a_metric_forgets_the_one_before() {
    let dim = 21;
    let (few, many, other) =
        (Arc::new(coupled(dim, 6, 0)), Arc::new(coupled(dim, 17, 1)), Arc::new(coupled(dim, 2, 2)));
    let diagonal = Arc::new(coupled(dim, 0, 3));
    let mut used = Setup::new(Cpu::new(), dim);
    // Other chains go on with these, so that what was made of them is still there.
    used.dev.set_metric(&used.metrics, 0, &few).unwrap();
    used.dev.set_metric(&used.metrics, 2, &many).unwrap();
    for metric in [&few, &many, &few, &diagonal, &few, &other, &many, &diagonal, &many, &few] {
        used.dev.set_metric(&used.metrics, 1, metric).unwrap();
        let mut new = Setup::new(Cpu::new(), dim).with(1, metric);
        let bufs = [used.phase.x, used.phase.p, used.phase.g];
        for (buf, fresh) in bufs.into_iter().zip([new.phase.x, new.phase.p, new.phase.g]) {
            // Rows that the calls write are left as the calls before made them; of some not even the device's own copy.
            for row in 0..ROWS {
                let numbers = used.read(buf, row);
                new.write(fresh, row, &numbers);
            }
        }
        // Not under the diagonal one, which forgets what it looks at.
        for row in (0..ROWS).filter(|_| metric.rank() > 0) {
            close("energy of a row written before", used.kinetic(1, row), new.kinetic(1, row));
        }
        assert_eq!(some_calls(&mut used, 1), some_calls(&mut new, 1), "rank {}", metric.rank());
        assert_eq!(used.dev.metric(&used.metrics, 1).unwrap().rank(), metric.rank());
    }
}

#[test]
fn rows_do_not_depend_on_each_other() {
    let dim = 19;
    let kinds = [coupled(dim, 5, 0), coupled(dim, 0, 1), coupled(dim, 15, 2)];
    let mut together = Setup::new(Cpu::new(), dim);
    for (row, metric) in kinds.iter().enumerate() {
        together.dev.set_metric(&together.metrics, row, &Arc::new(metric.clone())).unwrap();
    }
    let step = |metric| Step { metric, from: metric, to: 3 + metric, kick: 0.1, drift: 0.2 };
    let leaf = |metric| Leaf { metric, row: 3 + metric, kick: 0.1, onward: None, spans: 2, passing: false };
    let spans = |metric| {
        [
            Span { start: metric, adjacent: true },
            Span { start: 6 + usize::from(metric == 1), adjacent: false },
        ]
    };
    let run = |setup: &mut Setup<Cpu>, which: &[usize]| {
        let Setup { dev, phase, metrics, .. } = setup;
        let steps: Vec<Step> = which.iter().map(|m| step(*m)).collect();
        let leaves: Vec<Leaf> = which.iter().map(|m| leaf(*m)).collect();
        let spans: Vec<Span> = which.iter().flat_map(|m| spans(*m)).collect();
        let refreshes: Vec<Refresh> = which.iter().map(|m| fresh(*m, *m, *m as u32)).collect();
        let places: Vec<Place> = which.iter().map(|m| Place { metric: *m, row: 3 + m }).collect();
        let n = which.len();
        let (mut kinetic, mut dots) = ([f64::NAN; 9], [[f64::NAN; 2]; 6]);
        dev.refresh(phase, metrics, &refreshes, &mut kinetic[..n]).unwrap();
        dev.kick_drift(phase, metrics, &steps).unwrap();
        dev.finish_leaf(phase, metrics, &leaves, &spans, &mut kinetic[3..3 + n], &mut dots[..2 * n]).unwrap();
        dev.fisher_distance(phase, metrics, &places, &mut kinetic[6..6 + n]).unwrap();
        (0..n)
            .map(|i| (kinetic[i], kinetic[3 + i], kinetic[6 + i], [dots[2 * i], dots[2 * i + 1]]))
            .collect::<Vec<_>>()
    };
    let all = run(&mut together, &[0, 1, 2]);
    for (metric, found) in all.iter().enumerate() {
        let mut alone = Setup::new(Cpu::new(), dim).with(metric, &kinds[metric]);
        assert_eq!(run(&mut alone, &[metric])[0], *found, "{metric}");
        for row in [metric, 3 + metric] {
            assert_eq!(alone.read(alone.phase.x, row), together.read(together.phase.x, row));
            assert_eq!(alone.read(alone.phase.p, row), together.read(together.phase.p, row));
        }
    }
}

/// A trajectory that ends in numbers that are not finite leaves nothing behind.
#[test]
fn what_is_not_finite_stays_where_it_is() {
    for rank in [3, 9] {
        let metric = coupled(10, rank, 0);
        for bad in [f64::NAN, f64::INFINITY, 1e300] {
            let mut setup = Setup::new(Cpu::new(), 10).with(0, &metric);
            let mut clean = Setup::new(Cpu::new(), 10).with(0, &metric);
            let mut g = setup.read(setup.phase.g, 4);
            g[7] = bad;
            let kept = setup.read(setup.phase.g, 4);
            setup.write(setup.phase.g, 4, &g);
            let (found, _) = some_calls(&mut setup, 0);
            assert!(!found[1].is_finite(), "rank {rank}: kinetic energy {}", found[1]);
            setup.write(setup.phase.g, 4, &kept);
            assert_eq!(some_calls(&mut setup, 0), some_calls(&mut clean, 0), "rank {rank}, {bad}");
        }
    }
}

#[test]
fn metrics_are_read_back_and_bad_ones_refused() {
    let dim = 8;
    let mut setup = Setup::new(Cpu::new(), dim);
    let first = setup.dev.metric(&setup.metrics, 0).unwrap();
    assert_eq!(first, Metric::diagonal(&vec![1.0; dim], vec![0.0; dim]));
    for metric in [coupled(dim, 3, 0), coupled(dim, 8, 1), coupled(dim, 0, 2)] {
        setup = setup.with(0, &metric);
        let found = setup.dev.metric(&setup.metrics, 0).unwrap();
        assert_eq!(
            (&found.values, &found.vectors, &found.center),
            (&metric.values, &metric.vectors, &metric.center)
        );
        for (a, b) in found.stds.iter().zip(&metric.stds) {
            assert!((a / b - 1.0).abs() < 1e-15);
        }
        let [inv_mass, center] = [setup.metrics.inv_mass, setup.metrics.center].map(|buf| setup.read(buf, 0));
        assert_eq!(inv_mass, metric.inv_mass_diagonal());
        assert_eq!(center, metric.center);
        // The identity in all of them.
        assert_eq!(setup.read(setup.metrics.inv_mass, 1), vec![1.0; dim]);
    }
    let good = coupled(dim, 3, 0);
    setup = setup.with(0, &good);
    let repeated = [&good.vectors[..dim], &good.vectors[..dim], &good.vectors[dim..2 * dim]].concat();
    for bad in [
        coupled(dim + 1, 2, 0),
        coupled(dim - 1, 0, 0),
        Metric { values: vec![1.0, -1.0, 2.0], ..good.clone() },
        Metric { vectors: vec![f64::NAN; 3 * dim], ..good.clone() },
        Metric { vectors: repeated, ..good.clone() },
        Metric { center: vec![0.0; dim + 1], ..good.clone() },
        Metric { stds: vec![1e200; dim], ..good.clone() },
    ] {
        assert!(setup.dev.set_metric(&setup.metrics, 0, &Arc::new(bad)).is_err());
        assert_eq!(setup.dev.metric(&setup.metrics, 0).unwrap(), good);
    }
}

/// A matrix so near to a singular one that its triangular factor cannot be computed is used in its other form.
#[test]
fn nearly_singular_dense_metrics_work() {
    let mut metric = coupled(6, 6, 0);
    metric.values = vec![1e-13, 1e-15, 1e-16, 1e-18, 1e2, 1e4];
    let mut setup = Setup::new(Cpu::new(), 6).with(0, &metric);
    for draw in 0..20 {
        let kinetic = setup.refresh(fresh(0, 0, draw));
        assert!(kinetic > 0.0 && setup.read(setup.phase.p, 0).iter().all(|p| p.is_finite()));
    }
}

#[derive(Clone)]
struct Ridge(usize);

impl HostDensity for Ridge {
    fn dim(&self) -> usize {
        self.0
    }

    /// A normal distribution with variance 1000 along the diagonal and 1 across.
    fn logp_grad(&mut self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        grad.iter_mut().zip(x).for_each(|(g, x)| *g = -(x - mean) - 0.001 * mean);
        Ok(0.5 * dot(x, grad))
    }
}

fn chain(dev: Box<dyn Device>, metric: &Metric, draws: u64) -> Collected {
    let dim = metric.dim();
    let mut adapt = AdaptSettings::new(Scheme::Fixed);
    adapt.max_step_size = 0.4;
    let settings = Settings { seed: 3, tune: 0, draws, adapt, ..Settings::default() };
    let x = scattered(dim, 1);
    let starts = [Start { metric: Some(Arc::new(metric.clone())), ..Start::at(0, &x) }];
    let density = Box::new(OnHost::new(Ridge(dim)));
    let mut block = Block::start(dev, density, &settings, &starts, Pooling::Here).unwrap();
    let mut keep = Collected::new(1);
    while !block.done() {
        block.round(&mut keep, |_| ()).unwrap();
        if let Some(state) = block.save(0).unwrap() {
            assert_eq!(state.metric, *metric);
        }
    }
    keep
}

#[test]
fn a_naive_device_gives_the_same_chain() {
    for dim in [4, 9, 16, 40] {
        let metric = exact(dim);
        let (cpu, naive) =
            (chain(Box::new(Cpu::new()), &metric, 15), chain(Box::<Naive>::default(), &metric, 15));
        for (a, b) in cpu.draws[0].iter().flatten().zip(naive.draws[0].iter().flatten()) {
            assert!((a - b).abs() < 1e-6 * (1.0 + b.abs()), "{dim}: {a} and {b}");
        }
    }
}

/// With the target's own covariance a draw is nearly independent of the one before, also along the direction that is 30
/// times longer than all others.
#[test]
fn the_right_metric_explores_a_ridge() {
    let dim = 30;
    // Mean squared distance between a draw and the next one along the ridge, in units of that of independent draws.
    let moved = |metric: &Metric| {
        let draws = chain(Box::new(Cpu::new()), metric, 400).draws[0].clone();
        let along: Vec<f64> =
            draws.iter().map(|x| x.iter().sum::<f64>() / (1000.0 * dim as f64).sqrt()).collect();
        along.windows(2).map(|w| (w[1] - w[0]).powi(2)).sum::<f64>() / (2.0 * 399.0)
    };
    let plain = Metric::diagonal(&vec![1.0; dim], vec![0.0; dim]);
    let along = vec![(1.0 / dim as f64).sqrt(); dim];
    let right = Metric { values: vec![1000.0], vectors: along, ..plain.clone() };
    let [plain, right] = [moved(&plain), moved(&right)];
    assert!(right > 0.7 && plain < 0.2, "{right} and {plain}");
}
