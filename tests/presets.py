"""Presets with other settings."""

from __future__ import annotations

from sepcli.training.config import TrainConfig, make_train_config, merge, parse_override, read_preset


def preset(name: str, *settings: str) -> TrainConfig:
    """settings: as after `--set` on the command line."""
    tables = read_preset(name)
    for text in settings:
        tables = merge(tables, parse_override(text))
    return make_train_config(tables)


def network_preset(name: str, *settings: str) -> TrainConfig:
    """settings: of the network alone, `dim=8`."""
    return preset(name, *(f"model.config.{text}" for text in settings))
