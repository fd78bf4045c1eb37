"""Names of Hub models as a person types them: `hf:owner/repo`, `hf:owner/repo/file.gguf`, `owner/repo:file.gguf`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from puna.errors import UsageError
from puna.paths import is_safe_name, local_path, models_dir

_FORM = re.compile(r"(?P<prefix>hf:)?(?P<owner>[^/:]+)/(?P<repo>[^/:]+)(?:(?P<mark>[/:])(?P<file>.+))?", re.DOTALL)
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")
_MAX_SHARDS = 512


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository of the Hub and one of its files; `file` "" means its only model."""

    owner: str
    repo: str
    file: str = ""

    def __post_init__(self) -> None:
        if not all(is_safe_name(part) for part in (self.owner, self.repo, self.file or "x")):
            raise _not_a_name(str(self))

    @property
    def repo_id(self) -> str:
        return f"{self.owner}/{self.repo}"

    def __str__(self) -> str:
        return f"hf:{self.repo_id}/{self.file}" if self.file else f"hf:{self.repo_id}"

    @property
    def folder(self) -> Path:
        """The cache folder of the repository."""
        return local_path(models_dir(), "hub", self.owner, self.repo)

    def target(self, file: str) -> Path:
        """The cache path of one file of the repository."""
        return local_path(self.folder, file)

    def shards(self) -> Iterator[str]:
        """The files to fetch: all parts of a split file, or the file itself.

        >>> list(HubName("o", "r", "m-00001-of-00002.gguf").shards())
        ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf']
        """
        parts = _SHARD.fullmatch(self.file)
        if parts is None:
            yield self.file
            return
        count = int(parts["count"])
        if count > _MAX_SHARDS:
            raise UsageError(f"{self}: {count} parts; puna reads split files of at most {_MAX_SHARDS}")
        yield from (f"{parts['stem']}-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1))


def parse_hub_name(text: str) -> HubName | None:
    """The Hub name in `text`, or None for anything else. UsageError for text that starts like a Hub name but is invalid.

    >>> parse_hub_name("owner/repo:m.gguf") == parse_hub_name("hf:owner/repo/m.gguf") == HubName("owner", "repo", "m.gguf")
    True
    >>> parse_hub_name("folder/model.gguf") is None
    True
    """
    form = _FORM.fullmatch(text)
    claims = text.startswith("hf:") or (form is not None and form["mark"] == ":")
    if not claims:
        return None
    if form is None:
        raise _not_a_name(text)
    return HubName(form["owner"], form["repo"], form["file"] or "")


def _not_a_name(text: str) -> UsageError:
    return UsageError(f"{text[:80]!r} is not the name of a Hub model", hint="Type hf:OWNER/REPO or hf:OWNER/REPO/FILE.gguf.")
