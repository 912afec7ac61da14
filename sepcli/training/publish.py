"""Put a trained model on the hub: one commit with the weights, the settings and a model card.

Knows what goes into the repository and what the hub may answer; modelcard.py writes the texts. Everything that
can be wrong on this side is found before the first request. Nothing in the run folder is changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sepcli import __version__
from sepcli.errors import ModelError, SepcliError, UsageError, first_line, from_os, parameter
from sepcli.training import modelcard
from sepcli.training.config import to_toml
from sepcli.training.modelcard import CONFIG, CURVES, METRICS, Run, read_run
from sepcli.weights.download import file_sha256
from sepcli.weights.modelspec import HUB_SCHEME, RUN_FILE
from sepcli.weights.transfer import hub_failures, is_commit, offline

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

CARD = "README.md"
_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write."


@dataclass(frozen=True)
class Upload:
    """A run that is ready to be uploaded. files: {path in the repository: file or content}; others stay."""

    run: Run
    repo: str
    branch: str
    files: Mapping[str, Path | bytes]
    license: str | None

    @property
    def card(self) -> str:
        content = self.files[CARD]
        assert isinstance(content, bytes)
        return content.decode()

    def size(self, name: str) -> int:
        """Bytes of one file."""
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


@dataclass(frozen=True)
class Published:
    """A published model. spec: its name for `--model`, pinned to the commit. entry: TOML for a catalogue."""

    spec: str
    commit: str
    url: str
    entry: str


def prepare(folder: Path, repo: str, *, branch: str = "main", license: str | None = None) -> Upload:
    """The upload of a run folder to the hub's repository OWNER/NAME; no request is made.

    UsageError: a name, branch or licence that can't be. ModelError: the folder has no model that loads.
    """
    check_repo(repo)
    _check_branch(branch)
    modelcard.check_license(license)
    run = read_run(folder)
    files: dict[str, Path | bytes] = {CARD: modelcard.card(run, repo, branch, license).encode()}
    files[RUN_FILE] = run.checkpoint
    if run.settings:
        files[CONFIG] = to_toml(run.settings).encode()
    if (folder / METRICS).is_file():
        files[METRICS] = modelcard.public_metrics(folder / METRICS)
    if run.has_curves:
        files[CURVES] = folder / CURVES
    return Upload(run, repo, branch, files, license)


def publish(upload: Upload, *, private: bool = False, message: str | None = None) -> Published:
    """Create the repository and the branch, if they do not exist, and commit all files at once.

    private: for a new repository; if one exists and is public, it is refused and not changed. ModelError: not
    logged in, no right, offline, the hub refuses or is not reached; nothing was committed then.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token, utils

    if offline():
        raise ModelError("HF_HUB_OFFLINE forbids uploads.", remedy="Unset it and try again.", code="offline")
    if get_token() is None:
        raise ModelError(
            "Nobody is logged in to the hub, and only its users can upload.", remedy=_LOG_IN, code="no_token"
        )
    api = HfApi(endpoint=_endpoint(), library_name="sepcli", library_version=__version__)
    bars = not utils.are_progress_bars_disabled()
    if bars:  # it would draw its own, across ours
        utils.disable_progress_bars()
    try:
        there = _about(api, upload.repo)
        if there is None:
            api.create_repo(upload.repo, private=private or None, exist_ok=True)
        elif private and not there.private:
            raise ModelError(
                f"{_endpoint()}/{upload.repo} is there and public, not private.",
                remedy=f"Make it private there, choose another one with {parameter('repo')}, or leave out "
                f"{parameter('private')}.",
                code="public",
            )
        if upload.branch != "main":
            api.create_branch(upload.repo, branch=upload.branch, exist_ok=True)
        operations = [
            CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
            for path, content in upload.files.items()
        ]
        name = upload.run.folder.resolve().name
        done = api.create_commit(
            upload.repo,
            operations,
            revision=upload.branch,
            commit_message=message or f"Upload {name} with sepcli {__version__}",
        )
    except (*hub_failures(), ValueError) as error:
        raise _refusal(upload.repo, error) from error
    finally:
        if bars:
            utils.enable_progress_bars()
    if file_sha256(upload.run.checkpoint) != upload.run.sha256:
        raise ModelError(
            f"'{upload.run.checkpoint}' was replaced while it was uploaded.",
            remedy="Push it again when the training has ended.",
            code="changed",
        )
    commit = done.oid
    return Published(
        f"{HUB_SCHEME}{upload.repo}@{commit}/{RUN_FILE}",
        commit,
        f"{_endpoint()}/{upload.repo}",
        modelcard.entry(upload.run, upload.repo, commit, upload.license),
    )


def _about(api: HfApi, repo: str) -> ModelInfo | None:
    """What the hub says about a repository; None where there is none that this token may see."""
    from huggingface_hub import errors

    try:
        return api.model_info(repo)
    except errors.RepositoryNotFoundError:
        return None


def check_repo(repo: str) -> None:
    """Refuse what can't be the name of a repository: UsageError."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        fine = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo, re.ASCII)
    except HFValidationError:
        fine = False
    if not fine:
        raise UsageError(
            f"{parameter('repo', repo)} is no name of a repository.",
            remedy="Write OWNER/NAME: letters and digits, and '-', '_' or '.' inside, but no '--' or '..'.",
        )


def _check_branch(branch: str) -> None:
    if is_commit(branch):
        raise UsageError(
            f"{parameter('branch', branch)} is a commit, but only a branch can be added to.",
            remedy="Name a branch, or leave it out for main.",
        )
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", branch, re.ASCII) or ".." in branch or branch.endswith("."):
        raise UsageError(
            f"{parameter('branch', branch)} can't be the name of a branch.",
            remedy="Use letters, digits, '-', '_' and '.'.",
        )


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _refusal(repo: str, error: BaseException) -> SepcliError:
    """What the hub or its client said, as an error with a remedy."""
    from huggingface_hub import errors

    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # of one file among several
        error = error.__cause__
    owner, where = repo.partition("/")[0], f"{_endpoint()}/{repo}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = first_line(error, 2)
    if status == 401 or isinstance(error, errors.GatedRepoError):
        return ModelError(
            f"The hub does not accept the token for {where} ({status}).",
            remedy=f"It may have expired. {_LOG_IN}",
            code="no_token",
        )
    if status == 403:
        return ModelError(
            f"The token may not write to {where} (403).",
            remedy=f"Use one with write access to '{owner}': {_LOG_IN}",
            code="no_right",
        )
    if status == 404:
        return ModelError(
            f"{where} is not there, or the token may not see it (404).",
            remedy=f"Check {parameter('repo')} and {parameter('branch')}. {_LOG_IN}",
            code="no_repository",
        )
    if isinstance(error, ValueError) or status == 400:
        return ModelError(
            f"The hub refuses what was sent to {where}: {said}.",
            remedy=f"Check {parameter('license')} and {parameter('branch')}; `sepcli models push --dry-run` "
            "shows the model card.",
            code="refused",
        )
    if status is not None:
        return ModelError(
            f"{where} can't be written now: the hub answers {status}.",
            remedy="Try again in some minutes.",
            code="unavailable",
        )
    if isinstance(error, OSError) and error.filename is not None:
        return from_os(error, error.filename, reading=ModelError)
    return ModelError(
        f"{where} can't be reached: {said}.",
        remedy="Check the network, proxy and HF_ENDPOINT.",
        code="unreachable",
    )
