"""Whether a gradient is that of its log density."""

from __future__ import annotations

import numpy as np
import pytest
from simple_model import NormalModel, funnel_logp

import nutpie
from nutpie.models.base import BatchDensity


class Wrong(NormalModel):
    """Normals whose gradient is changed by a function."""

    def __init__(self, n_dim, change=lambda grad: grad, logp=lambda x: -0.5 * (x * x).sum(-1)):
        super().__init__(n_dim)
        self._change, self._logp = change, logp
        self.evaluations = 0

    def density(self):
        def function(x):
            self.evaluations += len(x)
            return self._logp(x), self._change(-x)

        return BatchDensity(function)


def scaled(indices, factor):
    def change(grad):
        grad[:, indices] *= factor
        return grad

    return change


@pytest.mark.parametrize("model", [NormalModel(4), NormalModel(7, funnel_logp)], ids=["normal", "funnel"])
def test_right_gradients_pass(model):
    found = nutpie.check_gradient(model)
    assert found.ok
    assert str(found) == f"the gradient agrees with finite differences in {model.n_dim} parameters"


def test_a_right_gradient_costs_two_evaluations_for_each_parameter():
    model = Wrong(6)
    assert nutpie.check_gradient(model, np.ones(6)).ok
    assert model.evaluations == 1 + 12


@pytest.mark.parametrize("factor", [1.001, 0.0, -1.0, 2.0])
def test_a_wrong_parameter_is_named_with_both_values(factor):
    found = nutpie.check_gradient(Wrong(4, scaled([2], factor)), np.array([0.5, 1.0, -2.0, 3.0]))
    (wrong,) = found.wrong
    assert not found.ok
    assert (wrong.name, wrong.gradient) == ("x_2", 2.0 * factor)
    assert abs(wrong.difference - 2.0) < 1e-6
    assert f"that for 'x_2' is {2.0 * factor:.6g}, but differences of the log density give 2" in str(found)


def test_what_is_likely_wrong_is_said():
    assert "wrong sign" in str(nutpie.check_gradient(Wrong(3, lambda grad: -grad)))
    assert "0.5 times what it should be" in str(nutpie.check_gradient(Wrong(3, lambda grad: 0.5 * grad)))
    assert "times" not in str(nutpie.check_gradient(Wrong(3, lambda grad: grad * [[1.0, 2.0, 3.0]])))
    many = str(nutpie.check_gradient(Wrong(20, lambda grad: grad + 1)))
    assert many.count("differences") == 5
    assert "15 more" in many


def test_among_many_parameters_those_at_fault_are_found():
    model = Wrong(3000, scaled([77, 2500], 1.5))
    found = nutpie.check_gradient(model)
    assert {m.name for m in found.wrong} == {"x_77", "x_2500"}
    assert model.evaluations < 1000
    fine = Wrong(3000)
    assert nutpie.check_gradient(fine).ok
    assert fine.evaluations < 25


def test_rounding_errors_are_not_taken_for_mistakes():
    def single(x):
        return (-0.5 * (x.astype(np.float32) ** 2).sum(-1) + np.float32(300.0)).astype(np.float64)

    assert nutpie.check_gradient(Wrong(6, logp=single)).ok
    assert not nutpie.check_gradient(Wrong(6, scaled([1], 3.0), logp=single), np.ones(6)).ok
    # A constant of this size leaves six digits of the changes.
    assert nutpie.check_gradient(Wrong(6, logp=lambda x: -0.5 * (x * x).sum(-1) + 1e9)).ok


def test_a_border_of_the_domain_nearby_does_not_matter():
    def bounded(x):
        return np.where((x > 1.0).any(-1), np.nan, -0.5 * (x * x).sum(-1))

    assert nutpie.check_gradient(Wrong(2, logp=bounded), [1.0, 0.3]).ok


def test_one_can_choose_point_parameters_and_tolerance():
    model = Wrong(4, scaled([2], 1.01))
    assert nutpie.check_gradient(model, parameters=["x_0", "x_3"]).n_checked == 2
    assert nutpie.check_gradient(model, parameters=["x_0", "x_3"]).ok
    assert not nutpie.check_gradient(model, parameters=["x_2"]).ok
    assert nutpie.check_gradient(model, tolerance=0.02).ok
    with pytest.raises(ValueError, match=r"'x_9'.*did you mean"):
        nutpie.check_gradient(model, parameters=["x_9"])
    with pytest.raises(ValueError, match=r"shape \(3,\), \(4,\) is needed"):
        nutpie.check_gradient(model, np.zeros(3))


def test_a_point_without_a_density_is_explained():
    model = Wrong(2, logp=lambda x: np.log(x[:, 0]))
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(ValueError, match="cannot be checked there: the log density is nan"),
    ):
        nutpie.check_gradient(model, [-1.0, 0.0])
    with pytest.raises(ValueError, match="no start"):
        nutpie.check_gradient(Wrong(2, logp=lambda x: np.full(len(x), np.nan)))
