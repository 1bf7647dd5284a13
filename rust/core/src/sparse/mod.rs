//! Symmetric sparse matrices: their Cholesky factor, the part of their inverse that gradients of a log determinant need,
//! and colourings by which few matrix-vector products tell all their entries.

mod blocks;
mod cholesky;
mod coloring;
mod columns;
mod form;

pub use cholesky::{Cholesky, Factor};
pub use coloring::star_coloring;
