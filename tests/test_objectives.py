"""What is learnt: the default objective, one that a family brings, and names and options that do not exist."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sepcli.data.mixing import Batch
from sepcli.errors import UsageError
from sepcli.models.family import Family
from sepcli.models.objective import Objective
from sepcli.nn.losses import Criterion, Loss, Term
from sepcli.training.objectives import Separation, choose_objective
from sepcli.training.setup import example_samples
from tests.toys import Split

CRITERION = Criterion([Term("mse")], [1.0, 1.0])


class Doubled(Objective):
    margin = 100

    def __init__(self, model, criterion, *, times=2.0):
        self.criterion, self.times = criterion, times

    def __call__(self, model, batch):
        return Loss(self.times * self.criterion(model(batch.stems.sum(1)), batch.stems).total)


FAMILY = Family("toys", {}, lambda checkpoint, model: {}, objectives={"doubled": Doubled})


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return Batch(torch.randn(2, 2, 2, 400), ["a", "b"], [])


def test_a_family_brings_its_own_with_its_options(batch):
    model = Split(("drums", "bass"))
    plain = choose_objective("separation", {}, FAMILY, model, CRITERION)
    assert isinstance(plain, Separation)
    for options, times in (({}, 2.0), ({"times": 3.0}, 3.0)):
        own = choose_objective("doubled", options, FAMILY, model, CRITERION)
        assert own(model, batch).total.item() == pytest.approx(times * plain(model, batch).total.item())


def test_a_network_of_one_stem_hears_the_rest_of_the_music(batch):
    """Its own stem alone would be the mix, and to change nothing would be right."""
    heard = []

    class One(Split):
        def forward(self, mix, *, noise=None):
            heard.append(mix)
            return super().forward(mix)

    model = One(("drums",))
    plain = choose_objective("separation", {}, FAMILY, model, Criterion([Term("mse")], [1.0]))
    assert plain.rest and choose_objective("separation", {}, FAMILY, Split("ab"), CRITERION).rest is None
    loss = plain(model, batch)
    drums, rest = batch.stems.unbind(1)
    torch.testing.assert_close(heard[0], drums + rest)
    assert loss.total.item() == pytest.approx((model(drums + rest)[:, 0] - drums).square().mean().item())


def test_the_margin_of_an_objective_makes_examples_longer():
    model = Split(("drums", "bass"))
    assert example_samples(model, 1.0, 100) == example_samples(model, 1.0) + 200
    exact = nn.Module()
    exact.segment = replace(model.segment, samples=1000, exact=True)
    assert example_samples(exact, 1.0, 100) == 1200


@pytest.mark.parametrize(
    ("name", "options", "known"),
    [
        ("guess", {}, "separation, matching, doubled"),
        ("doubled", {"time": 2}, "times"),
        ("separation", {"x": 1}, "none"),
    ],
)
def test_what_does_not_exist_names_what_does(name, options, known):
    with pytest.raises(UsageError) as caught:
        choose_objective(name, options, FAMILY, Split(("drums", "bass")), CRITERION)
    assert known in caught.value.remedy
