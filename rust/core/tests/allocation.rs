//! Sampling allocates nothing, neither for a leapfrog nor for a draw, once a chain has begun.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::Uneven;
use nutpie_core::block::Block;
use nutpie_core::chain::N_STATISTICS;
use nutpie_core::density::OnHost;
use nutpie_core::device::Cpu;
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

/// Allocations of a block from its second round to its end; the first brings the lists to their size.
fn allocations(block: &mut Block, store: &mut MemoryStore) -> u64 {
    block.round(store, |_| ()).unwrap();
    let before = ALLOCATIONS.get();
    while !block.done() {
        block.round(store, |_| ()).unwrap();
    }
    let gradients = block.chains()[0].n_gradients();
    assert!(gradients > 10_000, "{gradients} gradients");
    ALLOCATIONS.get() - before
}

#[test]
fn no_allocation_per_leapfrog_or_draw() {
    let dim = 50;
    let settings = Settings { seed: 1, tune: 200, draws: 2000, ..Settings::default() };
    let store = |tune| MemoryStore::new(dim, N_STATISTICS, tune, settings.draws, Keep::default()).unwrap();
    let density = || Box::new(OnHost::new(Uneven(dim)));
    let start = vec![0.3; dim];
    let mut block = Block::start(Box::new(Cpu::new()), density(), &settings, &[(0, &start)]).unwrap();
    assert_eq!(allocations(&mut block, &mut store(settings.tune)), 0);
    // From there on with a metric that couples some parameters, and one that couples all.
    let mut state = block.save(0).unwrap().unwrap();
    (state.settings.tune, state.draw) = (0, 0);
    for rank in [20, dim] {
        let vectors = (0..rank * dim).map(|i| f64::from(u8::from(i % (dim + 1) == 0))).collect();
        state.metric = Metric { values: vec![1.1; rank], vectors, ..state.metric.clone() };
        let mut block =
            Block::resume(Box::new(Cpu::new()), density(), std::slice::from_ref(&state), settings.draws)
                .unwrap();
        assert_eq!(allocations(&mut block, &mut store(0)), 0, "rank {rank}");
    }
}
