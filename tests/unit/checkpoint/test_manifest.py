"""A checkpoint told against its parent is the checkpoint, and telling it stays cheap however long the thread is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_llmops.checkpoint.manifest import Manifest, applied, encoded, full
from langchain_llmops.core.errors import EnvelopeError

SERDE = JsonPlusSerializer(allowed_msgpack_modules=None)
REFS = st.integers(0, 6).map(lambda number: bytes([number]) * 16)
LISTS = st.lists(REFS | st.just([0, b"\x01"]), max_size=12).map(lambda items: [1, items])
NODES = (
    LISTS | REFS | st.just([0, b"\xc0"]) | st.dictionaries(st.text(max_size=2), REFS, max_size=3).map(lambda d: [2, d])
)
NAMES = st.sampled_from("abcde")
VERSIONS = st.dictionaries(NAMES, st.integers(0, 3) | st.sampled_from(["1.a", "2.b"]), max_size=5)
MANIFESTS = st.builds(
    Manifest,
    st.fixed_dictionaries(
        {"v": st.just(4), "ts": st.text(max_size=3), "updated_channels": st.none() | st.lists(NAMES)}
    ),
    VERSIONS,
    st.dictionaries(NAMES, VERSIONS, max_size=4),
    st.dictionaries(NAMES, NODES, max_size=5),
)


def pack(value):
    return SERDE.dumps_typed(value)[1]


def told(encoding, parent):
    found = applied(
        SERDE.loads_typed(("msgpack", encoding.body)), len(encoding.body), None if encoding.base else parent
    )
    return found.fields, found.versions, found.seen, found.values


@given(st.lists(MANIFESTS, min_size=1, max_size=8))
def test_a_chain_of_deltas_tells_every_checkpoint(manifests):
    parent, read = None, None
    for manifest in manifests:
        made = encoded(manifest, parent, pack)
        read = applied(SERDE.loads_typed(("msgpack", made.body)), len(made.body), None if made.base else read)

        assert (read.fields, read.versions, read.seen, read.values) == (
            manifest.fields,
            manifest.versions,
            manifest.seen,
            manifest.values,
        )
        assert (read.full_bytes, read.debt_bytes) == (made.manifest.full_bytes, made.manifest.debt_bytes)
        parent = made.manifest


@given(MANIFESTS, MANIFESTS)
def test_a_delta_forced_is_the_checkpoint_too(old, new):
    parent = full(old, pack).manifest
    roomy = Manifest(parent.fields, parent.versions, parent.seen, parent.values, full_bytes=10**9)

    made = encoded(new, roomy, pack)

    assert not made.base
    assert told(made, roomy) == (new.fields, new.versions, new.seen, new.values)


def test_a_longer_conversation_does_not_cost_more_to_go_on_with():
    def grown(turns):
        parent, sizes = None, []
        for turn in range(turns):
            items = [number.to_bytes(16) for number in range(3 * turn)]
            manifest = Manifest({"v": 4, "ts": str(turn)}, {"messages": f"{turn:010}.ab"}, {}, {"messages": [1, items]})
            made = encoded(manifest, parent, pack)
            sizes.append(len(made.body))
            parent = made.manifest
        return sizes

    sizes = grown(600)

    assert sum(sizes[300:600]) <= 1.2 * sum(sizes[10:310])
    assert sum(sizes) < 600 * 300


def test_deltas_end_when_they_outgrow_what_they_save():
    parent, bases = None, 0
    for turn in range(50):
        made = encoded(Manifest({"ts": str(turn)}, {"a": turn}, {}, {"a": [0, bytes(20)]}), parent, pack)
        bases += made.base
        parent = made.manifest

        assert parent.debt_bytes <= parent.full_bytes

    assert 1 < bases <= 50


@pytest.mark.parametrize("content", [[], [2, {}, {}, {}, {}], [1, {}], [1] + [{}] * 8])
def test_a_manifest_that_cannot_be_told_is_refused(content):
    with pytest.raises(EnvelopeError):
        applied(content, 10, None)
