//! Sampling allocates nothing, neither for a leapfrog nor for a draw, once a chain has begun.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use common::Uneven;
use nutpie_core::adapt::{AdaptSettings, Scheme};
use nutpie_core::block::{Block, Pooling, Start};
use nutpie_core::chain::N_STATISTICS;
use nutpie_core::density::OnHost;
use nutpie_core::device::Cpu;
use nutpie_core::integrate::Integrator;
use nutpie_core::kernel::Sampler;
use nutpie_core::metric::Metric;
use nutpie_core::settings::Settings;
use nutpie_core::trace::{Keep, MemoryStore};

struct Counting;

thread_local! {
    /// Of this thread: the test runner may allocate in another at any time.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|n| n.set(n.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DIM: usize = 50;

/// Allocations of a chain, of the draws in the warm-up and of those after it.
fn allocations(sampler: Sampler, scheme: Scheme, metric: Option<Arc<Metric>>) -> [u64; 2] {
    allocations_with(Settings { sampler, adapt: AdaptSettings::new(scheme), ..Settings::default() }, metric)
}

fn allocations_with(settings: Settings, metric: Option<Arc<Metric>>) -> [u64; 2] {
    let settings = Settings { seed: 1, tune: 200, draws: 3000, ..settings };
    let mut store =
        MemoryStore::new(DIM, N_STATISTICS, settings.tune, settings.draws, Keep::default()).unwrap();
    let density = Box::new(OnHost::new(Uneven(DIM)));
    let start = vec![0.3; DIM];
    let starts = [Start { metric, ..Start::at(0, &start) }];
    let mut block = Block::start(Box::new(Cpu::new()), density, &settings, &starts, Pooling::Here).unwrap();
    // The first draw brings the lists to their size.
    let mut begun = false;
    while !begun {
        block.round(&mut store, |_| begun = true).unwrap();
    }
    let before = ALLOCATIONS.get();
    while block.chains()[0].tuning() {
        block.round(&mut store, |_| ()).unwrap();
    }
    // The metric is checked once more before the first draw after the warm-up, and another kernel is tuned.
    let mut begun = false;
    while !begun {
        block.round(&mut store, |_| begun = true).unwrap();
    }
    let between = ALLOCATIONS.get();
    while !block.done() {
        block.round(&mut store, |_| ()).unwrap();
    }
    let gradients = block.chains()[0].n_gradients();
    assert!(gradients > 10_000, "{gradients} gradients");
    [between - before, ALLOCATIONS.get() - between]
}

#[test]
fn no_allocation_per_leapfrog_or_draw() {
    // Nine windows of the warm-up are recorded for the result.
    let [warmup, after] = allocations(Sampler::Nuts, Scheme::Diag, None);
    assert!(warmup <= 9 * 4 && after == 0, "{warmup} {after}");
    // Fits take memory, and points are kept; leapfrogs are a hundred times as many.
    for (sampler, scheme) in
        [(Sampler::Nuts, Scheme::Auto), (Sampler::Mams, Scheme::Auto), (Sampler::Mams, Scheme::Dense)]
    {
        let [warmup, after] = allocations(sampler, scheme, None);
        assert!(warmup < 10_000 && after == 0, "{sampler:?} {scheme:?} {warmup} {after}");
    }
    for sampler in [Sampler::Hmc, Sampler::Walnuts, Sampler::Nuts] {
        for scheme in [Scheme::Auto, Scheme::Dense] {
            let integrator =
                if sampler == Sampler::Walnuts { Integrator::Leapfrog } else { Integrator::ExactNormal };
            let adapt = AdaptSettings::new(scheme);
            let settings = Settings { sampler, integrator, adapt, ..Settings::default() };
            let [warmup, after] = allocations_with(settings, None);
            assert!(warmup < 10_000 && after == 0, "{sampler:?} {scheme:?} {warmup} {after}");
        }
    }
    // With a metric that couples some parameters, and one that couples all.
    for rank in [20, DIM] {
        let vectors = (0..rank * DIM).map(|i| f64::from(u8::from(i % (DIM + 1) == 0))).collect();
        let stds = (1..=DIM).map(|i| i as f64).collect();
        let metric = Metric { stds, values: vec![1.1; rank], vectors, center: vec![0.0; DIM] };
        assert_eq!(allocations(Sampler::Nuts, Scheme::Fixed, Some(Arc::new(metric))), [0, 0], "rank {rank}");
    }
}
