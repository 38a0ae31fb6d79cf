"""The Noam schedule against the paper's equation, transformers' inverse square root, and itself resumed."""

import io
import math
import pickle

import pytest
import torch
from transformers import get_inverse_sqrt_schedule

from vanilla_transformer.training.schedule import get_noam_schedule, noam_lambda, noam_rate


def optimizer(lr=1.0):
    return torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))], lr=lr, betas=(0.9, 0.98), eps=1e-9)


def rates(schedule, updates):
    seen = []
    for _ in range(updates):
        seen.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return seen


def test_rate_is_the_papers():
    d_model, warmup = 512, 4000
    peak = noam_rate(warmup, d_model, warmup)
    assert math.isclose(peak, (d_model * warmup) ** -0.5, rel_tol=1e-15)
    for t in (1, 7, 1000, warmup):  # grows linearly
        assert math.isclose(noam_rate(t, d_model, warmup), peak * t / warmup, rel_tol=1e-15)
    for times in (4, 25, 100):  # falls with the square root
        assert math.isclose(noam_rate(times * warmup, d_model, warmup), peak / times**0.5, rel_tol=1e-15)
    assert noam_rate(9, d_model, warmup, factor=2.0) == 2 * noam_rate(9, d_model, warmup)


@pytest.mark.parametrize("base", [1.0, 0.5])
def test_schedule_gives_update_t_the_rate_of_t(base):
    seen = rates(get_noam_schedule(optimizer(base), d_model=64, warmup_steps=10, factor=1.5), 40)
    assert seen == [base * noam_rate(t, 64, 10, 1.5) for t in range(1, 41)]
    assert min(seen) > 0 and max(seen) == seen[9]


def test_schedule_is_inverse_sqrt_one_update_earlier():
    ours = rates(get_noam_schedule(optimizer(), 64, 10), 40)
    theirs = rates(get_inverse_sqrt_schedule(optimizer((64 * 10) ** -0.5), num_warmup_steps=10), 41)
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs[1:]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("stop", [3, 10, 25])
def test_resumed_schedule_goes_on_exactly(stop):
    whole = rates(get_noam_schedule(optimizer(), 64, 10), 40)
    first = get_noam_schedule(optimizer(), 64, 10)
    rates(first, stop)
    file = io.BytesIO()
    torch.save({"schedule": first.state_dict(), "optimizer": first.optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = get_noam_schedule(optimizer(), 64, 10)
    second.optimizer.load_state_dict(saved["optimizer"])
    second.load_state_dict(saved["schedule"])
    assert rates(second, 40 - stop) == whole[stop:]


def test_lambda_can_be_pickled():
    rate = noam_lambda(64, 10)
    assert pickle.loads(pickle.dumps(rate))(12) == rate(12) == noam_rate(13, 64, 10)


@pytest.mark.parametrize("name, settings", [("warmup_steps", (64, 0)), ("noam_factor", (64, 10, -1.0))])
def test_impossible_settings_are_named(name, settings):
    with pytest.raises(ValueError, match=name):
        noam_lambda(*settings)
