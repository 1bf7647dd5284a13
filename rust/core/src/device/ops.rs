//! The loops of the CPU device: one pass over memory each, vectorised for the best instruction set that the machine has.
//!
//! Loops that map are left to the compiler; loops that sum are spelled out ([`super::simd`]). Nothing is fused, so every
//! machine gives the same bits. Slices are rows with their padding: a multiple of [`LANES`] long, zero at the end.

use multiversion::multiversion;

use super::simd::{self, LANES, Loop, Vector};

/// Smallest and largest entry that an inverse mass matrix may have.
const INV_MASS_BOUNDS: (f64, f64) = (1e-20, 1e20);

/// The first `n` vectors of a row.
fn lanes(slice: &[f64], n: usize) -> &[[f64; LANES]] {
    &slice.as_chunks().0[..n]
}

/// The first `n` vectors of a row.
fn lanes_mut(slice: &mut [f64], n: usize) -> &mut [[f64; LANES]] {
    &mut slice.as_chunks_mut().0[..n]
}

/// p' = p + kick g, x' = x + drift inv_mass p'.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
#[allow(clippy::too_many_arguments)]
pub fn kick_drift(
    x: &[f64],
    p: &[f64],
    g: &[f64],
    inv_mass: &[f64],
    kick: f64,
    drift: f64,
    x_new: &mut [f64],
    p_new: &mut [f64],
) {
    let n = x.len();
    let (p, g, inv_mass) = (&p[..n], &g[..n], &inv_mass[..n]);
    let (x_new, p_new) = (&mut x_new[..n], &mut p_new[..n]);
    for i in 0..n {
        let half = p[i] + kick * g[i];
        p_new[i] = half;
        x_new[i] = x[i] + drift * (inv_mass[i] * half);
    }
}

/// p += kick g; returns sum of inv_mass p^2.
pub fn kick(p: &mut [f64], g: &[f64], inv_mass: &[f64], kick: f64) -> f64 {
    simd::run(Kick { p, g, inv_mass, kick })
}

struct Kick<'a> {
    p: &'a mut [f64],
    g: &'a [f64],
    inv_mass: &'a [f64],
    kick: f64,
}

impl Loop for Kick<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<V: Vector>(self) -> f64 {
        let n = self.p.len() / LANES;
        let (p, g, inv_mass) = (lanes_mut(self.p, n), lanes(self.g, n), lanes(self.inv_mass, n));
        let kick = V::splat(self.kick);
        let mut sum = V::splat(0.0);
        for i in 0..n {
            let new = V::load(&p[i]).add(kick.mul(V::load(&g[i])));
            new.store(&mut p[i]);
            sum = sum.add(V::load(&inv_mass[i]).mul(new).mul(new));
        }
        sum.sum()
    }
}

/// [`kick`], followed by [`kick_drift`] to the next point while all is still in registers.
pub struct KickOn<'a> {
    pub x: &'a [f64],
    pub p: &'a mut [f64],
    pub g: &'a [f64],
    pub inv_mass: &'a [f64],
    pub kick: f64,
    pub drift: f64,
    pub x_new: &'a mut [f64],
    pub p_new: &'a mut [f64],
}

/// Run a [`KickOn`]; returns sum of inv_mass p^2.
pub fn kick_on(work: KickOn) -> f64 {
    simd::run(work)
}

impl Loop for KickOn<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<V: Vector>(self) -> f64 {
        let n = self.p.len() / LANES;
        let (x, p, g) = (lanes(self.x, n), lanes_mut(self.p, n), lanes(self.g, n));
        let inv_mass = lanes(self.inv_mass, n);
        let (x_new, p_new) = (lanes_mut(self.x_new, n), lanes_mut(self.p_new, n));
        let (kick, drift) = (V::splat(self.kick), V::splat(self.drift));
        let mut sum = V::splat(0.0);
        for i in 0..n {
            let (force, mass) = (kick.mul(V::load(&g[i])), V::load(&inv_mass[i]));
            let here = V::load(&p[i]).add(force);
            here.store(&mut p[i]);
            sum = sum.add(mass.mul(here).mul(here));
            let half = here.add(force);
            half.store(&mut p_new[i]);
            V::load(&x[i]).add(drift.mul(mass.mul(half))).store(&mut x_new[i]);
        }
        sum.sum()
    }
}

/// One end of a span: position, momentum, gradient.
#[derive(Clone, Copy)]
pub struct End<'a> {
    pub x: &'a [f64],
    pub p: &'a [f64],
    pub g: &'a [f64],
}

/// D . p_a and D . p_b with D = x_b - x_a + inv_mass (h (p_a + p_b) + h^2 (g_b - g_a)).
pub fn span(a: End, b: End, inv_mass: &[f64], half_step: f64) -> [f64; 2] {
    simd::run(Span { a, b, inv_mass, half_step })
}

struct Span<'a> {
    a: End<'a>,
    b: End<'a>,
    inv_mass: &'a [f64],
    half_step: f64,
}

impl Loop for Span<'_> {
    type Output = [f64; 2];

    #[inline(always)]
    fn run<V: Vector>(self) -> [f64; 2] {
        let n = self.inv_mass.len() / LANES;
        let (x_a, p_a, g_a) = (lanes(self.a.x, n), lanes(self.a.p, n), lanes(self.a.g, n));
        let (x_b, p_b, g_b) = (lanes(self.b.x, n), lanes(self.b.p, n), lanes(self.b.g, n));
        let inv_mass = lanes(self.inv_mass, n);
        let h = V::splat(self.half_step);
        let (mut at_a, mut at_b) = (V::splat(0.0), V::splat(0.0));
        for i in 0..n {
            let (p_a, p_b) = (V::load(&p_a[i]), V::load(&p_b[i]));
            let beyond = p_a.add(p_b).add(h.mul(V::load(&g_b[i]).sub(V::load(&g_a[i]))));
            let d = V::load(&x_b[i]).sub(V::load(&x_a[i])).add(h.mul(V::load(&inv_mass[i])).mul(beyond));
            at_a = at_a.add(d.mul(p_a));
            at_b = at_b.add(d.mul(p_b));
        }
        [at_a.sum(), at_b.sum()]
    }
}

/// p = z mass_sqrt, where p holds z on entry; returns sum of z^2, which is p M^-1 p.
pub fn scale_normal(p: &mut [f64], mass_sqrt: &[f64]) -> f64 {
    simd::run(ScaleNormal { p, mass_sqrt })
}

struct ScaleNormal<'a> {
    p: &'a mut [f64],
    mass_sqrt: &'a [f64],
}

impl Loop for ScaleNormal<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<V: Vector>(self) -> f64 {
        let n = self.p.len() / LANES;
        let (p, mass_sqrt) = (lanes_mut(self.p, n), lanes(self.mass_sqrt, n));
        let mut sum = V::splat(0.0);
        for i in 0..n {
            let z = V::load(&p[i]);
            sum = sum.add(z.mul(z));
            z.mul(V::load(&mass_sqrt[i])).store(&mut p[i]);
        }
        sum.sum()
    }
}

/// Welford's update of a mean and a sum of squared deviations; `count` counts the new value. The first value replaces
/// whatever was there.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
pub fn welford(mean: &mut [f64], ss: &mut [f64], value: &[f64], count: u64) {
    let n = mean.len();
    let (ss, value) = (&mut ss[..n], &value[..n]);
    if count <= 1 {
        mean.copy_from_slice(value);
        ss.fill(0.0);
        return;
    }
    let weight = 1.0 / count as f64;
    for i in 0..n {
        let before = value[i] - mean[i];
        mean[i] += weight * before;
        ss[i] += before * (value[i] - mean[i]);
    }
}

/// inv_mass = 1 / |g|, clamped; 1 where the gradient says nothing, being zero or not finite. The slices come without
/// padding, which stays zero.
pub fn metric_from_gradient(inv_mass: &mut [f64], mass_sqrt: &mut [f64], g: &[f64]) {
    for ((inv_mass, mass_sqrt), g) in inv_mass.iter_mut().zip(mass_sqrt).zip(g) {
        let usable = g.is_finite() && *g != 0.0;
        *inv_mass = if usable { 1.0 / g.abs().clamp(INV_MASS_BOUNDS.0, INV_MASS_BOUNDS.1) } else { 1.0 };
        *mass_sqrt = (1.0 / *inv_mass).sqrt();
    }
}

/// Means and sums of squared deviations of positions and gradients.
pub struct Summary<'a> {
    pub mean_x: &'a [f64],
    pub ss_x: &'a [f64],
    pub mean_g: &'a [f64],
    pub ss_g: &'a [f64],
}

/// Two samples taken together (Chan, Golub and LeVeque 1983).
pub struct Union<'a> {
    pub first: Summary<'a>,
    pub second: Summary<'a>,
    /// Weight of the second sample's sums: 1, or 0 when it is empty.
    pub weight: f64,
    /// n1 n2 / (n1 + n2), the weight of the squared difference of the means.
    pub between: f64,
}

/// inv_mass = (ss_x / ss_g)^(1/2) of the union of two samples.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
pub fn fit_fisher_diag(inv_mass: &mut [f64], mass_sqrt: &mut [f64], union: &Union) {
    let n = inv_mass.len();
    let mass_sqrt = &mut mass_sqrt[..n];
    let Union { first, second, weight, between } = union;
    let (mean_x1, ss_x1, mean_g1, ss_g1) =
        (&first.mean_x[..n], &first.ss_x[..n], &first.mean_g[..n], &first.ss_g[..n]);
    let (mean_x2, ss_x2, mean_g2, ss_g2) =
        (&second.mean_x[..n], &second.ss_x[..n], &second.mean_g[..n], &second.ss_g[..n]);
    for i in 0..n {
        let dx = mean_x1[i] - mean_x2[i];
        let dg = mean_g1[i] - mean_g2[i];
        let ss_x = ss_x1[i] + weight * ss_x2[i] + between * (dx * dx);
        let ss_g = ss_g1[i] + weight * ss_g2[i] + between * (dg * dg);
        let ratio = ss_x / ss_g;
        let usable = ratio > 0.0 && ratio < f64::INFINITY;
        let new = ratio.sqrt().max(INV_MASS_BOUNDS.0).min(INV_MASS_BOUNDS.1);
        inv_mass[i] = if usable { new } else { inv_mass[i] };
        mass_sqrt[i] = if usable { (1.0 / new).sqrt() } else { mass_sqrt[i] };
    }
}
