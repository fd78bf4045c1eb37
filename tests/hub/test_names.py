from __future__ import annotations

import pytest

from puna.errors import UsageError
from puna.hub.names import HubName, parse_hub_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf:owner/repo", HubName("owner", "repo")),
        ("hf:owner/repo/m.gguf", HubName("owner", "repo", "m.gguf")),
        ("hf:owner/repo:m.gguf", HubName("owner", "repo", "m.gguf")),
        ("owner/repo:m.gguf", HubName("owner", "repo", "m.gguf")),
    ],
)
def test_the_three_spellings_of_a_hub_model(text: str, name: HubName) -> None:
    assert parse_hub_name(text) == name


@pytest.mark.parametrize(
    "text", ["model.gguf", "folder/model.gguf", "./folder/model.gguf", "smollm2-135m-instruct", "a/b/c", "C:\\a\\b"]
)
def test_a_path_or_a_short_name_is_no_hub_model(text: str) -> None:
    assert parse_hub_name(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:x",
        "hf:../x",
        "hf:a/..",
        "hf:a/b/../c",
        "hf:a/b/c/d.gguf",
        "hf:a/b/%2e%2e",
        "a/b:../c",
        "a/b:/etc/x",
        "hf:a/b/\0",
        "hf:a/" + "b" * 300,
    ],
    ids=ascii,
)
def test_a_hub_name_that_leaves_the_cache_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not the name of a Hub model"):
        parse_hub_name(text)


def test_a_split_file_is_fetched_with_all_its_parts() -> None:
    assert len(list(HubName("o", "r", "m-00001-of-00007.gguf").shards())) == 7
    with pytest.raises(UsageError, match="at most 512"):
        list(HubName("o", "r", "m-00001-of-99999.gguf").shards())
