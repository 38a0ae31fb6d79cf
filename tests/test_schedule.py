"""The Noam schedule against the paper's equation, and resumed."""

import io
import math

import pytest
import torch

from vanilla_transformer.training.schedule import get_noam_schedule, noam_rate


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


@pytest.mark.parametrize("base", [1.0, 0.5, 3e-4])
def test_update_t_gets_the_rate_of_t_whatever_rate_the_optimizer_brings(base):
    seen = rates(get_noam_schedule(optimizer(base), d_model=64, warmup_steps=10, factor=1.5), 40)
    assert seen == [noam_rate(t, 64, 10, 1.5) for t in range(1, 41)]
    assert min(seen) > 0 and max(seen) == seen[9]


def test_groups_of_parameters_keep_the_ratio_of_their_rates():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": lr} for lr in (2e-4, 1e-4)]
    schedule = get_noam_schedule(torch.optim.Adam(groups), d_model=64, warmup_steps=10)
    assert schedule.get_last_lr() == pytest.approx([noam_rate(1, 64, 10), noam_rate(1, 64, 10) / 2])


@pytest.mark.parametrize("stop", [3, 10, 25])
def test_a_resumed_schedule_continues_exactly(stop):
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


@pytest.mark.parametrize("name, settings", [("warmup_steps", (64, 0)), ("factor", (64, 10, -1.0))])
def test_settings_that_are_not_positive_are_errors(name, settings):
    with pytest.raises(ValueError, match=f"needs {name} > 0"):
        get_noam_schedule(optimizer(), *settings)
