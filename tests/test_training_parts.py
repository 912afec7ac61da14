"""The parts of a run: averages, schedules, optimiser groups, the state on disk, configuration."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from sepcli.errors import ModelError, OutputError, UsageError
from sepcli.training import state as state_file
from sepcli.training.config import (
    EmaTable,
    OptimGroup,
    OptimTable,
    TrainConfig,
    as_tables,
    make_train_config,
    merge,
    parse_override,
    preset_names,
    read_preset,
)
from sepcli.training.ema import Average, Averages
from sepcli.training.optim import Schedule, make_optimiser

# --- averages ---


def put(model, value):
    with torch.no_grad():
        model.weight.fill_(value)


def test_an_average_weighs_the_past_by_powers_of_its_decay():
    model = nn.Linear(1, 1, bias=False)
    average = Average(model, 0.5)
    for value in (1.0, 2.0, 4.0):
        put(model, value)
        average.update(model)
    assert average.values["weight"].item() == pytest.approx((0.25 * 1 + 0.5 * 2 + 1 * 4) / 1.75)


def test_a_young_average_is_the_plain_mean():
    model = nn.Linear(1, 1, bias=False)
    average = Average(model, 0.999999)
    for value in (3.0, 5.0):
        put(model, value)
        average.update(model)
    assert average.values["weight"].item() == pytest.approx(4.0, abs=1e-4)


def test_an_average_is_worn_and_taken_off():
    model = nn.BatchNorm1d(2)
    average = Average(model, 0.9)
    average.update(model)
    with torch.no_grad():
        model.weight.fill_(7)
        model.num_batches_tracked.fill_(3)
    with average.worn_by(model):
        assert model.weight.tolist() == [1, 1]
    assert model.weight.tolist() == [7, 7] and model.num_batches_tracked == 3


def test_averages_of_steps_and_epochs_and_their_state():
    model = nn.Linear(1, 1, bias=False)
    averages = Averages(model, (0.9, 0.99), (0.5,))
    averages.after_step(model)
    assert [name for name, _ in averages.items()] == ["ema_0.9", "ema_0.99"]  # no epoch has ended
    put(model, 2.0)
    averages.after_epoch(model)
    other = Averages(nn.Linear(1, 1, bias=False), (0.9, 0.99), (0.5,))
    other.load_state_dict(averages.state_dict())
    for (name, a), (_, b) in zip(averages.items(), other.items(), strict=True):
        assert a.count == b.count and torch.equal(a.values["weight"], b.values["weight"]), name


# --- schedules and optimisers ---


def test_warm_up_then_cosine():
    schedule = Schedule(OptimTable(schedule="cosine", warmup_steps=10, final=0.1))
    assert schedule.scale(0, 0.0) == pytest.approx(0.1)
    assert schedule.scale(9, 0.0) == pytest.approx(1.0)
    assert schedule.scale(500, 0.5) == pytest.approx(0.55)
    assert schedule.scale(1000, 1.0) == pytest.approx(0.1)
    assert schedule.scale(1000, 1.5) == pytest.approx(0.1)


def test_a_plateau_lowers_the_rate_after_its_patience():
    schedule = Schedule(OptimTable(schedule="plateau", patience=1, factor=0.5))
    for score, expected in [(1, 1), (2, 1), (2, 1), (1.5, 0.5), (1.9, 0.5), (1.9, 0.25), (3, 0.25)]:
        schedule.validated(score)
        assert schedule.scale(0, 0) == expected, score
    other = Schedule(schedule.table)
    other.load_state_dict(schedule.state_dict())
    assert other.scale(0, 0) == 0.25 and other.best == 3


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("radam", torch.optim.RAdam)]
)
def test_optimisers_by_name(name, kind):
    table = OptimTable(name=name, lr=0.1, betas=(0.8, 0.9), weight_decay=0.2)
    optimiser = make_optimiser(nn.Linear(2, 2), table)
    assert type(optimiser) is kind
    group = optimiser.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.1, (0.8, 0.9), 0.2)


def test_groups_have_their_own_settings_and_follow_the_schedule():
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    table = OptimTable(lr=0.1, groups=(OptimGroup("head", lr=0.01, weight_decay=0.5),), schedule="cosine")
    optimiser = make_optimiser(model, table)
    assert [len(group["params"]) for group in optimiser.param_groups] == [2, 2]
    Schedule(table).apply(optimiser, 5, 0.5)
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.05, 0.005])
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.0, 0.5]
    with pytest.raises(UsageError, match="body, head"):
        make_optimiser(model, OptimTable(groups=(OptimGroup("heed"),)))


# --- state ---


def test_a_state_comes_back_and_nothing_else_stands_beside_it(tmp_path):
    path = tmp_path / "state.pt"
    state_file.save_state(path, {"a": torch.arange(3), "b": [1, 2.5, "x", None]})
    state_file.save_state(path, {"a": torch.arange(4), "b": []})
    assert torch.equal(state_file.load_state(path)["a"], torch.arange(4))
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]


def test_a_failing_write_leaves_the_old_state(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    state_file.save_state(path, {"a": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_file.os, "fsync", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        state_file.save_state(path, {"a": 2})
    assert caught.value.code == "disk_full" and "goes on from the last state" in caught.value.remedy
    assert state_file.load_state(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]


def test_what_the_system_refuses_is_said_as_everywhere(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "state.pt"  # below a file there is no folder
    with pytest.raises(OutputError) as caught:
        state_file.save_state(path, {})
    assert caught.value.code == "not_writable" and f"'{path}' can't be written" in caught.value.message
    said = state_file.cant_write(path, RuntimeError("unexpected pos 64\nat a line"))
    assert isinstance(said, OutputError) and said.message == f"'{path}' can't be written: unexpected pos 64."


def test_a_damaged_state_is_refused_and_runs_nothing(tmp_path):
    path = tmp_path / "state.pt"
    path.write_bytes(b"PK not a state")
    with pytest.raises(ModelError, match="can't be read"):
        state_file.load_state(path)


def test_generators_come_back():
    import random

    state = state_file.random_state()
    first = (torch.rand(3), random.random())
    state_file.restore_random_state(state)
    assert torch.equal(torch.rand(3), first[0]) and random.random() == first[1]


# --- configuration ---


def test_every_preset_is_valid_and_says_what_it_is():
    for name in preset_names():
        assert make_train_config(read_preset(name)).about, name


def test_a_config_written_out_reads_back_the_same():
    import tomllib

    import tomli_w

    for name in preset_names():
        config = make_train_config(read_preset(name))
        assert make_train_config(tomllib.loads(tomli_w.dumps(as_tables(config)))) == config, name


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"optm": {}}, "optim"),
        ({"optim": {"lrr": 1.0}}, "Did you mean lr"),
        ({"optim": {"lr": "fast"}}, "optim.lr is 'fast', but must be a number"),
        ({"optim": {"betas": [0.9]}}, "a list of 2"),
        ({"optim": {"name": "sgd"}}, "adam, adamw, radam"),
        ({"optim": {"schedule": "step"}}, "cosine"),
        ({"run": {"batch_size": 0}}, "1 or more"),
        ({"run": {"batch_size": 1.5}}, "a whole number"),
        ({"run": {"max_steps": True}}, "a whole number"),
        ({"run": 3}, "must be a table"),
        ({"ema": {"steps": [1.0]}}, "between 0 and 1"),
        ({"loss": {"terms": [{"kind": "l7"}]}}, "l1, mse"),
        ({"data": {"train": [{"path": "x", "wieght": 2}]}}, "Did you mean weight"),
    ],
)
def test_a_wrong_setting_is_an_error_that_helps(tables, message):
    with pytest.raises(UsageError, match=message):
        make_train_config(tables)


def test_overrides_read_toml_values_and_bare_words():
    assert parse_override("optim.lr=1e-3") == {"optim": {"lr": 1e-3}}
    assert parse_override("optim.name=adam") == {"optim": {"name": "adam"}}
    assert parse_override("ema.steps=[0.9, 0.99]") == {"ema": {"steps": [0.9, 0.99]}}
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parse_override("optim.lr")


def test_merging_goes_table_by_table_and_replaces_lists():
    merged = merge({"a": {"x": 1, "y": [1, 2]}, "b": 1}, {"a": {"y": [3]}})
    assert merged == {"a": {"x": 1, "y": [3]}, "b": 1}


def test_a_preset_may_be_the_difference_from_another(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('base = "mini"\n[optim]\nlr = 0.5\n')
    mine, mini = make_train_config(read_preset(str(file))), make_train_config(read_preset("mini"))
    assert mine.optim.lr == 0.5 and mine.optim.betas == mini.optim.betas and mine.model == mini.model


def test_a_preset_that_builds_on_itself_is_refused(tmp_path):
    one, two, outside = (str(tmp_path / f"{name}.toml") for name in ("one", "two", "outside"))
    for path, base in ((one, one), (outside, one)):
        Path(path).write_text(f"base = '{base}'\n")
    for start in (one, outside):  # by itself, and below a preset that is no part of the circle
        with pytest.raises(UsageError, match=f"build on itself: base leads {re.escape(f'{one} -> {one}')}"):
            read_preset(start)
    Path(one).write_text(f"base = '{two}'\n")
    Path(two).write_text(f"base = '{one}'\n")
    with pytest.raises(UsageError, match=re.escape(f"{one} -> {two} -> {one}")):
        read_preset(outside)
    Path(one).write_text("base = 3\n")
    with pytest.raises(UsageError, match="base is 3 in the preset .*, but must be text"):
        read_preset(one)


def test_an_unknown_preset_names_the_near_ones():
    with pytest.raises(UsageError, match="Did you mean mini"):
        read_preset("minni")


def test_defaults_are_a_config():
    assert as_tables(TrainConfig(ema=EmaTable(steps=(0.9,))))["ema"]["steps"] == [0.9]
    assert math.isclose(TrainConfig().optim.lr, 3e-4)
