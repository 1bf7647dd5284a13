//! Eight numbers at a time, for loops that sum.
//!
//! A compiler vectorises loops that map by itself, but not sums, since it must not reorder them. Here the order is spelled
//! out: eight lanes, added up pairwise at the end. All instruction sets use the same lanes and fuse a product with a sum only
//! where a loop says so, and then all of them do, so they give the same bits.
#![allow(unsafe_code)]

use std::cell::Cell;

/// Numbers in a vector.
pub const LANES: usize = 8;

/// Eight numbers in registers.
pub trait Vector: Copy {
    /// All lanes the same.
    fn splat(value: f64) -> Self;
    /// From memory.
    fn load(from: &[f64; LANES]) -> Self;
    /// To memory.
    fn store(self, to: &mut [f64; LANES]);
    /// From memory that others may refer to.
    fn get(from: &[Cell<f64>; LANES]) -> Self;
    /// To memory that others may refer to.
    fn put(self, to: &[Cell<f64>; LANES]);
    /// Lane by lane.
    fn add(self, other: Self) -> Self;
    /// Lane by lane.
    fn sub(self, other: Self) -> Self;
    /// Lane by lane.
    fn mul(self, other: Self) -> Self;
    /// self * factor + term, lane by lane, rounded once. Slow on machines that cannot do it in one instruction.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The numbers whose bits are the lower halves of these, lane by lane, followed by zeros.
    fn lower(self) -> Self;

    /// Sum of the lanes.
    #[inline(always)]
    fn sum(self) -> f64 {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes);
        let [a, b, c, d, e, f, g, h] = lanes;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}

/// Plain Rust, for machines without a version of their own.
#[derive(Clone, Copy)]
pub struct Plain([f64; LANES]);

impl Vector for Plain {
    #[inline(always)]
    fn splat(value: f64) -> Self {
        Plain([value; LANES])
    }
    #[inline(always)]
    fn load(from: &[f64; LANES]) -> Self {
        Plain(*from)
    }
    #[inline(always)]
    fn store(self, to: &mut [f64; LANES]) {
        *to = self.0;
    }
    #[inline(always)]
    fn get(from: &[Cell<f64>; LANES]) -> Self {
        Plain(std::array::from_fn(|i| from[i].get()))
    }
    #[inline(always)]
    fn put(self, to: &[Cell<f64>; LANES]) {
        to.iter().zip(self.0).for_each(|(to, value)| to.set(value));
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] - other.0[i]))
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], term.0[i])))
    }
    #[inline(always)]
    fn lower(self) -> Self {
        Plain(self.0.map(|v| f64::from_bits(v.to_bits() << 32)))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::cell::Cell;

    use super::{LANES, Vector};
    use std::arch::x86_64::{
        __m256d, __m512d, _mm256_add_pd, _mm256_castpd_si256, _mm256_castsi256_pd, _mm256_fmadd_pd,
        _mm256_loadu_pd, _mm256_mul_pd, _mm256_set1_pd, _mm256_slli_epi64, _mm256_storeu_pd, _mm256_sub_pd,
        _mm512_add_pd, _mm512_castpd_si512, _mm512_castsi512_pd, _mm512_fmadd_pd, _mm512_loadu_pd,
        _mm512_mul_pd, _mm512_set1_pd, _mm512_slli_epi64, _mm512_storeu_pd, _mm512_sub_pd,
    };

    /// For use in functions that are compiled for AVX-512F, and only there.
    #[derive(Clone, Copy)]
    pub struct Avx512(__m512d);

    // SAFETY of all blocks below: the dispatcher calls the loops that use this type only where the instruction set exists;
    // loads and stores cover the eight numbers of the array behind the pointer; a cell is what it holds, and may change.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Vector for Avx512 {
        #[inline(always)]
        fn splat(value: f64) -> Self {
            Avx512(unsafe { _mm512_set1_pd(value) })
        }
        #[inline(always)]
        fn load(from: &[f64; LANES]) -> Self {
            Avx512(unsafe { _mm512_loadu_pd(from.as_ptr()) })
        }
        #[inline(always)]
        fn store(self, to: &mut [f64; LANES]) {
            unsafe { _mm512_storeu_pd(to.as_mut_ptr(), self.0) }
        }
        #[inline(always)]
        fn get(from: &[Cell<f64>; LANES]) -> Self {
            Avx512(unsafe { _mm512_loadu_pd(from.as_ptr().cast()) })
        }
        #[inline(always)]
        fn put(self, to: &[Cell<f64>; LANES]) {
            unsafe { _mm512_storeu_pd(to.as_ptr().cast_mut().cast(), self.0) }
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_add_pd(self.0, other.0) })
        }
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_sub_pd(self.0, other.0) })
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_mul_pd(self.0, other.0) })
        }
        #[inline(always)]
        fn mul_add(self, factor: Self, term: Self) -> Self {
            Avx512(unsafe { _mm512_fmadd_pd(self.0, factor.0, term.0) })
        }
        #[inline(always)]
        fn lower(self) -> Self {
            Avx512(unsafe { _mm512_castsi512_pd(_mm512_slli_epi64::<32>(_mm512_castpd_si512(self.0))) })
        }
    }

    /// For use in functions that are compiled for AVX2 and FMA, and only there.
    #[derive(Clone, Copy)]
    pub struct Avx2(__m256d, __m256d);

    // SAFETY of all blocks below: as for AVX-512; the second half of an array begins at its fifth number.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Vector for Avx2 {
        #[inline(always)]
        fn splat(value: f64) -> Self {
            unsafe { Avx2(_mm256_set1_pd(value), _mm256_set1_pd(value)) }
        }
        #[inline(always)]
        fn load(from: &[f64; LANES]) -> Self {
            let p = from.as_ptr();
            unsafe { Avx2(_mm256_loadu_pd(p), _mm256_loadu_pd(p.add(4))) }
        }
        #[inline(always)]
        fn store(self, to: &mut [f64; LANES]) {
            let p = to.as_mut_ptr();
            unsafe {
                _mm256_storeu_pd(p, self.0);
                _mm256_storeu_pd(p.add(4), self.1);
            }
        }
        #[inline(always)]
        fn get(from: &[Cell<f64>; LANES]) -> Self {
            let p = from.as_ptr().cast();
            unsafe { Avx2(_mm256_loadu_pd(p), _mm256_loadu_pd(p.add(4))) }
        }
        #[inline(always)]
        fn put(self, to: &[Cell<f64>; LANES]) {
            let p = to.as_ptr().cast_mut().cast();
            unsafe {
                _mm256_storeu_pd(p, self.0);
                _mm256_storeu_pd(p.add(4), self.1);
            }
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            unsafe { Avx2(_mm256_add_pd(self.0, other.0), _mm256_add_pd(self.1, other.1)) }
        }
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            unsafe { Avx2(_mm256_sub_pd(self.0, other.0), _mm256_sub_pd(self.1, other.1)) }
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            unsafe { Avx2(_mm256_mul_pd(self.0, other.0), _mm256_mul_pd(self.1, other.1)) }
        }
        #[inline(always)]
        fn mul_add(self, factor: Self, term: Self) -> Self {
            unsafe {
                Avx2(_mm256_fmadd_pd(self.0, factor.0, term.0), _mm256_fmadd_pd(self.1, factor.1, term.1))
            }
        }
        #[inline(always)]
        fn lower(self) -> Self {
            let half = |v| unsafe { _mm256_castsi256_pd(_mm256_slli_epi64::<32>(_mm256_castpd_si256(v))) };
            Avx2(half(self.0), half(self.1))
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

/// A loop that can be compiled for any vector.
pub trait Loop {
    /// What it computes.
    type Output;
    /// Run it.
    fn run<V: Vector>(self) -> Self::Output;
}

/// Run a loop with the best vectors that the machine has.
#[inline]
pub fn run<L: Loop>(work: L) -> L::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the machine has it.
            return unsafe { avx512(work) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the machine has it.
            return unsafe { avx2(work) };
        }
    }
    work.run::<Plain>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512<L: Loop>(work: L) -> L::Output {
    work.run::<Avx512>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<L: Loop>(work: L) -> L::Output {
    work.run::<Avx2>()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Poly<'a>(&'a [f64; LANES], &'a [f64; LANES]);

    impl Loop for Poly<'_> {
        type Output = (f64, [f64; LANES]);
        fn run<V: Vector>(self) -> Self::Output {
            let (a, b) = (V::load(self.0), V::load(self.1));
            let v = a.mul(b).add(a).sub(V::splat(0.1)).add(b.mul_add(a, a.lower()));
            let mut lanes = [0.0; LANES];
            v.store(&mut lanes);
            (v.sum(), lanes)
        }
    }

    #[test]
    fn all_instruction_sets_give_the_same_bits() {
        let a = std::array::from_fn(|i| (i as f64 * 0.7).sin()).map(|v: f64| {
            // With another number in its lower half.
            f64::from_bits(v.to_bits() >> 32 << 32 | (v + 0.1).to_bits() >> 32)
        });
        let b = std::array::from_fn(|i| (i as f64 * 1.3).cos() * 1e3);
        let plain = Poly(&a, &b).run::<Plain>();
        assert_eq!(run(Poly(&a, &b)), plain);
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the machine has it.
            assert_eq!(unsafe { avx2(Poly(&a, &b)) }, plain);
        }
        let by_hand: f64 = (0..LANES).map(|i| 2.0 * a[i] * b[i] + a[i] - 0.1 + (a[i] + 0.1)).sum();
        assert!((plain.0 - by_hand).abs() < 1e-4);
    }
}
