"""Do the tests of the core notice when the sampler is wrong?

Each mutant is one mistake that someone could make in the Rust core, as an exact replacement of a piece of source. The
script copies the workspace to a temporary folder, makes one mistake at a time, runs the tests of ``nutpie-core`` and
prints which tests noticed::

    python tests/mutants.py                # all, about twenty seconds each
    python tests/mutants.py step tree      # those whose name contains "step" or "tree"
    python tests/mutants.py --quick        # stop when noticed: by unit tests, exact tests, statistical tests
    python tests/mutants.py --check        # only see whether all replacements still apply

Mutants of the code for GPUs want a device, such as pocl, without which nothing notices them.

The exit code is 1 if a mutant survives, does not compile, or no longer applies because the source has changed; then the
replacement below wants an update. A mutant that leaves the draws right but costs efficiency counts as much as one that
does not: it is to be noticed by a test of that behaviour.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "rust/core/src/"
COPIED = ("Cargo.toml", "Cargo.lock", "clippy.toml", "rust", "benches")

#: The tests, in the order in which they run: test binary, parts of names. The quick ones come first with ``--quick``.
UNIT = (("--lib",), ())
EXACT = (("--test", "validity"), ("trajectories", "a_turn", "statistics", "metric_is", "dual", "collected"))
DEVICE = (("--test", "device"), ())
COUPLED = (("--test", "coupled"), ())
MAMS = (("--test", "mams"), ())
KERNELS = (("--test", "kernels"), ())
GHMC = (("--test", "ghmc"), ())
ENSEMBLE = (("--test", "ensemble"), ())
CONFORMANCE = (("--test", "conformance"), ())
GPU = (("--test", "gpu"), ())
ALL = (("--test", "validity"), ())

#: A mistake can make a loop endless or trajectories as deep as can be.
TIMEOUT = 150


@dataclass(frozen=True)
class Mutant:
    """One mistake: in `file`, each `old` becomes its `new`."""

    name: str
    file: str
    changes: Sequence[tuple[str, str]]


def mutant(name: str, file: str, *changes: tuple[str, str]) -> Mutant:
    return Mutant(name, SOURCE + file, changes)


#: The U-turn criterion.
TURN = "!(*a > 0.0 && *b > 0.0)"

#: Where a chain moves to its draw.
DRAWN = "(self.current, self.logp) = (outcome.slot, outcome.logp);\n                        "

MUTANTS = [
    # Selection of the draw.
    mutant(
        "tree: the new half always wins",
        "tree.rs",
        ("(node.log_weight - self.whole.log_weight).exp().min(1.0)", "1.0"),
    ),
    mutant(
        "tree: halves are joined in proportion to their weights",  # Valid, but it stays nearer to the start.
        "tree.rs",
        (
            "(node.log_weight - self.whole.log_weight).exp().min(1.0)",
            "add_weights(self.whole.log_weight, node.log_weight).1",
        ),
    ),
    mutant(
        "tree: weight of the whole not updated",
        "tree.rs",
        ("self.whole.log_weight = add_weights(self.whole.log_weight, node.log_weight).0;", ""),
    ),
    mutant(
        "tree: newest point wins inside a subtree",
        "tree.rs",
        ("if chooser.accept(share) { node.proposal } else { left.proposal }", "node.proposal"),
    ),
    mutant(
        "tree: fair coin inside a subtree",
        "tree.rs",
        ("if chooser.accept(share)", "if chooser.accept(share.signum() * 0.5)"),
    ),
    mutant(
        "tree: shares of the two pieces swapped",
        "tree.rs",
        (
            "if chooser.accept(share) { node.proposal } else { left.proposal }",
            "if chooser.accept(share) { left.proposal } else { node.proposal }",
        ),
    ),
    mutant("nuts: weights ignored", "kernel/nuts.rs", ("self.tree.grow(-error,", "self.tree.grow(0.0 * error,")),
    mutant("nuts: sign of the energy error", "kernel/nuts.rs", ("self.tree.grow(-error,", "self.tree.grow(error,")),
    mutant(
        "nuts: weight of half the energy error",
        "kernel/nuts.rs",
        ("self.tree.grow(-error,", "self.tree.grow(-0.5 * error,"),
    ),
    mutant(
        "nuts: weights relative to the last draw's energy",
        "kernel/nuts.rs",
        (
            "let error = energy - self.start_energy;",
            "let error = energy - self.start_energy;\n        self.start_energy += 1e-2 * error.clamp(-1.0, 1.0);",
        ),
    ),
    # End of the trajectory.
    mutant(
        "tree: whole span unchecked when going backward",
        "tree.rs",
        (
            "Pair { start: outer, adjacent: depth == 0 }",
            "Pair { start: if self.forward { outer } else { inner }, adjacent: depth == 0 }",
        ),
    ),
    mutant(
        "tree: whole span unchecked",
        "tree.rs",
        ("Pair { start: outer, adjacent: depth == 0 }", "Pair { start: inner, adjacent: depth == 0 }"),
    ),
    mutant(
        "tree: a U-turn of the whole only counts going forward",
        "tree.rs",
        (
            "        self.join(&node, chooser);\n        if turned {",
            "        self.join(&node, chooser);\n        if turned && self.forward {",
        ),
    ),
    mutant(
        "tree: spans start one point late",
        "tree.rs",
        ("Pair { start: left.first, adjacent: depth == 0 }", "Pair { start: left.last, adjacent: depth == 0 }"),
    ),
    mutant(
        "tree: a subtree that turned is kept",
        "tree.rs",
        (
            "{ 2 } else { 1 }) {\n                self.end",
            "{ 2 } else { 1 }) {\n                self.join(&node, chooser);\n                self.end",
        ),
    ),
    mutant(
        "tree: U-turns inside subtrees ignored",
        "tree.rs",
        (
            "            if turned(if node.depth > 0 { 2 } else { 1 }) {\n                self.end",
            "            if turned(if node.depth > 0 { 2 } else { 1 }) && false {\n                self.end",
        ),
    ),
    mutant(
        "tree: early U-turn of the whole forgotten",
        "tree.rs",
        ("            self.whole_turned = true;\n", ""),
    ),
    mutant(
        "tree: a divergent subtree is kept",
        "tree.rs",
        (
            "    pub fn diverge(&mut self) {\n",
            "    pub fn diverge(&mut self) {\n"
            "        if let Some(node) = self.pending.last() {\n"
            "            self.whole.proposal = node.proposal;\n"
            "        }\n",
        ),
    ),
    mutant(
        "tree: directions alternate", "tree.rs", ("self.forward = chooser.forward();", "self.forward = !self.forward;")
    ),
    mutant("tree: always forward", "tree.rs", ("self.forward = chooser.forward();", "self.forward = true;")),
    mutant(
        "tree: one doubling too few",
        "tree.rs",
        ("self.whole.depth >= self.limit", "self.whole.depth + 1 >= self.limit"),
    ),
    mutant(
        "nuts: only the end that comes first in time is checked",
        "kernel/nuts.rs",
        ("|[a, b]| " + TURN, "|[a, b]| !(if self.points[self.to].index > 0 { *a } else { *b } > 0.0)"),
    ),
    mutant(
        "nuts: only the newest end is checked",
        "kernel/nuts.rs",
        ("|[a, b]| " + TURN, "|[_, b]| !(*b > 0.0)"),
    ),
    mutant(
        "nuts: only the oldest end is checked",
        "kernel/nuts.rs",
        ("|[a, b]| " + TURN, "|[a, _]| !(*a > 0.0)"),
    ),
    mutant("nuts: U-turn needs both ends", "kernel/nuts.rs", (TURN, "!(*a > 0.0 || *b > 0.0)")),
    mutant("nuts: no U-turn is found", "kernel/nuts.rs", (TURN, "(*a).is_nan() || (*b).is_nan()")),
    mutant("nuts: a product that is not a number is no U-turn", "kernel/nuts.rs", (TURN, "*a <= 0.0 || *b <= 0.0")),
    mutant(
        "device: half steps beyond a span go the other way",
        "device/ops.rs",
        ("x.sub(x_start).add(kick", "x.sub(x_start).sub(kick"),
    ),
    mutant(
        "device: spans without the half steps",
        "device/ops.rs",
        ("x.sub(x_start).add(kick.mul(inv_mass).mul(beyond))", "x.sub(x_start).add(V::splat(0.0).mul(beyond))"),
    ),
    mutant(
        "device: spans without the gradients",
        "device/ops.rs",
        ("p_start.add(p).add(kick.mul(g.sub(g_start)))", "p_start.add(p)"),
    ),
    mutant(
        "device: span from the point before with the momentum of one end",
        "device/ops.rs",
        ("inv_mass.mul(start).add(velocity)", "inv_mass.mul(start)"),
    ),
    mutant(
        "device: spans backward in time count as forward",
        "device/points.rs",
        ("dot / (2.0 * leaf.kick)", "dot / (2.0 * leaf.kick.abs())"),
    ),
    mutant(
        "device: more spans than one pass takes are measured in the first block only",
        "device/points.rs",
        (
            "                work.span(start(span), dots);\n",
            "                if block.start == 0 { work.span(start(span), dots) }\n",
        ),
    ),
    # Metrics that couple parameters.
    mutant(
        "coupled: products with the first of two directions only",
        "device/directions.rs",
        ("*second = y.mul_add(word.lower(), *second);", "*second = y.mul_add(word, *second);"),
    ),
    mutant(
        "coupled: positions move in the first of two directions only",
        "device/directions.rs",
        ("                sum = second.mul_add(word.lower(), sum);\n", ""),
    ),
    mutant(
        "coupled: the second number of a word is not rounded",
        "device/directions.rs",
        ("(second.to_bits() + (1 << 31)) >> 32", "second.to_bits() >> 32"),
    ),
    mutant(
        "coupled: the first number of a word is not made right",
        "device/directions.rs",
        ("(first.to_bits() - lower + (1 << 31)) >> 32", "first.to_bits() >> 32"),
    ),
    mutant(
        "coupled: directions are taken for orthonormal",
        "device/coupling.rs",
        (
            "let inverse = triangular::inverse(&gram, rank);",
            "let inverse: Vec<f64> = (0..rank * rank).map(|i| f64::from(u8::from(i % (rank + 1) == 0))).collect();",
        ),
    ),
    mutant(
        "coupled: eigenvalues upside down",
        "device/coupling.rs",
        ("inv_mass: square(|v| v - 1.0)", "inv_mass: square(|v| 1.0 / v - 1.0)"),
    ),
    mutant(
        "coupled: momenta for the inverse of the mass",
        "device/coupling.rs",
        ("momentum: square(|v| 1.0 / v.sqrt() - 1.0)", "momentum: square(|v| v.sqrt() - 1.0)"),
    ),
    mutant(
        "coupled: momenta with one scale too few", "device/coupling.rs", ("*p += m * m * *more;", "*p += m * *more;")
    ),
    mutant(
        "coupled: momenta of the transposed factor",
        "device/coupling.rs",
        ("self.directions.solve(cells(z));", "self.directions.solve_transposed(cells(z));"),
    ),
    mutant(
        "coupled: products of a fresh momentum without its eigenvalues",
        "device/coupling.rs",
        ("values, |v| 1.0 / v.sqrt(), left)", "values, |_| 1.0, left)"),
    ),
    mutant(
        "coupled: distances in the norm of the inverse mass",
        "device/coupling.rs",
        ("mass: square(|v| 1.0 / v - 1.0)", "mass: square(|v| v - 1.0)"),
    ),
    mutant(
        "coupled: a dense metric keeps its diagonal",
        "device/coupling.rs",
        ("if few.is_some() { s * s } else { 0.0 }", "s * s"),
    ),
    mutant(
        "coupled: all metrics are the first one",
        "device/coupling.rs",
        ("all.iter().find(|p| p.metric.as_ptr() == Arc::as_ptr(metric))", "all.first()"),
    ),
    mutant(
        "coupled: steps back in time drift forward",
        "device/coupling.rs",
        ("map(|v| drift * v)", "map(|v| drift.abs() * v)"),
    ),
    mutant(
        "coupled: spans without the gradients",
        "device/coupled.rs",
        ("{ (0.0, 1.0) } else { (leaf.kick, 0.5) }", "{ (0.0, 1.0) } else { (0.0, 0.5) }"),
    ),
    mutant(
        "coupled: adjacent spans count half",
        "device/coupled.rs",
        ("{ (0.0, 1.0) } else { (leaf.kick, 0.5) }", "{ (0.0, 0.5) } else { (leaf.kick, 0.5) }"),
    ),
    mutant(
        "coupled: the momentum's directions miss the second half kick",
        "device/coupled.rs",
        ("p.kick([row, row], 1.0, leaf.kick,", "p.kick([row, row], 1.0, 0.0 * leaf.kick,"),
    ),
    mutant(
        "coupled: kinetic energy of the diagonal only",
        "device/coupled.rs",
        ("of_diagonal + ops::dot(end.p[0], end.p[1])", "of_diagonal"),
    ),
    mutant("coupled: rows that are written keep what was known", "device/along.rs", ("            *owner = 0;\n", "")),
    mutant(
        "coupled: a higher rank makes the others forget",
        "device/along.rs",
        ("            new[..self.stride].copy_from_slice(old);\n", ""),
    ),
    mutant(
        "coupled: a diagonal metric made in place leaves the one before",
        "device/cpu.rs",
        ("        self.couplings[metrics.id][row] = None;\n", ""),
    ),
    mutant(
        "coupled: the diagonal's steps leave what was known",
        "device/cpu.rs",
        (
            "            all.forget(op.to);\n            let [x, p, g] = &mut all.phase;\n            let (x, x_new)",
            "            let [x, p, g] = &mut all.phase;\n            let (x, x_new)",
        ),
    ),
    mutant(
        "metric: centre without the gradients",
        "device/ops.rs",
        ("let new = mean_x + inv_mass[i] * mean_g;", "let new = mean_x;"),
    ),
    mutant(
        "nuts: divergences go unnoticed",
        "kernel/nuts.rs",
        ("if error > self.settings.max_energy_error {", "if error > f64::MAX {"),
    ),
    mutant(
        "nuts: failed points count as good",
        "kernel/nuts.rs",
        (
            "let energy = arrival.energy();",
            "let energy = if arrival.logp.is_nan() { self.start_energy } else { arrival.energy() };",
        ),
    ),
    # Step size.
    mutant(
        "nuts: backward steps are shorter",
        "kernel/nuts.rs",
        ("let sign = if leaf.forward { 1.0 } else { -1.0 };", "let sign = if leaf.forward { 1.0 } else { -0.97 };"),
    ),
    mutant(
        "nuts: jitter inside a trajectory",
        "kernel/nuts.rs",
        (
            "            step: sign * self.step,\n",
            "            step: sign * self.step * (0.95 + 0.1 * (self.n_steps % 2) as f64),\n",
        ),
    ),
    mutant(
        "chain: one jitter for all draws",
        "chain/mod.rs",
        ("Stream::new(self.key(), Purpose::StepSize)", "Stream::new(Key { draw: 0, ..self.key() }, Purpose::StepSize)"),
    ),
    mutant(
        "chain: step size goes on adapting",
        "chain/warmup.rs",
        (
            "        if !self.tuning() {\n            return;\n        }\n        self.warmup",
            "        if !self.tuning() && self.draw == 0 {\n            return;\n        }\n        self.warmup",
        ),
    ),
    mutant(
        "chain: no adaptation",
        "chain/warmup.rs",
        (
            "        if !self.tuning() {\n            return;\n        }\n        self.warmup",
            "        if !self.tuning() || self.draw > 0 {\n            return;\n        }\n        self.warmup",
        ),
    ),
    mutant(
        "step: averaged step size not used",
        "adapt/mod.rs",
        ("if tuning { self.step().current() } else { self.step().average() }", "self.step().current()"),
    ),
    mutant("step: jitter to one side", "adapt/mod.rs", ("(2.0 * uniform - 1.0)", "uniform")),
    mutant(
        "step: no symmetric statistic late",
        "adapt/windowed.rs",
        ("draw.accept[usize::from(plan.late)]", "draw.accept[0]"),
    ),
    mutant(
        "step: average of steps, not of logs",
        "adapt/step_size.rs",
        (
            "self.log_step_bar = weight * self.log_step + (1.0 - weight) * self.log_step_bar;",
            "self.log_step_bar = (weight * self.log_step.exp() + (1.0 - weight) * self.log_step_bar.exp()).ln();",
        ),
    ),
    mutant(
        "step: sign of dual averaging", "adapt/step_size.rs", ("self.mu - self.h * count", "self.mu + self.h * count")
    ),
    mutant(
        "step: dual averaging without shrinkage",
        "adapt/step_size.rs",
        ("Self::towards(10.0 * step, step)", "Self::towards(step, step)"),
    ),
    mutant("step: search stops at once", "adapt/step_size.rs", ("if above != growing ||", "if above == growing ||")),
    mutant("step: largest step size ignored", "adapt/step_size.rs", (".min(settings.max_step_size.ln())", "")),
    mutant(
        "step: search after every metric",
        "adapt/windowed.rs",
        ("self.search_pending = !self.metric_changed;", "self.search_pending = true;"),
    ),
    mutant(
        "nuts: acceptance above one",
        "kernel/nuts.rs",
        ("self.sum_accept += ratio.min(1.0);", "self.sum_accept += ratio;"),
    ),
    mutant(
        "nuts: symmetric acceptance is the plain one",
        "kernel/nuts.rs",
        ("2.0 * ratio.min(1.0) / (1.0 + ratio);", "ratio.min(1.0);"),
    ),
    mutant(
        "nuts: divergent steps left out of the acceptance",
        "kernel/nuts.rs",
        (
            "accept: self.sum_accept / steps,",
            "accept: self.sum_accept / (steps - f64::from(u8::from(self.tree.end() == Some(End::Diverged)))).max(1.0),",
        ),
    ),
    # Leapfrog.
    mutant("leapfrog: full kick at the end", "integrate.rs", ("row: to, kick: 0.5 * step,", "row: to, kick: step,")),
    mutant(
        "leapfrog: no kick at the end", "integrate.rs", ("row: to, kick: 0.5 * step,", "row: to, kick: 0.0 * step,")
    ),
    mutant("leapfrog: full kick at the start", "integrate.rs", ("kick: 0.5 * step, drift", "kick: step, drift")),
    mutant(
        "leapfrog: gradient of the point before",
        "device/points.rs",
        ("g: self.g.row(row, block) }", "g: self.g.row(row.saturating_sub(1), block) }"),
    ),
    mutant("leapfrog: velocity without the mass", "device/ops.rs", ("drift * (inv_mass[i] * half)", "drift * half")),
    mutant(
        "leapfrog: kick onward without its second half",
        "device/ops.rs",
        ("let half = p.add(force);", "let half = p;"),
    ),
    mutant(
        "leapfrog: kinetic energy without the mass",
        "device/ops.rs",
        ("kinetic = kinetic.add(velocity.mul(p));", "kinetic = kinetic.add(p.mul(p));"),
    ),
    mutant(
        "leapfrog: kinetic energy without the half",
        "device/cpu.rs",
        ("*kinetic = 0.5 * square;\n            (spans", "*kinetic = square;\n            (spans"),
    ),
    # Momentum and random numbers.
    mutant(
        "momentum: scaled by the inverse mass",
        "device/cpu.rs",
        ("scales.mass_sqrt(op.metric)", "scales.inv_mass(op.metric)"),
    ),
    mutant(
        "momentum: never refreshed",
        "device/cpu.rs",
        ("rng::fill_normal(op.key,", "rng::fill_normal(crate::rng::Key { draw: 0, ..op.key },"),
    ),
    mutant(
        "rng: same momenta in all chains",
        "chain/mod.rs",
        (
            "Key { seed: self.settings.seed, chain: self.id as u32, draw: self.draw as u32 }",
            "Key { seed: self.settings.seed, chain: 0, draw: self.draw as u32 }",
        ),
    ),
    mutant(
        "rng: seed ignored",
        "chain/mod.rs",
        (
            "Key { seed: self.settings.seed, chain: self.id as u32, draw: self.draw as u32 }",
            "Key { seed: 1, chain: self.id as u32, draw: self.draw as u32 }",
        ),
    ),
    mutant(
        "rng: one stream for all purposes",
        "rng.rs",
        ("counter: [0, key.draw, key.chain, purpose.code()]", "counter: [0, key.draw, key.chain, 0 * purpose.code()]"),
    ),
    mutant("rng: normals too wide", "rng.rs", ("(-2.0 * ln(", "(-2.08 * ln(")),
    mutant(
        "rng: uniforms of 32 bits below one half",
        "rng.rs",
        ("(self.bits() >> 11) as f64", "(self.bits() >> 12) as f64"),
    ),
    mutant(
        "chain: logp of the point before",
        "chain/mod.rs",
        (
            DRAWN + "return",
            DRAWN.replace("(self.current, self.logp) = (outcome.slot, outcome.logp)", "self.current = outcome.slot")
            + "return",
        ),
    ),
    mutant(
        "chain: draw stays where it was",
        "chain/mod.rs",
        (
            DRAWN + "return",
            DRAWN.replace("(self.current, self.logp) = (outcome.slot, outcome.logp)", "self.logp = outcome.logp")
            + "return",
        ),
    ),
    # Metric.
    mutant("metric: ratio upside down", "device/ops.rs", ("let ratio = ss_x / ss_g;", "let ratio = ss_g / ss_x;")),
    mutant("metric: no root", "device/ops.rs", ("let new = ratio.sqrt()", "let new = ratio")),
    mutant(
        "metric: mass not updated with its inverse",
        "device/ops.rs",
        ("mass_sqrt[i] = if usable { (1.0 / new).sqrt() } else { mass_sqrt[i] };", ""),
    ),
    mutant(
        "metric: Welford with the old deviation twice",
        "device/ops.rs",
        ("ss[i] += before * (value[i] - mean[i]);", "ss[i] += before * before;"),
    ),
    mutant("metric: samples joined without their means", "device/ops.rs", ("+ between * (dx * dx)", "")),
    mutant(
        "metric: oldest sample never forgotten",
        "estimator/fisher_diag.rs",
        ("        std::mem::swap(&mut self.older, &mut self.newer);\n        self.newer.count = 0;\n", ""),
    ),
    mutant(
        "metric: draws that did not move are collected",
        "adapt/windowed.rs",
        ("let usable = draw.distance > if", "let usable = draw.distance + 1 > if"),
    ),
    mutant(
        "metric: adapts until the end of warm-up",
        "adapt/windows.rs",
        ("if draw >= self.final_start {", "if draw > self.final_start + 1_000_000 {"),
    ),
    # The microcanonical kernel.
    mutant("mams: the work of kicks forgotten", "kernel/mams.rs", ("self.work += self.kick.work;", "")),
    mutant(
        "mams: work in one dimension too many",
        "kernel/mams.rs",
        ("work: (dim - 1.0) * (a", "work: dim * (a"),
    ),
    mutant(
        "mams: forces in one dimension too many",
        "kernel/mams.rs",
        ("let a = d * force / (dim - 1.0);", "let a = d * force / dim;"),
    ),
    mutant(
        "mams: the last half kick is a whole one",
        "kernel/mams.rs",
        ("if last { 0.5 * self.h } else { self.h }", "self.h"),
    ),
    mutant(
        "mams: the first half kick is a whole one",
        "kernel/mams.rs",
        ("self.push_on(0.5 * self.h, kinetic, dots);", "self.push_on(self.h, kinetic, dots);"),
    ),
    mutant("mams: everything accepted", "kernel/transitions.rs", ("stream.uniform() < accept", "accept >= 0.0")),
    mutant(
        "mams: sign of the work",
        "kernel/mams.rs",
        ("self.logp - arrival.logp + self.work", "self.logp - arrival.logp - self.work"),
    ),
    mutant(
        "mams: rejected points stay",
        "kernel/mams.rs",
        ("        if accepted {\n", "        if accepted || self.steps % 2 == 0 {\n"),
    ),
    # Trajectories of fixed length, the exact-normal integrator, steps that adapt within a trajectory.
    mutant(
        "hmc: weights with another temperature",
        "kernel/hmc.rs",
        ("add_weights(self.log_weight, -error)", "add_weights(self.log_weight, -0.5 * error)"),
    ),
    mutant("hmc: no offset", "kernel/hmc.rs", ("self.stream.bits() % (self.steps + 1)", "0")),
    mutant(
        "hmc: an end of another energy",
        "kernel/hmc.rs",
        ("energy - self.start_energy }", "-arrival.logp + self.logp }"),
    ),
    mutant(
        "exact normal: the pull stays",
        "device/turn.rs",
        ("m_new[i] = cos * m[i] + sin * kicked;", "m_new[i] = m[i];"),
    ),
    mutant(
        "exact normal: momenta do not rotate",
        "device/turn.rs",
        ("p_new[i] = cos * kicked - sin * m[i];", "p_new[i] = kicked;"),
    ),
    mutant(
        "exact normal: momenta do not rotate under a coupled metric",
        "device/turn.rs",
        ("p_new[i] = cos * p - sin * m[i];", "p_new[i] = p;"),
    ),
    mutant(
        "walnuts: nobody looks for the way back",
        "kernel/walnuts.rs",
        ("        if halvings < self.halvings {", "        if halvings > self.halvings {"),
    ),
    mutant(
        "walnuts: the way back may differ",
        "kernel/walnuts.rs",
        ("                self.tree.give_up();\n", "                self.way_back(self.halvings);\n"),
    ),
    mutant(
        "walnuts: the start of a way has any energy",
        "kernel/walnuts.rs",
        ("low: energy, high: energy,", "low: f64::INFINITY, high: f64::NEG_INFINITY,"),
    ),
    mutant("device: glides do not scale", "device/ops.rs", ("scale.mul(p).add(kick.mul(g))", "p.add(kick.mul(g))")),
    mutant(
        "coupled: directions do not follow the scale",
        "device/along.rs",
        ("scale.mul(V::get(from)).add(", "V::get(from).add("),
    ),
    # The metric of chains that pool, and how they pool.
    mutant(
        "pursuit: difference of position and gradient",
        "estimator/fisher_pursuit.rs",
        ("let sum = &self.x + &self.g;", "let sum = &self.x - &self.g;"),
    ),
    mutant(
        "pursuit: scales corrected the wrong way",
        "estimator/fisher_pursuit.rs",
        ("let factor = ((left_x + kept) / (left_g + kept))", "let factor = ((left_g + kept) / (left_x + kept))"),
    ),
    mutant(
        "pursuit: later rounds take the largest covariances",
        "estimator/fisher_pursuit.rs",
        ("of(&self.x) - of(&self.g)", "of(&self.x) + of(&self.g)"),
    ),
    mutant(
        "pursuit: points stay in the old coordinates",
        "estimator/fisher_pursuit.rs",
        ("        stretch(&mut self.x, a, -0.5);\n", ""),
    ),
    mutant(
        "pursuit: no root of the factors",
        "estimator/fisher_pursuit.rs",
        ("*a *= value.sqrt() - 1.0", "*a *= value - 1.0"),
    ),
    mutant(
        "check: gradients scaled like positions",
        "estimator/metric_check.rs",
        ("metric, &metric.stds, f64::sqrt)", "metric, &inverse, f64::sqrt)"),
    ),
    mutant(
        "check: draws alone do not count",
        "estimator/metric_check.rs",
        ("top_of_draws(x.as_ref())?", "1.0"),
    ),
    mutant(
        "pool: one high draw makes the others lag",
        "adapt/pool.rs",
        ("member.typical()).fold", "member.highest()).fold"),
    ),
    mutant(
        "pool: chains that come later stay alone",
        "adapt/pool.rs",
        ("draws.is_multiple_of(JOIN_EVERY)) &&", "draws == 0) &&"),
    ),
    mutant(
        "pool: chains that lag join too",
        "adapt/pool.rs",
        ("members.iter_mut().filter(|member| !member.lagging).collect()", "members.iter_mut().collect()"),
    ),
    mutant(
        "pool: chains that lag count for the step size",
        "adapt/pool.rs",
        ("!member.goes_alone(shared)", "true || shared"),
    ),
    mutant(
        "pool: extended again whether it helps or not",
        "adapt/pool.rs",
        ("top < WORTHWHILE * last.top_eigenvalue", "top > 0.0 * last.top_eigenvalue"),
    ),
    mutant("pool: never extended", "adapt/pool.rs", ("let bad = top > BAD_EIGENVALUE", "let bad = top > f64::MAX")),
    mutant(
        "fit: the last one is not reserved",
        "adapt/group.rs",
        ("self.budget(draw) - self.spent - reserve", "self.budget(draw) - self.spent - 0.0 * reserve"),
    ),
    mutant("fit: the budget is no limit", "adapt/group.rs", ("share * SHARE_OF_RUN", "9.0 * share * SHARE_OF_RUN")),
    # Persistent momenta.
    mutant(
        "ghmc: accepted by the square root of the ratio",
        "kernel/ghmc.rs",
        ("let ratio = (-error).exp();", "let ratio = (-0.5 * error).exp();"),
    ),
    mutant("ghmc: the slice does not follow", "kernel/ghmc.rs", ("self.state.slice *= error.exp();", "")),
    mutant(
        "ghmc: the slice goes the other way",
        "kernel/ghmc.rs",
        ("self.state.slice *= error.exp();", "self.state.slice *= (-error).exp();"),
    ),
    mutant("ghmc: rejected momenta go on", "kernel/ghmc.rs", ("self.state.sign = -1.0;", "self.state.sign = 1.0;")),
    mutant(
        "ghmc: accepted momenta turn round",
        "kernel/ghmc.rs",
        ("(self.to, arrival.logp, 1.0);", "(self.to, arrival.logp, -1.0);"),
    ),
    mutant(
        "ghmc: the slice stands still",
        "kernel/ghmc.rs",
        ("self.state.slice + 1.0 + 0.5 * renewed", "self.state.slice + 1.0"),
    ),
    mutant(
        "ghmc: momenta are forgotten twice as fast",
        "kernel/ghmc.rs",
        ("(-step / length).exp()", "(-2.0 * step / length).exp()"),
    ),
    mutant(
        "device: renewed momenta are too long",
        "device/cpu.rs",
        ("let share = (1.0 - keep * keep).max(0.0).sqrt();", "let share = 1.0 - keep.abs() * keep.abs() * keep.abs();"),
    ),
    mutant(
        "device: energies of the fresh part of momenta",
        "device/cpu.rs",
        (
            "kinetic, &mut [[0.0; 2]])?;\n        }\n        Ok(())\n    }\n\n    fn kick_drift",
            "&mut [0.0], &mut [[0.0; 2]])?;\n        }\n        Ok(())\n    }\n\n    fn kick_drift",
        ),
    ),
    # Ensembles.
    mutant(
        "meads: pairs count once",
        "adapt/meads.rs",
        ("(2.0 * squares / (n * (n - 1.0)))", "(squares / (n * (n - 1.0)))"),
    ),
    mutant(
        "meads: positions are not centred",
        "adapt/meads.rs",
        (
            "x.iter().zip(&center).map(|(x, m)| x - m).collect();\n            metric",
            "x.iter().zip(&center).map(|(x, _)| *x).collect();\n            metric",
        ),
    ),
    mutant(
        "meads: gradients in the coordinates of positions",
        "adapt/meads.rs",
        ("metric.whiten_gradient(&mut g);", "metric.whiten(&mut g);"),
    ),
    mutant(
        "ensemble: folds follow themselves",
        "adapt/ensemble.rs",
        ("&self.folds[(fold + folds - 1) % folds];", "&self.folds[fold];"),
    ),
    mutant(
        "ensemble: no fold rests",
        "adapt/ensemble.rs",
        ("(self.fixed.is_none() && folds > 1)", "(self.fixed.is_none() && folds > 1_000_000)"),
    ),
    mutant("ensemble: chains keep their places", "adapt/ensemble.rs", ("            self.shuffle();\n", "")),
    mutant(
        "ensemble: the metric is that of one fold",
        "adapt/ensemble.rs",
        (
            "let metric = metric.filter(Metric::is_usable).map_or(before, Arc::new);",
            "let metric = metric.map_or(before.clone(), |_| before);",
        ),
    ),
    mutant(
        "ensemble: steps never get smaller",
        "adapt/ensemble.rs",
        (
            "(accept / moved - self.meads.target_accept)).min(0.0);",
            "(accept / moved - self.meads.target_accept)).clamp(0.0, 0.0);",
        ),
    ),
    mutant(
        "chain: momenta stay as they are under another metric",
        "chain/ensemble.rs",
        ("*p *= *factor", "*p *= factor.powi(0)"),
    ),
    mutant(
        "chain: momenta go on under another metric with eigenvectors",
        "chain/ensemble.rs",
        ("            self.kernel.restart();\n            return Ok(());", "            return Ok(());"),
    ),
    mutant(
        "chain: states without the momentum", "chain/state.rs", ("if self.keeps() == 0.0 {", "if self.keeps() < 2.0 {")
    ),
    mutant(
        "pilot: all superchains start from the first chain",
        "run/pilot.rs",
        ("if usable.contains(&number) { (number, 0) }", "if usable.contains(&number) { (0, 0) }"),
    ),
    # Metrics that chains have in common.
    mutant(
        "holders: a metric made in place is that of all its chains",
        "device/holders.rs",
        ("        self.leave(chain);\n        // The one", "        self.uses[before] = 0;\n        // The one"),
    ),
    mutant(
        "holders: a metric made in place begins with the numbers of another",
        "device/cpu.rs",
        ("if copy && row != before {", "if copy && row == before {"),
    ),
    mutant(
        "holders: a metric that has changed is given away as the one before",
        "device/holders.rs",
        ("            self.known.retain(|(_, known)| *known != row);\n", ""),
    ),
    mutant(
        "leaf: a passing one writes its momentum",
        "device/ops.rs",
        (
            "            if !passing {\n                p.put(&point.p[i]);\n            }\n",
            "            p.put(&point.p[i]);\n",
        ),
    ),
    mutant(
        "coupled: a passing leaf leaves what was known of its momentum",
        "device/coupled.rs",
        ("        if leaf.passing {\n            self.along[0].forget(row);\n        }\n", ""),
    ),
    # The devices' kernels. They want a device, such as pocl.
    mutant(
        "gpu: the last column of a chunk is left out",
        "device/gpu/kernels/common.c",
        ("FIRST + chunk < dim ? FIRST + chunk : dim", "FIRST + chunk < dim ? FIRST + chunk - 1 : dim"),
    ),
    mutant(
        "gpu: two halves are not added in the end",
        "device/gpu/kernels/common.c",
        ("width > 0; width /= 2", "width > 1; width /= 2"),
    ),
    mutant(
        "gpu: sums keep what another metric added",
        "device/gpu/kernels/common.c",
        ("        if (rank == 0 && GROUP_Y == 0) partials[(sum + 1) * stride - 1] = 0.0;\n", ""),
    ),
    mutant(
        "gpu: numbers are not rounded before they are used",
        "device/gpu/kernels/common.c",
        ("((double)(real)(v))", "((double)(v))"),
    ),
    mutant(
        "gpu: glides do not scale",
        "device/gpu/kernels/steps.c",
        ("scale * p[from + j] + kick * g[from + j]", "p[from + j] + kick * g[from + j]"),
    ),
    mutant(
        "gpu: spans without the gradients",
        "device/gpu/kernels/steps.c",
        ("if (i) sum += k * ((double)g[end + j] - g[start + j]);", ""),
    ),
    mutant(
        "gpu: spans backward in time count as forward",
        "device/gpu/kernels/steps.c",
        ("        sums[0] /= 2.0 * k;\n", "        sums[0] /= 2.0 * fabs(k);\n"),
    ),
    mutant(
        "gpu: the step onward kicks twice",
        "device/gpu/kernels/steps.c",
        ("double next = ROUNDED(now + force);", "double next = ROUNDED(now + 2.0 * force);"),
    ),
    mutant(
        "gpu: a passing leaf writes its momentum",
        "device/gpu/kernels/steps.c",
        ("if (!passing) p[row + j] = (real)now;", "p[row + j] = (real)now;"),
    ),
    mutant(
        "gpu: the rotation of a pull goes the other way",
        "device/gpu/kernels/steps.c",
        ("(real)(cos_angle * m + sin_angle * kicked)", "(real)(cos_angle * m - sin_angle * kicked)"),
    ),
    mutant(
        "gpu: distances without the gradients",
        "device/gpu/kernels/steps.c",
        (" + inv_mass[scale + j] * (double)g[row + j];", ";"),
    ),
    mutant(
        "gpu: rows of another stride begin where those of this one do",
        "device/gpu/kernels/steps.c",
        ("target = whole(op, 1) * to_stride", "target = whole(op, 1) * from_stride"),
    ),
    mutant(
        "gpu: fewer rounds of Philox",
        "device/gpu/kernels/random.c",
        ("round < 10", "round < 9"),
    ),
    mutant(
        "gpu: momenta of all chains alike",
        "device/gpu/kernels/random.c",
        ("(u32)op[4], (u32)op[5], (u32)op[6]", "(u32)op[4], 0, (u32)op[6]"),
    ),
    mutant(
        "gpu: a shorter series of the logarithm",
        "device/gpu/kernels/random.c",
        ("int odd = 17; odd >= 3", "int odd = 13; odd >= 3"),
    ),
    mutant(
        "gpu: renewed momenta with the share of the variance",
        "device/gpu/kernels/random.c",
        ("share = sqrt(fmax(1.0 - keep * keep, 0.0)), sum", "share = fmax(1.0 - keep * keep, 0.0), sum"),
    ),
    mutant(
        "gpu: momenta under a metric with eigenvectors renewed with the share of the variance",
        "device/gpu/kernels/random.c",
        ("share = sqrt(fmax(1.0 - keep * keep, 0.0));", "share = fmax(1.0 - keep * keep, 0.0);"),
    ),
    mutant(
        "gpu: Welford with the old deviation twice",
        "device/gpu/kernels/estimate.c",
        ("before * (value - now)", "before * before"),
    ),
    mutant(
        "gpu: the first point is added to what was there",
        "device/gpu/kernels/estimate.c",
        ("if (count <= 1.0) {", "if (count <= 0.0) {"),
    ),
    mutant(
        "gpu: samples joined without their means",
        "device/gpu/kernels/estimate.c",
        (" + between * (dx * dx);", ";"),
    ),
    mutant(
        "gpu: a coordinate that does not move loses its scale",
        "device/gpu/kernels/estimate.c",
        ("        double now = inv_mass[row + j];\n", "        double now = inv_mass[row + j] = 1.0;\n"),
    ),
    mutant(
        "gpu: the last eigenvector of four is left out",
        "device/gpu/kernels/coupled.c",
        ("rank - k < TILE ? rank - k : TILE", "rank - k < TILE ? rank - k : TILE - 1"),
    ),
    mutant(
        "gpu: adjacent spans count half under a metric with eigenvectors",
        "device/gpu/kernels/coupled.c",
        ("share = adjacent ? 1.0 : 0.5;", "share = 0.5;"),
    ),
    mutant(
        "gpu: steps onward without the eigenvectors",
        "device/gpu/kernels/coupled.c",
        ("weights[GROUP_X * rank + k] = INV_MASS[k] * (now + force);", "weights[GROUP_X * rank + k] = 0.0;"),
    ),
    mutant(
        "gpu: distances under a metric with eigenvectors without the gradients",
        "device/gpu/kernels/coupled.c",
        ("sum += v * weight + INV_MASS[k] * g * g;", "sum += v * weight;"),
    ),
    mutant(
        "gpu: chunks are larger than they are said to be",
        "device/gpu/work.rs",
        ("chunks: dim.div_ceil(chunk).max(1)", "chunks: (dim / chunk).max(1)"),
    ),
    mutant(
        "gpu: memory that grows keeps its old size",
        "device/gpu/work.rs",
        ("filter(|_| bytes <= self.bytes)", "filter(|_| bytes <= 2 * self.bytes)"),
    ),
    mutant(
        "gpu: the spans of a leaf are those of the next one",
        "device/gpu/phases.rs",
        ("            Some(*next - n)\n", "            Some(*next)\n"),
    ),
    mutant(
        "gpu: leaves leave what was known of their momenta",
        "device/gpu/phases.rs",
        (
            "                    changed.for_each(|row| self.arrays[phase.p.0].along.forget(row));\n",
            "                    drop(changed);\n",
        ),
    ),
    mutant(
        "gpu: products of another metric are taken for known",
        "device/gpu/coupling.rs",
        ("self.owners.get(row) == Some(&owner)", "self.owners.get(row).is_some_and(|known| *known != 0)"),
    ),
    mutant(
        "gpu: room for a metric of larger rank forgets where rows begin",
        "device/gpu/coupling.rs",
        ("(new, row * to)", "(new, row * from)"),
    ),
    mutant(
        "gpu: an empty sample counts",
        "device/gpu/estimate.rs",
        ("{ (first.row, 0.0) } else { (second.row, 1.0) }", "{ (second.row, 1.0) } else { (second.row, 1.0) }"),
    ),
    mutant(
        "gpu: a metric made in place begins with the numbers of another",
        "device/gpu/estimate.rs",
        ("if copy && row != before {", "if copy && row == before {"),
    ),
    mutant(
        "gpu: rows that go to the host together come in the order of the device",
        "device/gpu/rows.rs",
        (
            "self.move_rows(which, rows.iter().map(|(row, _)| *row).zip(0..))?;",
            "self.move_rows(which, (0..rows.len()).zip(0..))?;",
        ),
    ),
    mutant(
        "gpu: rows that are copied keep what was known",
        "device/gpu/rows.rs",
        ("        rows.iter().for_each(|[_, to]| self.arrays[dst.0].along.forget(*to));\n", ""),
    ),
]


def prepare(workspace: Path) -> None:
    """Copy the workspace. Not the times of its files, or cargo would take the results of an earlier run for these."""
    ignore = shutil.ignore_patterns("target", "__pycache__", ".*")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, workspace / name, ignore=ignore, copy_function=shutil.copy)
        else:
            shutil.copy(source, workspace / name)


def mutate(mutant: Mutant, text: str) -> str:
    """Return the source with the mistake in it; each piece must be there exactly once."""
    for old, new in mutant.changes:
        if (count := text.count(old)) != 1:
            raise LookupError(f"{mutant.name}: in {mutant.file} there are {count} of\n    {old}")
        text = text.replace(old, new)
    return text


def run_tests(workspace: Path, target_dir: Path, target: Sequence[str], names: Sequence[str]) -> list[str] | None:
    """Run tests of one binary; return those that failed, or None if they took too long."""
    command = ["cargo", "test", "--quiet", "-p", "nutpie-core", *target, "--", *names, "--format", "pretty"]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target_dir), "RUST_BACKTRACE": "0"}
    # Warnings are about code that a mutant does not use any more.
    environment["RUSTFLAGS"] = "-Awarnings"
    # As in `.cargo/config.toml`.
    environment["POCL_MAX_PTHREAD_COUNT"] = "1"
    process = subprocess.Popen(
        command,
        cwd=workspace,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    failed = sorted(set(re.findall(r"^test (\S+)(?: - should panic)? \.\.\. FAILED", output, re.MULTILINE)))
    if process.returncode != 0 and not failed:
        if "could not compile" in output:
            raise RuntimeError(output)
        failed = ["(the test binary crashed)"]
    return failed


def judge(workspace: Path, target_dir: Path, *, quick: bool, of_gpu: bool = False) -> list[str]:
    """Return the tests that notice what is in the workspace. Of the code for GPUs these are few.

    Running too long is not noticing, since the machine may be slow: a mistake that makes a loop endless wants a test
    that says so in time.
    """
    noticed: list[str] = []
    common = (UNIT, DEVICE, COUPLED, MAMS, KERNELS, GHMC, ENSEMBLE)
    every = (*common, CONFORMANCE, GPU, EXACT, ALL) if quick else (*common, CONFORMANCE, GPU, ALL)
    for target, names in (CONFORMANCE, GPU, UNIT) if of_gpu else every:
        failed = run_tests(workspace, target_dir, target, names)
        if failed is None:
            print(f"({' '.join(target)} took longer than {TIMEOUT} s)", flush=True)
            continue
        prefix = "" if target == UNIT[0] else f"{target[-1]}:"
        noticed += [prefix + name for name in failed]
        if noticed and quick:
            break
    return noticed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of the names of the mutants to try")
    parser.add_argument("--quick", action="store_true", help="stop at the first group of tests that notices")
    parser.add_argument("--check", action="store_true", help="only see whether the replacements apply")
    parser.add_argument("--target-dir", type=Path, help="cargo's build folder, to keep it between runs")
    arguments = parser.parse_args()
    chosen = [m for m in MUTANTS if not arguments.names or any(part in m.name for part in arguments.names)]
    sources = {m.file: (ROOT / m.file).read_text() for m in chosen}
    stale = []
    for m in chosen:
        try:
            mutate(m, sources[m.file])
        except LookupError as error:
            stale.append(str(error))
    if stale or arguments.check:
        print("\n".join(stale) or f"all {len(chosen)} replacements apply")
        return int(bool(stale))
    bad = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        workspace = Path(folder) / "workspace"
        workspace.mkdir()
        prepare(workspace)
        target_dir = arguments.target_dir or Path(folder) / "target"
        if noticed := judge(workspace, target_dir, quick=False, of_gpu=all("/gpu/" in m.file for m in chosen)):
            print("the tests fail without any mutant:", *noticed, sep="\n    ")
            return 1
        for m in chosen:
            path = workspace / m.file
            original = path.read_text()
            path.write_text(mutate(m, original))
            start = time.monotonic()
            try:
                noticed = judge(workspace, target_dir, quick=arguments.quick, of_gpu="/gpu/" in m.file)
                verdict = ", ".join(noticed) or "SURVIVED"
            except RuntimeError as error:
                print(error)
                noticed, verdict = [], "DOES NOT COMPILE"
            finally:
                path.write_text(original)
            bad += not noticed
            print(f"{m.name:<62} {time.monotonic() - start:4.0f} s  {verdict}", flush=True)
    print(f"{len(chosen) - bad} of {len(chosen)} mutants were noticed")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
