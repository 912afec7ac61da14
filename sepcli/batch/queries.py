"""Examples of the sound wanted, for models that take them: read, named and checked before any work.

Knows files, arrays and names, and two facts that a model declares: whether it takes queries, and how short one
may be. What a model makes of an example is its own affair. No torch is loaded before a model is, and no numpy
before a query is.

    "[NAME=]hum.wav" or {name: file or (array, Hz)}  ->  Query  ->  [C, T] at the model's rate and channels

Whatever is wrong with a query is wrong with the request: UsageError, also for a file that can't be read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sepcli.batch.lines import QueryId
from sepcli.batch.outputs import legal_name, name_key, rest_name
from sepcli.errors import InputError, UsageError, parameter
from sepcli.system.files import content_sha256
from sepcli.weights.entries import Catalog
from sepcli.weights.modelspec import read_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from sepcli.engine.separator import Separator
    from sepcli.loading import Loaded

    Audio = str | os.PathLike[str] | tuple[ArrayLike, int]  # a file, or [C, T] floats and their rate in Hz

SILENCE = 1e-4  # of full scale, -80 dB: the dither of an empty recording stays below
MAX_CHANNELS = 2  # that a query keeps apart; more become their mean


@dataclass(frozen=True, eq=False)
class Query:
    """One example, decoded. It becomes the stem `name`."""

    name: str
    audio: NDArray[np.float32]  # [C, T], C of 1 or 2, full scale at 1.0
    samplerate: int  # Hz
    path: Path | None = None  # None: it came as an array
    sha256: str = ""  # of the file
    warnings: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.audio.shape[1] / self.samplerate

    @property
    def identity(self) -> QueryId:
        """How the manifest knows it. Only for a query that came as a file."""
        assert self.path is not None
        return QueryId(os.path.realpath(self.path), self.sha256)

    def converted(self, samplerate: int, channels: int) -> NDArray[np.float32]:
        """The audio [C, T] at `samplerate` Hz with 1 or 2 channels. UsageError if its channels cancel out."""
        import numpy as np

        from sepcli.sound.resample import resampled

        audio = self.audio
        if len(audio) != channels:
            audio = audio.mean(axis=0, keepdims=True) if channels == 1 else np.repeat(audio, channels, axis=0)
            if channels == 1 and _peak(audio) < SILENCE:
                raise UsageError(
                    f"The channels of the query '{self.name}' cancel out, and the model is mono.",
                    remedy="Give one channel of it.",
                    code="silent_query",
                )
        return np.concatenate(list(resampled([audio], self.samplerate, samplerate, channels)), axis=1)


# --- reading ---


def parse_query(text: str) -> tuple[str, Path]:
    """Split "NAME=FILE" or "FILE" into the stem's name and the file. A file may have a "=" in its own name."""
    before, equals, after = text.partition("=")
    if not equals or os.path.exists(os.path.expanduser(text)):
        path = Path(os.path.expanduser(text))
        return path.stem, path
    if not after:
        raise UsageError(
            f"The query {text} names no file.", remedy="Write NAME=FILE, or FILE alone.", code="query"
        )
    return before, Path(os.path.expanduser(after))


def read_queries(texts: Sequence[str], targets: Sequence[str], *, rest: bool) -> tuple[Query, ...]:
    """Read the queries of a command line, in order. targets, rest: what else is asked for."""
    parsed = [parse_query(text) for text in texts]
    check_names([name for name, _ in parsed], targets, rest=rest)
    return tuple(_read_file(name, path) for name, path in parsed)


def make_queries(
    examples: Mapping[str, Audio], targets: Sequence[str], *, rest: bool = False
) -> tuple[Query, ...]:
    """The queries of the Python interface: {name: a file, or ([C, T] floats, Hz)}. The rest as read_queries."""
    check_names(list(examples), targets, rest=rest)
    return tuple(
        _read_array(name, *audio) if isinstance(audio, tuple) else _read_file(name, Path(audio))
        for name, audio in examples.items()
    )


def check_names(names: Sequence[str], targets: Sequence[str], *, rest: bool) -> None:
    """Raises UsageError for a name that no file can have, or that two stems would share."""
    for name in names:
        if name != legal_name(name) or not name.strip():
            raise UsageError(
                f"A query is called '{name}', which can't be the name of a file on every system.",
                remedy=f'Give it another name in {parameter("queries")}: without / \\ : * ? " < > |, and '
                "without a dot or space at the end.",
                code="query_name",
            )
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.get(name_key(name))) is not None:
            differ = "" if other == name else f" (and '{other}', which some systems take for the same)"
            raise UsageError(
                f"Two queries are called '{name}'{differ}, but each becomes a stem of that name.",
                remedy=f"Give one of them another name in {parameter('queries')}.",
                code="equal_names",
            )
        seen[name_key(name)] = name
    left = rest_name([*targets, *names])
    if rest and (name := seen.get(name_key(left))) is not None:
        raise UsageError(
            f"The query '{name}' has the name of the residual, the mix minus the stems.",
            remedy=f"Give it another name in {parameter('queries')}, or leave out {parameter('rest')} and "
            f"{parameter('sum')}.",
            code="equal_names",
        )
    for target in targets:
        if (name := seen.get(name_key(target))) is not None:
            raise UsageError(
                f"The target '{target}' and the query '{name}' would become one stem.",
                remedy=f"Leave {parameter('targets', target)} out if only the query is meant, or give the "
                f"query another name in {parameter('queries')}.",
                code="equal_names",
            )


def _read_file(name: str, path: Path) -> Query:
    import numpy as np

    from sepcli.sound.decode import AudioReader

    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(
                f"'{path}' is not a regular file.", remedy="Save it as a file first.", code="unreadable"
            )
        reader = AudioReader(path)
        audio = np.concatenate([_folded_channels(block) for block in reader], axis=1)
        warnings = tuple(f"Query '{name}': {warning}" for warning in reader.warnings)
        digest = content_sha256(path)
    except InputError as problem:
        raise _unusable(name, problem) from None
    except OSError as error:
        raise _unusable(
            name,
            InputError(
                f"'{path}' can't be read: {error.strerror}.",
                code="unreadable",
                remedy="Check the path and its permissions.",
            ),
        ) from None
    return _checked(Query(name, audio, reader.samplerate, path, digest, warnings))


def _read_array(name: str, array: ArrayLike, samplerate: int) -> Query:
    import numpy as np

    audio = np.asarray(array)
    if audio.ndim != 2 or audio.dtype.kind != "f" or int(samplerate) != samplerate or samplerate < 1:
        raise UsageError(
            f"The query '{name}' has the shape {list(audio.shape)}, the type {audio.dtype} and the rate "
            f"{samplerate}, but must be [channels, frames] of floats at a whole number of Hz.",
            remedy="Give one channel as audio[None], and divide integers by their full scale.",
            code="query",
        )
    if not audio.size or not np.isfinite(audio).all():
        raise UsageError(
            f"The query '{name}' has no samples, or some that are NaN or infinite.",
            remedy="Give another example.",
            code="query",
        )
    return _checked(Query(name, _folded_channels(audio.astype(np.float32)), int(samplerate)))


def _folded_channels(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """[C, T] -> at most two channels: what a surround file has in all of them."""
    return block if len(block) <= MAX_CHANNELS else block.mean(axis=0, keepdims=True)


def _checked(query: Query) -> Query:
    from math import log10

    if _peak(query.audio) < SILENCE:
        raise UsageError(
            f"The query '{query.name}' is silent: it stays below {20 * log10(SILENCE):.0f} dB (full scale).",
            remedy="Give a recording in which the sound that you want is heard.",
            code="silent_query",
        )
    return query


def _peak(audio: NDArray[np.float32]) -> float:
    """The largest sample, apart from a constant offset."""
    return float(abs(audio - audio.mean(axis=1, keepdims=True)).max())


def _unusable(name: str, problem: InputError) -> UsageError:
    return UsageError(
        f"The query '{name}' can't be used: {problem.message}", remedy=problem.remedy, code=problem.code
    )


# --- what a model allows ---


def check_length(query: Query, min_query: float, model: str) -> None:
    """Raises UsageError for a query that is shorter than `min_query` seconds."""
    if query.seconds < min_query:
        raise UsageError(
            f"The query '{query.name}' has {query.seconds:.2f} s, but '{model}' needs {min_query:g} s or more.",
            remedy="Give a longer recording of that sound.",
            code="short_query",
        )


def takes_none(model: str, sources: Sequence[str], others: Sequence[str] = ()) -> UsageError:
    """The error for queries that are given to a model which takes none. others: models that take them."""
    instead = f", or a model that takes them with {parameter('model')}: {', '.join(others)}" if others else ""
    return UsageError(
        f"The model '{model}' takes no queries; its stems are {', '.join(sources)}.",
        remedy=f"Leave the query out and choose a stem with {parameter('targets')}{instead}.",
        code="no_queries",
    )


def load_asked(
    spec: str,
    targets: Sequence[str] | None,
    queries: Sequence[Query],
    *,
    catalog: Catalog,
    config: str | None = None,
    options: Mapping[str, str] | None = None,
    blend: str = "",
    then: Sequence[str] = (),
    progress: Callable[[int, int | None], None] | None = None,
    notice: Callable[[str], None] = lambda text: None,
) -> Loaded:
    """Load a model, bind it to the queries, and narrow it to the targets and the queries' stems.

    targets: None for all stems, or for none but the queries' where there are any. The rest is as for
    loading.load_model, and so are the errors; UsageError besides for a model that takes no queries.
    """
    from sepcli import loading

    entry = read_model(spec, catalog, blend=blend, then=then).entry
    if queries and entry is not None and entry.min_query is None:  # known before a download
        raise takes_none(entry.name, entry.sources)
    # A query may take the place of a stem of the model, so the whole model is bound before it is narrowed.
    loaded = loading.load_model(
        spec,
        config=config,
        catalog=catalog,
        targets=None if queries else targets,
        options=options,
        blend=blend,
        then=then,
        progress=progress,
        notice=notice,
    )
    if not queries:
        return loaded
    from sepcli.engine.separator import source_indices

    source_indices(loaded.sources, targets or ())  # its own stems, whatever a query is called
    return replace(loaded, model=narrow(loaded.model, targets or (), queries, name=loaded.name))


def narrow(model: Separator, targets: Sequence[str], queries: Sequence[Query], *, name: str) -> Separator:
    """Narrow a model to the targets and then the queries' stems; both empty: the whole model.

    name: what the model is called in errors. UsageError for a stem it lacks, or a query it can't take.
    """
    if queries:
        import torch

        from sepcli.engine.separator import Queryable

        if not isinstance(model, Queryable):
            raise takes_none(name, model.sources)
        for query in queries:
            check_length(query, model.min_query, name)
        device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), None)
        examples = {
            query.name: torch.from_numpy(query.converted(model.samplerate, model.channels)).to(device)
            for query in queries
        }
        with torch.no_grad():
            model = model.bind(examples)
    wanted = [*targets, *(query.name for query in queries)]
    return model.select(wanted) if wanted else model  # a model of queries alone makes nothing before


def needs_one(model: str) -> UsageError:
    """The error for a model that has no stems of its own, and that is given no query."""
    return UsageError(
        f"The model '{model}' has no stems of its own: it makes those that it is given examples of.",
        remedy=f"Give it one or more: {parameter('queries', '[NAME=]FILE')}.",
        code="needs_query",
    )


def refuse_overwriting(queries: Iterable[Query], outputs: Iterable[Path]) -> None:
    """Raises UsageError where an output would overwrite the file of a query, under whatever name or link."""
    files = {}
    for query in queries:
        if query.path is not None:
            status = os.stat(query.path)
            files[status.st_dev, status.st_ino] = query
    for output, place in _places(outputs) if files else ():
        if (hit := files.get(place)) is not None:
            raise UsageError(
                f"The output '{output}' is the query '{hit.name}'.",
                remedy=f"Choose another folder with {parameter('out')}, or another {parameter('template')}; a "
                "query is never overwritten.",
                code="input_is_output",
            )


def _places(paths: Iterable[Path]) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Those that are there, and where on the disk."""
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        yield path, (status.st_dev, status.st_ino)
