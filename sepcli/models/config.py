"""A network's settings as values: Config from TOML, JSON and checkpoints and back, Options from text.

A Config shapes a network's weights and what it computes; Options (`-O steps=4`) are chosen for each separation.
Knows no family, file or network: dataclasses in, plain values out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from fractions import Fraction
from types import NoneType
from typing import Any, get_args, get_type_hints

from sepcli.errors import ModelError, UsageError, parameter
from sepcli.models.family import Arch

# --- Config ---


def make_config(arch: Arch, given: Mapping[str, Any]) -> Any:
    """The network's Config from values as they stand in TOML, JSON or a checkpoint.

    Lists become tuples, and a text like "39/5" a Fraction, so that values from different places compare equal.
    ModelError for a setting that the network does not have.
    """
    hints = get_type_hints(arch.config)
    known = {field.name for field in fields(arch.config)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ModelError(
            f"{arch.name} has no setting {', '.join(unknown)}.",
            remedy="The file may be made for a newer version: update sepcli.",
        )
    return arch.config(**{name: _read(value, hints[name]) for name, value in given.items()})


def plain_config(config: Any) -> dict[str, Any]:
    """Every setting as JSON and TOML can hold it: what `make_config` reads back as an equal Config."""
    return {field.name: plain(getattr(config, field.name)) for field in fields(config)}


def plain(value: Any) -> Any:
    """A setting without Python's own types: a Fraction becomes "39/5", also where it is whole ("40/1")."""
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _read(value: Any, hint: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_read(item, None) for item in value)
    if isinstance(value, str):
        if value.count("/") == 1 and value.replace("/", "").isdecimal():
            return Fraction(value)
        if value.isdecimal() and Fraction in get_args(hint):  # older versions wrote Fraction(40) as "40"
            return Fraction(value)
    return value


# --- Options ---

_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def parse_options(arch: Arch, options: Mapping[str, str]) -> Any:
    """The network's Options from {name: value as text}, None where it has none.

    UsageError, naming the options there are, for one that does not exist or a value of the wrong kind.
    """
    if arch.options is None:
        if options:
            raise _unknown_option(arch, next(iter(options)), ())
        return None
    hints = get_type_hints(arch.options)
    known = [field.name for field in fields(arch.options)]
    values = {}
    for name, text in options.items():
        if name not in known:
            raise _unknown_option(arch, name, known)
        # An option that may be None (it then follows from the others) is given as what it is otherwise.
        kind = next((kind for kind in get_args(hints[name]) if kind is not NoneType), hints[name])
        try:
            values[name] = {"true": True, "false": False}[text] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise UsageError(
                f"The option {name} is '{text}', which is not {kind.__name__}.",
                remedy=f"Give {name} as {_KINDS.get(kind, kind.__name__)} ({parameter('options')}).",
            ) from None
    return arch.options(**values)


def _unknown_option(arch: Arch, name: str, known: list[str] | tuple[()]) -> UsageError:
    return UsageError(
        f"{arch.name} has no option '{name}': it has {', '.join(known) or 'none'}.",
        remedy=f"Leave {parameter('options')} out, or correct it.",
    )


def check_options(options: Any, **bounds: float | tuple[float, float]) -> None:
    """Refuses an option out of bounds: UsageError. None is fine: that option follows from the others.

    bounds: {name: the least value, or (least, most)}.
    """
    for name, bound in bounds.items():
        least, most = bound if isinstance(bound, tuple) else (bound, None)
        value = getattr(options, name)
        if value is None or (value >= least and (most is None or value <= most)):
            continue
        allowed = f"{least:g} or more" if most is None else f"{least:g} to {most:g}"
        raise UsageError(
            f"The option {name} is {value:g}, but must be {allowed}.",
            code="bad_option",
            remedy=f"Correct {name} ({parameter('options')}), or leave it out.",
        )
