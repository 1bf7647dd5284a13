//! Transition kernels, one file each.

pub mod nuts;
