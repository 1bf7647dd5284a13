//! The loops of the exact-normal step: one pass before the gradient and one after it for a diagonal metric, and what a coupled
//! metric needs beside its own loops.

use multiversion::multiversion;

use super::simd::{self, LANES, Loop, Vector};

/// A turn by an angle, after a kick.
#[derive(Clone, Copy)]
pub struct By {
    pub kick: f64,
    pub sin: f64,
    pub cos: f64,
    /// 1 - cos without cancellation.
    fall: f64,
}

impl By {
    pub fn new(kick: f64, angle: f64) -> Self {
        let (sin, cos) = (angle.sin(), angle.cos());
        By { kick, sin, cos, fall: sin * sin / (1.0 + cos) }
    }
}

/// A turn from (x, p, m) with the gradient g, for a diagonal metric: p' = p + kick (g + m), and (x - center, M^-1 p') rotated.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
pub fn turn(
    [x, p, g, m]: [&[f64]; 4],
    [x_new, p_new, m_new]: [&mut [f64]; 3],
    [center, inv_mass]: [&[f64]; 2],
    by: By,
) {
    let n = x.len();
    let (p, g, m, center, inv_mass) = (&p[..n], &g[..n], &m[..n], &center[..n], &inv_mass[..n]);
    let (x_new, p_new, m_new) = (&mut x_new[..n], &mut p_new[..n], &mut m_new[..n]);
    let By { kick, sin, cos, fall } = by;
    for i in 0..n {
        let kicked = p[i] + kick * (g[i] + m[i]);
        x_new[i] = x[i] + (sin * inv_mass[i] * kicked - fall * (x[i] - center[i]));
        p_new[i] = cos * kicked - sin * m[i];
        m_new[i] = cos * m[i] + sin * kicked;
    }
}

/// p += kick (g + m) for a diagonal metric; returns p M^-1 p.
pub fn finish([g, m, inv_mass]: [&[f64]; 3], p: &mut [f64], kick: f64) -> f64 {
    simd::run(Finish { g, m, inv_mass, p, kick })
}

struct Finish<'a> {
    g: &'a [f64],
    m: &'a [f64],
    inv_mass: &'a [f64],
    p: &'a mut [f64],
    kick: f64,
}

impl Loop for Finish<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<V: Vector>(self) -> f64 {
        let n = self.inv_mass.len() / LANES;
        let [g, m, inv_mass] = [self.g, self.m, self.inv_mass].map(|v| &v.as_chunks().0[..n]);
        let p = &mut self.p.as_chunks_mut().0[..n];
        let (kick, mut sum) = (V::splat(self.kick), V::splat(0.0));
        for i in 0..n {
            let kicked = V::load(&p[i]).add(kick.mul(V::load(&g[i]).add(V::load(&m[i]))));
            kicked.store(&mut p[i]);
            sum = sum.add(V::load(&inv_mass[i]).mul(kicked).mul(kicked));
        }
        sum.sum()
    }
}

/// The rest of a turn from a point with (x, m), after p' = p + kick g and x' = x + sin M^-1 p' at its end.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2", "aarch64+neon"))]
pub fn rest([x, m, center]: [&[f64]; 3], [x_new, p_new, m_new]: [&mut [f64]; 3], by: By) {
    let n = x.len();
    let (m, center) = (&m[..n], &center[..n]);
    let (x_new, p_new, m_new) = (&mut x_new[..n], &mut p_new[..n], &mut m_new[..n]);
    let By { kick, sin, cos, fall } = by;
    let share = kick * sin - fall;
    for i in 0..n {
        let p = p_new[i] + kick * m[i];
        x_new[i] += share * (x[i] - center[i]);
        p_new[i] = cos * p - sin * m[i];
        m_new[i] = cos * m[i] + sin * p;
    }
}

/// p += kick (g + m)
pub fn kick_both(p: &mut [f64], g: &[f64], m: &[f64], kick: f64) {
    for ((p, g), m) in p.iter_mut().zip(g).zip(m) {
        *p += kick * (g + m);
    }
}
