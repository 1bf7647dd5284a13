//! Chains on GPU devices: the draws of the CPU device in double precision, and the right distribution in single precision.
//! Which devices are tried, and which must be there: `common/devices.rs`.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/devices.rs"]
mod devices;

use common::{Collected, Uneven};
use devices::gpus;
use nutpie_core::adapt::{AdaptSettings, Scheme};
use nutpie_core::block::{Block, Pooling, Start};
use nutpie_core::density::{Density, OnHost};
use nutpie_core::device::gpu::{Gpu, OpenCl, SourceDensity};
use nutpie_core::device::{Cpu, Device, DeviceOptions, Memory, Phase, Refresh, Row, open};
use nutpie_core::integrate::Integrator;
use nutpie_core::kernel::Sampler;
use nutpie_core::rng::{Key, Purpose, fill_normal};
use nutpie_core::settings::Settings;

fn run(dev: Box<dyn Device>, settings: &Settings, dim: usize, chains: usize) -> (Collected, Vec<u64>) {
    run_of(dev, Box::new(OnHost::new(Uneven(dim))), settings, chains)
}

fn run_of(
    dev: Box<dyn Device>,
    density: Box<dyn Density>,
    settings: &Settings,
    chains: usize,
) -> (Collected, Vec<u64>) {
    let dim = density.dim();
    let points: Vec<Vec<f64>> =
        (0..chains).map(|c| (0..dim).map(|i| 0.5 + ((7 * c + i) as f64).sin()).collect()).collect();
    let starts: Vec<Start> = points.iter().zip(0..).map(|(x, id)| Start::at(id, x)).collect();
    let mut block = Block::start(dev, density, settings, &starts, Pooling::Here).unwrap();
    let mut keep = Collected::new(chains);
    while !block.done() {
        block.round(&mut keep, |_| ()).unwrap();
    }
    let gradients = block.chains().iter().map(|chain| chain.n_gradients()).collect();
    (keep, gradients)
}

#[test]
fn chains_are_those_of_the_cpu() {
    let with = |sampler: Sampler, integrator, scheme| Settings {
        seed: 3,
        tune: 40,
        draws: 10,
        sampler,
        integrator,
        adapt: AdaptSettings::new(scheme),
        ..Settings::default()
    };
    let cases = [
        (with(Sampler::Nuts, Integrator::Leapfrog, Scheme::Diag), 37, 1),
        (with(Sampler::Nuts, Integrator::Leapfrog, Scheme::Diag), 7, 8),
        (with(Sampler::Nuts, Integrator::Leapfrog, Scheme::LowRank), 20, 4),
        (with(Sampler::Nuts, Integrator::ExactNormal, Scheme::LowRank), 9, 2),
        (with(Sampler::Hmc, Integrator::Leapfrog, Scheme::Diag), 16, 3),
        (with(Sampler::Mams, Integrator::Leapfrog, Scheme::Diag), 7, 2),
        (with(Sampler::Meads, Integrator::Leapfrog, Scheme::Diag), 7, 8),
    ];
    for candidate in gpus().into_iter().filter(|candidate| !candidate.single) {
        for (settings, dim, chains) in &cases {
            let (cpu, n_cpu) = run(Box::new(Cpu::new()), settings, *dim, *chains);
            let (gpu, n_gpu) = run(candidate.open(), settings, *dim, *chains);
            let what = format!("{}, {:?}, {chains} chains of {dim}", candidate.name, settings.sampler);
            assert_eq!(n_cpu, n_gpu, "{what}");
            for (a, b) in cpu.draws.concat().concat().iter().zip(gpu.draws.concat().concat()) {
                // Chains part from each other by rounding; the CPU device rounds directions to six digits.
                assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{what}: {a} and {b}");
            }
        }
    }
}

#[test]
fn single_precision_samples_the_same_distribution() {
    let settings = Settings { seed: 8, tune: 200, draws: 400, ..Settings::default() };
    let (dim, chains) = (6, 8);
    for candidate in gpus().into_iter().filter(|candidate| candidate.single) {
        let (cpu, _) = run(Box::new(Cpu::new()), &settings, dim, chains);
        let (gpu, _) = run(candidate.open(), &settings, dim, chains);
        let tail = |all: &Collected, f: &dyn Fn(&[f64]) -> f64| -> (f64, f64) {
            // Means of chains are independent, which gives their standard error without any autocorrelation.
            let means: Vec<f64> = all
                .draws
                .iter()
                .map(|draws| draws[200..].iter().map(|x| f(x)).sum::<f64>() / 400.0)
                .collect();
            let mean = means.iter().sum::<f64>() / chains as f64;
            let variance = means.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (chains - 1) as f64;
            (mean, variance / chains as f64)
        };
        for i in 0..dim {
            let scale = (i + 1) as f64;
            for power in [1, 2] {
                let f = |x: &[f64]| (x[i] / scale).powi(power);
                let ((a, va), (b, vb)) = (tail(&cpu, &f), tail(&gpu, &f));
                let error = (va + vb).sqrt();
                assert!(
                    (a - b).abs() < 5.0 * error,
                    "{}: x{i}^{power}: {a} and {b}, {error}",
                    candidate.name
                );
                if i > 0 {
                    // Exactly known: standard normal.
                    let exact = if power == 1 { 0.0 } else { 1.0 };
                    assert!((b - exact).abs() < 6.0 * vb.sqrt(), "{}: x{i}^{power}: {b}", candidate.name);
                }
            }
        }
    }
}

#[test]
fn random_numbers_are_those_of_the_cpu() {
    for candidate in gpus() {
        let mut dev = candidate.open();
        let (dim, chains) = (1000, 3);
        let phase = Phase::alloc(&mut *dev, chains, dim).unwrap();
        let metrics = dev.alloc_metrics(1, dim).unwrap();
        let ops: Vec<Refresh> = (0..chains)
            .map(|row| Refresh {
                metric: 0,
                row,
                key: Key { seed: u64::MAX - 5, chain: row as u32 * 0x4000_0000, draw: u32::MAX - row as u32 },
                purpose: Purpose::TuningMomentum(77),
            })
            .collect();
        dev.refresh(&phase, &metrics, &ops, &mut [0.0; 3]).unwrap();
        for op in &ops {
            let (mut ours, mut theirs) = (vec![0.0; dim], vec![0.0; dim]);
            dev.read(Row { buf: phase.p, index: op.row }, &mut ours).unwrap();
            fill_normal(op.key, op.purpose, &mut theirs);
            let within = if candidate.single { 1e-7 } else { 4.0 * f64::EPSILON };
            for (a, b) in ours.iter().zip(theirs) {
                assert!((a - b).abs() <= within * b.abs().max(1e-3), "{}: {a} and {b}", candidate.name);
            }
        }
    }
}

/// Known answers of the reference implementation (Random123), as for the CPU.
#[test]
fn philox_known_answers() {
    let cases = [
        (0u64, [0u32; 4], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        (u64::MAX, [u32::MAX; 4], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            0x299f_31d0_a409_3822,
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    if gpus().iter().any(|candidate| candidate.name == "opencl") {
        let mut gpu = Gpu::new(Box::new(OpenCl::open(0).unwrap()), DeviceOptions::default()).unwrap();
        for (seed, counter, answer) in cases {
            assert_eq!(gpu.words(seed, counter).unwrap(), answer);
        }
    }
}

#[test]
fn devices_that_are_missing_are_named() {
    let message = |name: &str, single: bool| match open(name, DeviceOptions { single }) {
        Ok(_) => String::new(),
        Err(e) => e.to_string(),
    };
    assert!(message("cpu", false).is_empty());
    assert!(message("cpu", true).contains("double precision"));
    assert!(message("vulkan", false).contains("'opencl'"));
    assert!(message("opencl:one", false).contains("'opencl:0'"));
    // There is no machine with so many.
    assert!(!message("opencl:99", false).is_empty());
    assert!(!message("cuda:99", false).is_empty());
}

#[test]
fn arrays_can_be_shared() {
    let mut cpu = Cpu::new();
    let buf = cpu.alloc(3, 5).unwrap();
    let raw = cpu.raw(buf).unwrap();
    assert_eq!((raw.memory, raw.rows, raw.dim, raw.bytes), (Memory::Host, 3, 5, 8));
    assert!(raw.address.is_multiple_of(64) && raw.stride >= 5);
    for candidate in gpus() {
        let mut dev = candidate.open();
        let buf = dev.alloc(3, 5).unwrap();
        let raw = dev.raw(buf).unwrap();
        assert_eq!((raw.rows, raw.dim, raw.stride), (3, 5, 5));
        assert_eq!(raw.bytes, if candidate.single { 4 } else { 8 });
        assert!(raw.address != 0 && raw.stream != 0 && raw.memory != Memory::Host);
    }
}

/// [`Uneven`] for a device.
const UNEVEN: &str = "
FUNCTION double logp_grad(i64 dim, GLOBAL const real *x, GLOBAL real *grad, GLOBAL const double *data,
                          LOCAL double *room) {
    double logp = 0.0;
    for (i64 j = ITEM; j < dim; j += GROUP) {
        double scale = data[j];
        logp -= 0.5 * scale * x[j] * x[j];
        double g = -scale * x[j];
        if (j == 0) {
            double skew = exp(0.3 * x[0]);
            logp -= skew;
            g -= 0.3 * skew;
        }
        grad[j] = (real)g;
    }
    return logp;
}
";

#[test]
fn densities_in_source_are_evaluated_by_the_device() {
    let settings = Settings { seed: 3, tune: 40, draws: 10, ..Settings::default() };
    for dim in [3, 300] {
        let scales: Vec<f64> = (1..=dim).map(|i| 1.0 / (i * i) as f64).collect();
        let (cpu, n_cpu) = run(Box::new(Cpu::new()), &settings, dim, 3);
        for candidate in gpus().into_iter().filter(|candidate| !candidate.single) {
            let density = Box::new(SourceDensity::new(UNEVEN, dim, scales.clone()));
            let (gpu, n_gpu) = run_of(candidate.open(), density, &settings, 3);
            assert_eq!(n_cpu, n_gpu);
            for (a, b) in cpu.draws.concat().concat().iter().zip(gpu.draws.concat().concat()) {
                assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{dim}: {a} and {b}");
            }
        }
    }
}

#[test]
fn densities_in_source_that_cannot_be_used_are_errors() {
    let mut logp = [0.0];
    let mut density = SourceDensity::new(UNEVEN, 2, vec![1.0; 2]);
    let mut cpu = Cpu::new();
    let phase = Phase::alloc(&mut cpu, 1, 2).unwrap();
    let message = density.logp_grad(&mut cpu, &phase, &[0], &mut logp).unwrap_err().to_string();
    assert!(message.contains("'opencl' or 'cuda'"));
    for candidate in gpus() {
        let mut dev = candidate.open();
        let phase = Phase::alloc(&mut *dev, 1, 2).unwrap();
        let mut wrong =
            SourceDensity::new("FUNCTION double logp_grad(i64 dim) { return nothing; }", 2, Vec::new());
        let message = wrong.logp_grad(&mut *dev, &phase, &[0], &mut logp).unwrap_err().to_string();
        assert!(message.contains("compiling failed") && message.contains("nothing"), "{message}");
    }
}
