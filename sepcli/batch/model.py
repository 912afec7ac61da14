"""The model of a run: what is known of it without loading, and the network once it is needed. Loaded once.

The catalogue knows the stems and the weights' hashes of its entries, so that a run in which nothing is left to
do loads nothing. A file of the user's has to be loaded to learn either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sepcli.batch.names import Stems
from sepcli.batch.queries import Query, load_asked, narrow
from sepcli.batch.request import Batch
from sepcli.batch.results import Listener
from sepcli.weights import download

if TYPE_CHECKING:
    from sepcli.loading import Loaded


class Model:
    """Answers what a run asks about its model: sources, weights, half, and at last the network itself."""

    def __init__(self, batch: Batch, listener: Listener):
        self.batch, self.listener = batch, listener
        self._whole: Loaded | None = None  # of a model outside the catalogue
        self._loaded: Loaded | None = None  # what the wanted stems need

    @property
    def is_remote(self) -> bool:
        """Whether a download would be needed to learn its stems: a file on the hub."""
        return self.batch.model.is_remote

    @property
    def sources(self) -> tuple[str, ...]:
        """The stems that the model has by name, in its order."""
        entry = self.batch.entry
        return self._load_whole().sources if entry is None else entry.sources

    @property
    def more(self) -> Mapping[str, tuple[str, ...]]:
        """The stems that it gives on request, each with those in it."""
        entry = self.batch.entry
        return self._load_whole().more if entry is None else entry.more

    def weights(self, stems: Stems, *, may_load: bool = True) -> list[str] | None:
        """The SHA-256 of each file that these stems need; None where it is not known.

        Where the catalogue has no hash and the file is not on this machine, the model is loaded, if it may be.
        """
        hashes = self._hashes(stems)
        if hashes is not None or not may_load:
            return hashes
        entry, loaded = self.batch.entry, self.load(stems)
        if entry is None or self.batch.model.file is not None:
            return list(loaded.hashes)
        # A catalogue's own hash stands for whichever source was used.
        members = entry.members_for(stems.targets)
        return [member.file.sha256 or digest for member, digest in zip(members, loaded.hashes, strict=True)]

    def _hashes(self, stems: Stems) -> list[str] | None:
        """`weights` without loading."""
        if self.batch.entry is None:
            return None
        members = self.batch.entry.members_for(stems.targets)
        if self.batch.model.file is not None:  # in place of the entry's own
            return [download.checkpoint_sha256(self.batch.model.file)] * len(members)
        hashes = []
        for member in members:
            cached = download.cached(member.file)
            if member.file.sha256:
                hashes.append(member.file.sha256)
            elif cached is not None:
                hashes.append(download.file_sha256(cached))
            else:
                return None
        return hashes

    @property
    def samplerate(self) -> int:
        """Hz, at which it works."""
        entry = self.batch.entry
        return self._load_whole().model.samplerate if entry is None else entry.samplerate

    @property
    def half(self) -> bool:
        """Whether the model may run in reduced precision."""
        entry = self.batch.entry
        return self._load_whole().model.half if entry is None else entry.half

    @property
    def loaded(self) -> Loaded | None:
        """What was loaded last; None where nothing had to be."""
        return self._loaded

    def load(self, stems: Stems) -> Loaded:
        """The model on the CPU, bound to the queries and narrowed to these stems, or to more than these."""
        if self._loaded is None or not set(stems.targets).issubset(self._loaded.model.sources):
            queries = [query for query in self.batch.queries if query.name in stems.asked]
            if self.batch.entry is not None:
                self._loaded = self._fetch(stems.named or None, queries)
            else:
                whole = self._load_whole()
                narrowed = narrow(whole.model, stems.named, queries, name=whole.name)
                self._loaded = replace(whole, model=narrowed)
        return self._loaded

    def _load_whole(self) -> Loaded:
        if self._whole is None:
            self._whole = self._fetch(None, ())
        return self._whole

    def _fetch(self, targets: Sequence[str] | None, queries: Sequence[Query]) -> Loaded:
        with self.listener.downloading() as progress:
            return load_asked(
                self.batch.request.model,
                targets,
                queries,
                catalog=self.batch.catalog,
                config=self.batch.request.config,
                options=self.batch.request.options,
                blend=self.batch.request.blend,
                then=self.batch.request.then,
                progress=progress,
                notice=self.listener.notice,
            )
