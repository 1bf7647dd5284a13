//! Ensembles: draws do not depend on threads or blocks, saved states are all that chains need, any start will do, and the
//! draws are right.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Collected, Uneven, reproducible};
use nutpie_core::adapt::meads::{MeadsSettings, MomentumMetric};
use nutpie_core::adapt::pool::Pool;
use nutpie_core::block::{Block, Pooling, Start};
use nutpie_core::chain::ChainState;
use nutpie_core::density::{Density, Failure, HostDensity, OnHost};
use nutpie_core::device::{Cpu, DeviceOptions, open};
use nutpie_core::error::Error;
use nutpie_core::kernel::{Kind, Sampler};
use nutpie_core::metric::Metric;
use nutpie_core::run::{Control, Output, Run};
use nutpie_core::settings::Settings;
use nutpie_core::trace::Keep;

const DIM: usize = 6;
const CHAINS: usize = 12;

fn settings(metric: MomentumMetric, pilot: u64, tune: u64, draws: u64) -> Settings {
    let meads = MeadsSettings { metric, pilot, folds: 3, ..MeadsSettings::default() };
    Settings { seed: 5, tune, draws, sampler: Sampler::Meads, meads, ..Settings::default() }
}

fn starts() -> Vec<Vec<f64>> {
    (0..CHAINS).map(|c| (0..DIM).map(|i| 0.3 * c as f64 - 1.0 + (i * c % 5) as f64).collect()).collect()
}

fn execute<D: HostDensity + Clone + Sync + 'static>(
    settings: &Settings,
    starts: &[Vec<f64>],
    [cores, per_block]: [usize; 2],
    density: &D,
) -> Output {
    let density = || Box::new(OnHost::new(density.clone())) as Box<dyn Density>;
    let run = Run {
        settings,
        starts,
        metrics: &[],
        keep: Keep::default(),
        cores,
        per_block,
        device: &|_| open("cpu", DeviceOptions::default()),
        density: &density,
        on_thread: &|work| work(),
    };
    run.execute(&Control::new(starts.len()))
}

#[test]
fn draws_do_not_depend_on_threads_and_blocks() {
    for metric in [MomentumMetric::Diag, MomentumMetric::LowRank] {
        let settings = settings(metric, 60, 50, 30);
        let one = execute(&settings, &starts(), [1, 1], &Uneven(DIM));
        assert!(one.error.is_none());
        for how in [[2, 1], [3, 5], [16, 1], [1, CHAINS]] {
            let many = execute(&settings, &starts(), how, &Uneven(DIM));
            assert_eq!(reproducible(&one.chains), reproducible(&many.chains), "{metric:?} {how:?}");
            assert_eq!(one.n_gradients, many.n_gradients);
            assert_eq!(one.pool, many.pool);
        }
        assert!(one.chains.iter().all(|chain| chain.draws() == 80 && chain.kernel == Kind::Ghmc));
        assert_ne!(one.chains[0].blocks, one.chains[1].blocks);
        // All go on with the same.
        let tuned: Vec<_> = one.reports.iter().map(|report| report.tuned.unwrap()).collect();
        assert!(tuned.iter().all(|t| *t == tuned[0] && t.step > 0.1 && t.step <= 1.0 && t.length > 0.5));
        assert!(one.reports.iter().all(|report| report.metric == one.reports[0].metric));
        // The short run counts for the first chain of each superchain.
        for (chain, n) in one.n_gradients.iter().enumerate() {
            assert_eq!(*n > 200, chain % 3 == 0, "{chain}: {n}");
        }
    }
}

/// Draws that the chains have made, and their saved states.
type Saved = (Vec<u64>, Vec<u8>);

/// An ensemble in one block without a run before it, and the states before some of its rounds.
fn whole_run(settings: &Settings, points: &[Vec<f64>]) -> (Collected, Vec<Saved>) {
    let starts: Vec<Start> = points.iter().zip(0..).map(|(x, id)| Start::at(id, x)).collect();
    let density = Box::new(OnHost::new(Uneven(DIM)));
    let mut block = Block::start(Box::new(Cpu::new()), density, settings, &starts, Pooling::Here).unwrap();
    let mut whole = Collected::new(points.len());
    let mut saved = Vec::new();
    while !block.done() {
        let states: Option<Vec<ChainState>> = (0..points.len()).map(|i| block.save(i).unwrap()).collect();
        if let Some(states) = states {
            let draws = states.iter().map(|state| state.draw).collect();
            saved.push((draws, postcard::to_allocvec(&(&states, block.pools())).unwrap()));
        }
        block.round(&mut whole, |_| ()).unwrap();
    }
    (whole, saved)
}

#[test]
fn ensembles_go_on_as_if_they_had_never_stopped() {
    for metric in [MomentumMetric::Diag, MomentumMetric::LowRank] {
        let settings = settings(metric, 0, 40, 25);
        let (whole, saved) = whole_run(&settings, &starts());
        assert!(saved.len() > 70, "{}", saved.len());
        for (draws, state) in saved.iter().step_by(7) {
            let (states, pools): (Vec<ChainState>, Vec<Pool>) = postcard::from_bytes(state).unwrap();
            let density = Box::new(OnHost::new(Uneven(DIM)));
            let mut block = Block::resume(Box::new(Cpu::new()), density, &states, &pools, 25).unwrap();
            let mut rest = Collected::new(CHAINS);
            for (chain, stop) in draws.iter().enumerate() {
                rest.draws[chain] = whole.draws[chain][..*stop as usize].to_vec();
                rest.stats[chain] = whole.stats[chain][..*stop as usize].to_vec();
            }
            while !block.done() {
                block.round(&mut rest, |_| ()).unwrap();
            }
            assert!(rest == whole, "{metric:?} resumed after draws {draws:?}");
        }
    }
}

/// Standard normals, each correlated with its neighbour by 0.95.
#[derive(Clone)]
struct Pairs;

impl HostDensity for Pairs {
    fn dim(&self) -> usize {
        DIM
    }

    fn logp_grad(&mut self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        let (r, mut logp) = (0.95, 0.0);
        for i in 0..DIM {
            grad[i] = (r * x[i ^ 1] - x[i]) / (1.0 - r * r);
            logp += 0.5 * x[i] * grad[i];
        }
        Ok(logp)
    }
}

/// Momenta of the chains that keep theirs, each with its chain's metric.
fn momenta(block: &Block) -> Vec<Option<(Vec<f64>, Metric)>> {
    let states = (0..CHAINS).map(|i| block.save(i).unwrap().unwrap());
    states.map(|state| (!state.p.is_empty()).then_some((state.p, state.metric))).collect()
}

#[test]
fn momenta_stay_what_they_are_in_the_coordinates_of_the_metric() {
    for kind in [MomentumMetric::Diag, MomentumMetric::LowRank] {
        let points = starts();
        let begun: Vec<Start> = points.iter().zip(0..).map(|(x, id)| Start::at(id, x)).collect();
        let (density, pooling) = (Box::new(OnHost::new(Pairs)), Pooling::Among(CHAINS));
        let mut block =
            Block::start(Box::new(Cpu::new()), density, &settings(kind, 0, 40, 5), &begun, pooling).unwrap();
        let (mut pool, mut store) = (Pool::default(), Collected::new(CHAINS));
        let (mut rescaled, mut forgotten) = (0, 0);
        while !block.done() {
            if !block.waiting() {
                block.round(&mut store, |_| ()).unwrap();
                continue;
            }
            let before = momenta(&block);
            pool.hold(block.members().map(|(_, chain)| chain).collect());
            block.after_meeting().unwrap();
            for (chain, (before, after)) in before.into_iter().zip(momenta(&block)).enumerate() {
                let Some((old_p, old)) = before else { continue };
                let new = block.metric(chain).unwrap();
                let Some((new_p, _)) = after else {
                    assert!(new.rank() > 0 && new != old, "{kind:?} {chain}: fresh momenta for no reason");
                    forgotten += 1;
                    continue;
                };
                assert_eq!(new.rank() + old.rank(), if new == old { 2 * old.rank() } else { 0 });
                for i in 0..DIM {
                    let [a, b] = [old_p[i] * old.stds[i], new_p[i] * new.stds[i]];
                    assert!((a - b).abs() < 1e-12 * a.abs(), "{kind:?} {chain} {i}: {a} {b}");
                }
                rescaled += usize::from(old != new);
            }
        }
        match kind {
            MomentumMetric::Diag => assert!(rescaled > 100 && forgotten == 0, "{rescaled} {forgotten}"),
            // Once, when the metric is fixed.
            MomentumMetric::LowRank => assert_eq!((rescaled, forgotten), (0, CHAINS)),
        }
    }
}

#[test]
fn one_fold_rests_in_turn_while_scales_are_learnt() {
    let settings = settings(MomentumMetric::Diag, 0, 40, 0);
    let (_, saved) = whole_run(&settings, &starts());
    let progress: Vec<&Vec<u64>> = saved.iter().map(|(draws, _)| draws).collect();
    for pair in progress.windows(2) {
        let moved = pair[0].iter().zip(pair[1]).filter(|(a, b)| a < b).count();
        let early = pair[0].iter().min() < Some(&24);
        assert!(moved == if early { 8 } else { 12 } || pair[1].iter().max() == Some(&40), "{pair:?}");
    }
    // After as many rounds as there are folds all have rested once.
    assert!(progress.iter().step_by(3).take(7).all(|draws| draws.iter().all(|d| *d == draws[0])));
}

/// A normal distribution with scales from 0.01 to 100 that is not defined beyond 30 of them.
#[derive(Clone)]
struct Scales;

impl HostDensity for Scales {
    fn dim(&self) -> usize {
        5
    }

    fn logp_grad(&mut self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
        let mut logp = 0.0;
        for (i, (x, g)) in x.iter().zip(grad.iter_mut()).enumerate() {
            let z = (x - 3.0) / 10f64.powi(i as i32 - 2);
            logp -= 0.5 * z * z;
            *g = -z / 10f64.powi(i as i32 - 2);
        }
        if logp < -1e8 { Err(Failure::Recoverable) } else { Ok(logp) }
    }
}

/// Means and variances over all chains in units of the target's, and the largest share of draws that stood still.
fn judge(output: &Output) -> (f64, f64) {
    let (mut off, mut spread): (f64, f64) = (0.0, 0.0);
    let warmup = output.chains[0].warmup;
    for i in 0..5 {
        let sd = 10f64.powi(i as i32 - 2);
        let z: Vec<f64> = output
            .chains
            .iter()
            .flat_map(|chain| {
                chain
                    .flat(|block| &block.positions)
                    .chunks(5)
                    .skip(warmup)
                    .map(|x| (x[i] - 3.0) / sd)
                    .collect::<Vec<_>>()
            })
            .collect();
        let n = z.len() as f64;
        off = off.max((z.iter().sum::<f64>() / n).abs());
        spread = spread.max((z.iter().map(|z| z * z).sum::<f64>() / n - 1.0).abs());
    }
    (off, spread)
}

#[test]
fn any_start_will_do() {
    let far = |of: fn(usize, usize) -> f64| {
        (0..16).map(|c| (0..5).map(|i| of(c, i)).collect()).collect::<Vec<Vec<f64>>>()
    };
    for (name, starts) in [
        ("all at one point", far(|_, _| 2.0)),
        ("far away", far(|c, i| 20.0 + (c * i) as f64)),
        ("at the centre", far(|c, _| 3.0 + 1e-9 * c as f64)),
    ] {
        for seed in 0..3 {
            let meads = MeadsSettings::default();
            let settings = Settings {
                seed,
                tune: 150,
                draws: 400,
                sampler: Sampler::Meads,
                meads,
                ..Settings::default()
            };
            let output = execute(&settings, &starts, [2, 1], &Scales);
            let (off, spread) = judge(&output);
            assert!(off < 0.12 && spread < 0.15, "{name} {seed}: {off} {spread}");
            assert!(output.reports[0].tuned.unwrap().step > 0.2, "{name}");
        }
    }
}

#[test]
fn a_broken_density_ends_an_ensemble_at_any_time() {
    #[derive(Clone)]
    struct Breaks(std::sync::Arc<std::sync::atomic::AtomicUsize>, usize);
    impl HostDensity for Breaks {
        fn dim(&self) -> usize {
            DIM
        }
        fn logp_grad(&mut self, x: &[f64], grad: &mut [f64]) -> Result<f64, Failure> {
            if self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= self.1 {
                return Err(Failure::Fatal("broken".into()));
            }
            Uneven(DIM).logp_grad(x, grad)
        }
    }
    let settings = settings(MomentumMetric::Diag, 60, 50, 100_000);
    for (calls, draws) in [(3, 0), (1000, 0), (3200, 1), (20_000, 100)] {
        let output = execute(&settings, &starts(), [2, 1], &Breaks(Default::default(), calls));
        assert!(matches!(&output.error, Some(Error::Density(e)) if e.to_string() == "broken"), "{calls}");
        assert_eq!(output.chains.len(), CHAINS);
        assert!(output.chains.iter().any(|chain| chain.draws() >= draws), "{calls}");
    }
}

#[test]
fn a_run_that_was_stopped_before_the_ensemble_began_ends() {
    let (settings, control) = (settings(MomentumMetric::Diag, 60, 50, 100), Control::new(CHAINS));
    control.stop();
    let density = || Box::new(OnHost::new(Uneven(DIM))) as Box<dyn Density>;
    let run = Run {
        settings: &settings,
        starts: &starts(),
        metrics: &[],
        keep: Keep::default(),
        cores: 2,
        per_block: 1,
        device: &|_| open("cpu", DeviceOptions::default()),
        density: &density,
        on_thread: &|work| work(),
    };
    let output = run.execute(&control);
    assert!(output.error.is_none() && output.chains.len() == CHAINS && output.reports.len() == CHAINS);
    assert!(output.chains.iter().all(|chain| chain.draws() == 0));
}
