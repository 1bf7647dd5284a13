//! The loops of the CPU device: one pass over memory each, vectorised for the best instruction set that the machine has.
//!
//! Loops that map are left to the compiler; loops that sum are spelled out ([`super::simd`]). Nothing is fused, so every
//! machine gives the same bits. Slices are rows with their padding: a multiple of [`LANES`] long, zero at the end.

use std::cell::Cell;

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

/// The first `n` vectors of a row.
#[inline(always)]
fn cell_lanes(slice: Cells<'_>, n: usize) -> &[[Cell<f64>; LANES]] {
    &slice.as_chunks().0[..n]
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

/// Numbers of one row, which others may refer to.
pub type Cells<'a> = &'a [Cell<f64>];

/// A point of a trajectory: position, momentum, gradient.
#[derive(Clone, Copy)]
pub struct Point<'a> {
    pub x: Cells<'a>,
    pub p: Cells<'a>,
    pub g: Cells<'a>,
}

/// Position and momentum after the first half of a step from a leaf.
#[derive(Clone, Copy)]
pub struct Onward<'a> {
    pub x: Cells<'a>,
    pub p: Cells<'a>,
    pub drift: f64,
}

/// A leaf, whose momentum lacks its second half kick.
pub struct Leaf<'a> {
    pub point: Point<'a>,
    pub inv_mass: &'a [f64],
    pub kick: f64,
    /// Whether the momentum stays what it was.
    pub passing: bool,
    pub onward: Option<Onward<'a>>,
    /// Momentum of the point just before, if that span is asked for.
    pub before: Option<Cells<'a>>,
}

impl Leaf<'_> {
    /// p += kick g, then, while all of it is in registers, the first half of the step onward and the inner products of the
    /// span from the point before and of `N` others. Adds rho M^-1 p at the ends of the first to `of_before`, that of the
    /// others times 2 kick to `of_spans`; returns p M^-1 p.
    pub fn finish<const N: usize>(
        &self,
        starts: [Point; N],
        of_before: &mut [[f64; 2]],
        of_spans: &mut [[f64; 2]],
    ) -> f64 {
        let (kinetic, before, spans) = simd::run(Finish { leaf: self, starts });
        add(of_before, &[before]);
        add(of_spans, &spans);
        kinetic
    }

    /// Add 2 kick rho M^-1 p at the ends of one more span that ends here, when the leaf is finished.
    pub fn span(&self, start: Point, sums: &mut [f64; 2]) {
        let found = simd::run(Span { leaf: self, start });
        add(std::slice::from_mut(sums), &[found]);
    }
}

fn add(sums: &mut [[f64; 2]], more: &[[f64; 2]]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = [sum[0] + more[0], sum[1] + more[1]];
    }
}

struct Finish<'a, const N: usize> {
    leaf: &'a Leaf<'a>,
    starts: [Point<'a>; N],
}

impl<const N: usize> Loop for Finish<'_, N> {
    type Output = (f64, [f64; 2], [[f64; 2]; N]);

    #[inline(always)]
    fn run<V: Vector>(self) -> Self::Output {
        let Leaf { point, inv_mass, kick, passing, onward, before } = *self.leaf;
        let n = inv_mass.len() / LANES;
        let (point, inv_mass, kick) = (Lanes::new(point, n), lanes(inv_mass, n), V::splat(kick));
        let onward = onward.map(|to| (cell_lanes(to.x, n), cell_lanes(to.p, n), V::splat(to.drift)));
        let before = before.map(|p| cell_lanes(p, n));
        let starts = self.starts.map(|start| Lanes::new(start, n));
        let mut kinetic = V::splat(0.0);
        let (mut of_before, mut of_spans) = ([V::splat(0.0); 2], [[V::splat(0.0); 2]; N]);
        for i in 0..n {
            let ([x, p, g], inv_mass) = (point.get::<V>(i), V::load(&inv_mass[i]));
            let force = kick.mul(g);
            let p = p.add(force);
            if !passing {
                p.put(&point.p[i]);
            }
            let velocity = inv_mass.mul(p);
            kinetic = kinetic.add(velocity.mul(p));
            if let Some(before) = before {
                let start = V::get(&before[i]);
                let sum = inv_mass.mul(start).add(velocity);
                of_before = [of_before[0].add(sum.mul(start)), of_before[1].add(sum.mul(p))];
            }
            if let Some((x_to, p_to, drift)) = onward {
                let half = p.add(force);
                half.put(&p_to[i]);
                x.add(drift.mul(inv_mass.mul(half))).put(&x_to[i]);
            }
            for (sums, start) in of_spans.iter_mut().zip(&starts) {
                start.add_span(i, [x, p, g], inv_mass, kick, sums);
            }
        }
        (kinetic.sum(), of_before.map(V::sum), of_spans.map(|sums| sums.map(V::sum)))
    }
}

struct Span<'a> {
    leaf: &'a Leaf<'a>,
    start: Point<'a>,
}

impl Loop for Span<'_> {
    type Output = [f64; 2];

    #[inline(always)]
    fn run<V: Vector>(self) -> [f64; 2] {
        let Leaf { point, inv_mass, kick, .. } = *self.leaf;
        let n = inv_mass.len() / LANES;
        let (point, inv_mass, kick) = (Lanes::new(point, n), lanes(inv_mass, n), V::splat(kick));
        let start = Lanes::new(self.start, n);
        let mut sums = [V::splat(0.0); 2];
        for (i, inv_mass) in inv_mass.iter().enumerate() {
            start.add_span(i, point.get(i), V::load(inv_mass), kick, &mut sums);
        }
        sums.map(V::sum)
    }
}

/// A [`Point`] as vectors.
struct Lanes<'a> {
    x: &'a [[Cell<f64>; LANES]],
    p: &'a [[Cell<f64>; LANES]],
    g: &'a [[Cell<f64>; LANES]],
}

impl<'a> Lanes<'a> {
    #[inline(always)]
    fn new(point: Point<'a>, n: usize) -> Self {
        Lanes { x: cell_lanes(point.x, n), p: cell_lanes(point.p, n), g: cell_lanes(point.g, n) }
    }

    #[inline(always)]
    fn get<V: Vector>(&self, i: usize) -> [V; 3] {
        [V::get(&self.x[i]), V::get(&self.p[i]), V::get(&self.g[i])]
    }

    /// Add what the i-th vectors have of the inner products of the span from this point to `end`.
    #[inline(always)]
    fn add_span<V: Vector>(&self, i: usize, end: [V; 3], inv_mass: V, kick: V, sums: &mut [V; 2]) {
        let ([x_start, p_start, g_start], [x, p, g]) = (self.get::<V>(i), end);
        let beyond = p_start.add(p).add(kick.mul(g.sub(g_start)));
        let d = x.sub(x_start).add(kick.mul(inv_mass).mul(beyond));
        sums[0] = sums[0].add(d.mul(p_start));
        sums[1] = sums[1].add(d.mul(p));
    }
}

/// p' = scale p + kick g, x' = x + drift inv_mass p'. Both points may be the same.
pub fn glide(from: Point, to: Point, inv_mass: &[f64], factors: [f64; 3]) {
    simd::run(Glide { from, to, inv_mass, factors });
}

struct Glide<'a> {
    from: Point<'a>,
    to: Point<'a>,
    inv_mass: &'a [f64],
    factors: [f64; 3],
}

impl Loop for Glide<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let n = self.inv_mass.len() / LANES;
        let (from, to, inv_mass) =
            (Lanes::new(self.from, n), Lanes::new(self.to, n), lanes(self.inv_mass, n));
        let [scale, kick, drift] = self.factors.map(V::splat);
        for (i, inv_mass) in inv_mass.iter().enumerate() {
            let [x, p, g] = from.get::<V>(i);
            let p = scale.mul(p).add(kick.mul(g));
            p.put(&to.p[i]);
            x.add(drift.mul(V::load(inv_mass).mul(p))).put(&to.x[i]);
        }
    }
}

/// p M^-1 p, p M^-1 g and g M^-1 g.
pub fn products(p: &[f64], g: &[f64], inv_mass: &[f64]) -> [f64; 3] {
    simd::run(Products { p, g, inv_mass })
}

struct Products<'a> {
    p: &'a [f64],
    g: &'a [f64],
    inv_mass: &'a [f64],
}

impl Loop for Products<'_> {
    type Output = [f64; 3];

    #[inline(always)]
    fn run<V: Vector>(self) -> [f64; 3] {
        let n = self.inv_mass.len() / LANES;
        let [p, g, inv_mass] = [self.p, self.g, self.inv_mass].map(|v| lanes(v, n));
        let mut sums = [V::splat(0.0); 3];
        for i in 0..n {
            let (p, g, inv_mass) = (V::load(&p[i]), V::load(&g[i]), V::load(&inv_mass[i]));
            let (velocity, force) = (inv_mass.mul(p), inv_mass.mul(g));
            sums = [sums[0].add(velocity.mul(p)), sums[1].add(velocity.mul(g)), sums[2].add(force.mul(g))];
        }
        sums.map(V::sum)
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

/// center = mean x + inv_mass mean g, of the union of two samples of which the second has this share of the points; as it
/// was where that is not finite.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
pub fn center_of_union(center: &mut [f64], inv_mass: &[f64], union: &Union, share: f64) {
    let n = center.len();
    let Union { first, second, .. } = union;
    let inv_mass = &inv_mass[..n];
    let (mean_x1, mean_g1) = (&first.mean_x[..n], &first.mean_g[..n]);
    let (mean_x2, mean_g2) = (&second.mean_x[..n], &second.mean_g[..n]);
    for i in 0..n {
        let mean_x = mean_x1[i] + share * (mean_x2[i] - mean_x1[i]);
        let mean_g = mean_g1[i] + share * (mean_g2[i] - mean_g1[i]);
        let new = mean_x + inv_mass[i] * mean_g;
        center[i] = if new.abs() < f64::INFINITY { new } else { center[i] };
    }
}

/// center = x + inv_mass g, or x where that is not finite.
pub fn center_from_point(center: &mut [f64], x: &[f64], g: &[f64], inv_mass: &[f64]) {
    for (i, center) in center.iter_mut().enumerate() {
        let new = x[i] + inv_mass[i] * g[i];
        *center = if new.is_finite() { new } else { x[i] };
    }
}

/// a . b
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    simd::run(Product(a, b))
}

struct Product<'a>(&'a [f64], &'a [f64]);

impl Loop for Product<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<V: Vector>(self) -> f64 {
        let n = self.0.len() / LANES;
        let mut sum = V::splat(0.0);
        for (a, b) in lanes(self.0, n).iter().zip(lanes(self.1, n)) {
            sum = sum.add(V::load(a).mul(V::load(b)));
        }
        sum.sum()
    }
}

/// |z|^2 in the norm of M, z = x - center + inv_mass g.
pub fn fisher_distance([x, g, center, inv_mass, mass_sqrt]: [&[f64]; 5]) -> f64 {
    simd::run(FisherDistance([x, g, center, inv_mass, mass_sqrt]))
}

struct FisherDistance<'a>([&'a [f64]; 5]);

impl Loop for FisherDistance<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<V: Vector>(self) -> f64 {
        let n = self.0[0].len() / LANES;
        let [x, g, center, inv_mass, mass_sqrt] = self.0.map(|v| lanes(v, n));
        let mut sum = V::splat(0.0);
        for i in 0..n {
            let z = V::load(&x[i]).sub(V::load(&center[i])).add(V::load(&inv_mass[i]).mul(V::load(&g[i])));
            let y = V::load(&mass_sqrt[i]).mul(z);
            sum = sum.add(y.mul(y));
        }
        sum.sum()
    }
}

/// m = M (x - center), M = mass_sqrt^2.
pub fn pull(x: &[f64], center: &[f64], mass_sqrt: &[f64], out: &mut [f64]) {
    for (((m, x), c), root) in out.iter_mut().zip(x).zip(center).zip(mass_sqrt) {
        *m = root * root * (x - c);
    }
}

/// w p at both ends of a span, w = x_l - x_s + half inv_mass (p_s + p_l).
pub fn reach(start: [&[f64]; 2], end: [&[f64]; 2], inv_mass: &[f64], half: f64) -> [f64; 2] {
    simd::run(Way { start, end, inv_mass, half })
}

struct Way<'a> {
    start: [&'a [f64]; 2],
    end: [&'a [f64]; 2],
    inv_mass: &'a [f64],
    half: f64,
}

impl Loop for Way<'_> {
    type Output = [f64; 2];

    #[inline(always)]
    fn run<V: Vector>(self) -> [f64; 2] {
        let n = self.inv_mass.len() / LANES;
        let [[x, p], [x_end, p_end]] = [self.start, self.end].map(|point| point.map(|v| lanes(v, n)));
        let (inv_mass, half) = (lanes(self.inv_mass, n), V::splat(self.half));
        let mut sums = [V::splat(0.0); 2];
        for i in 0..n {
            let (p, p_end) = (V::load(&p[i]), V::load(&p_end[i]));
            let more = half.mul(V::load(&inv_mass[i])).mul(p.add(p_end));
            let way = V::load(&x_end[i]).sub(V::load(&x[i])).add(more);
            sums = [sums[0].add(way.mul(p)), sums[1].add(way.mul(p_end))];
        }
        sums.map(V::sum)
    }
}
