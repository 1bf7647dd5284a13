//! Hamiltonian Monte Carlo over an abstract array device, with warm-up by the Fisher divergence.
//!
//! A [`density::Density`] is sampled by chains ([`chain`]) in blocks ([`block`]) over a [`device::Device`]; [`run`] puts
//! blocks on threads. Draws depend on the seed, the settings, the initial points and the density, and on nothing else.

pub mod adapt;
pub mod block;
pub mod chain;
pub mod density;
pub mod device;
pub mod error;
pub mod estimator;
pub mod integrate;
pub mod kernel;
mod memory;
pub mod metric;
pub mod rng;
pub mod run;
pub mod settings;
pub mod sparse;
mod stopwatch;
pub mod trace;
pub mod tree;
