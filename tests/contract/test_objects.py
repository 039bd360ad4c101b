"""What objects by path mean, on every backend."""

from __future__ import annotations

import pytest

from langchain_llmops.core.errors import StoreError

HOSTILE = ["a b", "ü\U0001f600", "100%25", "?q=1&x#y", "a\\b", "*[x]", "~", "quote'\"", "k" * 200, "a\x00b", "..hidden"]


def listed(opened, objects, prefix: str) -> list[tuple[str, int]]:
    async def collect():
        return [entry async for entry in objects.list(prefix)]

    return sorted(opened.run(collect()))


def test_an_object_comes_back_as_it_was_put(opened, objects):
    assert opened.run(objects.get("a/b.bin")) is None
    for data in (b"", b"\x00\xff" * 10, b"x" * 3_000_000):
        opened.run(objects.put("a/b.bin", data))
        assert opened.run(objects.get("a/b.bin")) == data


@pytest.mark.parametrize("segment", HOSTILE, ids=range(len(HOSTILE)))
def test_any_text_is_a_segment(opened, objects, segment):
    opened.run(objects.put(f"p/{segment}/x", b"data"))
    assert opened.run(objects.get(f"p/{segment}/x")) == b"data"
    assert listed(opened, objects, "p") == [(f"p/{segment}/x", 4)]
    opened.run(objects.delete(f"p/{segment}/x"))
    assert listed(opened, objects, "p") == []


def test_a_prefix_is_made_of_whole_segments(opened, objects):
    for path in ("user/1/a", "user/1/b", "user/10/a", "users/1"):
        opened.run(objects.put(path, b"x"))
    assert [path for path, _ in listed(opened, objects, "user/1")] == ["user/1/a", "user/1/b"]
    assert len(listed(opened, objects, "")) == 4


def test_deleting_an_absent_object_is_no_error(opened, objects):
    opened.run(objects.put("here", b"x"))
    opened.run(objects.delete("absent", "here", "absent"))
    assert opened.run(objects.get("here")) is None


@pytest.mark.parametrize("path", ["", "/a", "a//b", "a/", "../a", "a/../b", "."])
def test_a_path_that_leaves_its_place_is_refused(opened, objects, path):
    with pytest.raises(StoreError, match="path"):
        opened.run(objects.put(path, b"x"))


def test_hundreds_of_objects_are_listed_whole(opened, objects):
    for number in range(120):
        opened.run(objects.put(f"many/{number:04}", b"x"))
    assert len(listed(opened, objects, "many")) == 120
