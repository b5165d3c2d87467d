"""KV caches of chunks: the same numbers from memory, disk and anew; a budget that holds; damage never served."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from grit_app.documents.keep import kv_store
from grit_app.documents.keep.kv_store import CacheStore
from grit_app.documents.library import Library
from grit_app.gritlm import GritLM
from grit_app.gritlm.budget import Budget
from grit_app.gritlm.cache.kv_cache import KVCache
from tests.documents.conftest import HONEY, RIVER


@pytest.fixture
def model(load_tiny: Callable[..., GritLM]) -> GritLM:
    return load_tiny()


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "rivers.txt"
    path.write_text("\n\n".join(f"Part {i}. {RIVER} {HONEY}" for i in range(4)))
    return path


def same(a: KVCache, b: KVCache) -> bool:
    return (
        torch.equal(a.ids, b.ids)
        and a.header_length == b.header_length
        and a.attention == b.attention
        and torch.allclose(a.keys, b.keys, atol=1e-5)
        and torch.allclose(a.values, b.values, atol=1e-5)
    )


def test_one_pass_gives_vectors_and_caches(model: GritLM, text_file: Path, tmp_path: Path) -> None:
    """The cache kept at upload must be that of exactly the text whose vector is searched."""
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    (report,) = library.add([text_file])
    assert len(library.missing_caches()) == 0 and library.cache_bytes() > 0
    assert library.documents()[0].cache_bytes == library.cache_bytes()
    for chunk in library.chunks(report.document_id or "")[:3]:
        encoding = next(model.encode_iter([chunk.text], return_cache=True))
        cache, state = library.cache_for(chunk)
        assert state == "warm" and encoding.cache is not None and same(cache, encoding.cache)
        assert cache.ids.tolist() == list(model.prompts.embed(chunk.text).ids)
        assert library.cache_for(chunk)[1] == "hot"
    library.close()


def test_a_cache_is_built_once_then_warm_then_hot(model: GritLM, text_file: Path, tmp_path: Path) -> None:
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    (report,) = library.add([text_file], with_caches=False)
    assert library.cache_bytes() == 0
    chunk = library.chunks(report.document_id or "")[0]
    built, state = library.cache_for(chunk)
    assert state == "built" and library.cache_for(chunk)[1] == "hot"
    library.close()
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    warm, state = library.cache_for(chunk)
    assert state == "warm" and same(warm, built)
    library.close()


def test_causal_caches_are_made_on_demand_and_of_the_ids_asked_for(model: GritLM, text_file: Path) -> None:
    library = Library(model, chunk_tokens=60)
    (report,) = library.add([text_file])
    chunk = library.chunks(report.document_id or "")[0]
    ids = model.prompts.opening(f"<|user|>\n{chunk.text}")
    cache, state = library.cache_for(chunk, "causal", ids)
    assert state == "built" and cache.attention == "causal" and same(cache, model.causal_cache(ids))
    assert library.cache_for(chunk, "causal", ids)[1] == "hot"
    assert library.cache_for(chunk, "causal", [*ids, 5])[1] == "built", "other ids are another cache"
    bidirectional = library.cache_for(chunk)[0]
    assert bidirectional.attention == "bidirectional"
    library.close()


@pytest.mark.parametrize("harm", ["cut", "rubbish", "another model", "another text"])
def test_a_cache_that_does_not_fit_is_built_anew(model: GritLM, text_file: Path, tmp_path: Path, harm: str) -> None:
    """A wrong cache gives a fluent wrong answer, and nobody would see it."""
    from grit_app.gritlm.cache import file as kv_file

    library = Library(model, tmp_path / "data", chunk_tokens=60)
    (report,) = library.add([text_file])
    first, second = library.chunks(report.document_id or "")[:2]
    expected = next(model.encode_iter([first.text], return_cache=True)).cache
    library.close()
    path = next((tmp_path / "data").rglob("00000.bidirectional.safetensors"))
    other = next(model.encode_iter([second.text], return_cache=True)).cache
    assert expected is not None and other is not None and not torch.equal(expected.ids, other.ids)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "rubbish":
        path.write_bytes(os.urandom(3000))
    elif harm == "another model":
        kv_file.save(other, path, identity="another model")
    else:
        kv_file.save(other, path, identity=model.identity)
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    cache, state = library.cache_for(first)
    assert state == "built" and same(cache, expected)
    library.close()
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    assert library.cache_for(first)[1] == "warm", "the good one has replaced it"
    library.close()


def test_the_budget_holds_at_upload_and_the_rest_is_made_when_needed(
    model: GritLM, text_file: Path, tmp_path: Path
) -> None:
    library = Library(model, tmp_path / "all", chunk_tokens=60)
    library.add([text_file])
    whole, count = library.cache_bytes(), library.documents()[0].chunks
    library.close()
    budget = whole // 2
    library = Library(model, tmp_path / "half", chunk_tokens=60, cache_budget_bytes=budget)
    (report,) = library.add([text_file])
    assert 0 < library.cache_bytes() <= budget and 0 < len(library.missing_caches()) < count
    chunks = library.chunks(report.document_id or "")
    for chunk in chunks:
        library.cache_for(chunk)
        assert library.cache_bytes() <= budget
    library.close()
    library = Library(model, tmp_path / "half", chunk_tokens=60, cache_budget_bytes=budget)
    assert library.cache_for(chunks[-1])[1] == "warm" and library.cache_for(chunks[0])[1] == "built"
    library.close()


def test_no_budget_keeps_nothing_on_disk(model: GritLM, text_file: Path, tmp_path: Path) -> None:
    library = Library(model, tmp_path / "data", cache_budget_bytes=0)
    (report,) = library.add([text_file])
    assert library.cache_for(library.chunks(report.document_id or "")[0])[1] == "built"
    assert library.cache_bytes() == 0 and not list((tmp_path / "data").rglob("*.safetensors"))
    library.close()


def test_the_least_recently_used_goes_first(model: GritLM, tmp_path: Path) -> None:
    """Use, not making, decides: the first cache made is used again and must stay."""
    cache = next(model.encode_iter([RIVER], return_cache=True)).cache
    assert cache is not None
    folder = tmp_path / "doc" / "kv"
    folder.mkdir(parents=True)
    store = CacheStore("m", budget_bytes=0, hot_bytes=0)
    store.open_document("doc", folder)
    one = store.write(folder / "probe.safetensors", cache)
    store.budget_bytes = int(3.5 * one)
    (folder / "probe.safetensors").unlink()
    store.close_document("doc")
    store.open_document("doc", folder)
    ids = cache.ids.tolist()
    for number in range(3):
        store.put((f"doc:{number}", "bidirectional"), cache)
    assert store.get(("doc:0", "bidirectional"), ids) is not None
    store.put(("doc:3", "bidirectional"), cache)
    assert [store.has((f"doc:{n}", "bidirectional")) for n in range(4)] == [True, False, True, True]
    assert store.bytes() == sum(p.stat().st_size for p in folder.iterdir()) <= store.budget_bytes


def test_memory_for_hot_caches_is_bounded(model: GritLM) -> None:
    cache = next(model.encode_iter([RIVER], return_cache=True)).cache
    assert cache is not None
    store = CacheStore("m", budget_bytes=10**9, hot_bytes=int(2.5 * cache.nbytes), on_disk=False)
    for number in range(5):
        store.put((f"doc:{number}", "bidirectional"), cache)
    assert [store.has((f"doc:{n}", "bidirectional")) for n in range(5)] == [False, False, False, True, True]
    assert store.bytes() == 2 * cache.nbytes
    assert store.room_for(cache.nbytes // 3) and not store.room_for(cache.nbytes)


def test_fewer_bits_take_fewer_bytes_and_every_answer_reads_the_same(
    model: GritLM, text_file: Path, tmp_path: Path
) -> None:
    """What is built, what is kept in memory and what is read from disk after a restart are the same numbers."""
    sizes = {}
    for scheme in ("native", "int8", "int4"):
        library = Library(model, tmp_path / scheme, cache_scheme=scheme)  # type: ignore[arg-type]
        (report,) = library.add([text_file], with_caches=False)
        chunk = library.chunks(report.document_id or "")[0]
        built, state = library.cache_for(chunk)
        hot, _ = library.cache_for(chunk)
        library.close()
        library = Library(model, tmp_path / scheme, cache_scheme=scheme)  # type: ignore[arg-type]
        warm, where = library.cache_for(chunk)
        library.close()
        assert (state, where) == ("built", "warm")
        assert (built.unpacked().keys == hot.unpacked().keys).all()
        assert (built.unpacked().keys == warm.unpacked().keys).all()
        assert (built.unpacked().values == warm.unpacked().values).all()
        sizes[scheme] = built.nbytes
    assert 0.25 < sizes["int8"] / sizes["native"] < 0.36
    assert 0.125 < sizes["int4"] / sizes["native"] < 0.23


def test_removing_a_document_removes_its_caches(model: GritLM, text_file: Path, tmp_path: Path) -> None:
    library = Library(model, tmp_path / "data")
    (report,) = library.add([text_file])
    assert list((tmp_path / "data").rglob("*.safetensors"))
    library.remove(report.document_id or "")
    assert library.cache_bytes() == 0 and not list((tmp_path / "data").rglob("*.safetensors"))
    library.close()


def test_missing_caches_are_built_in_the_background_and_it_can_be_stopped(model: GritLM, text_file: Path) -> None:
    import threading

    library = Library(model, chunk_tokens=60)
    library.add([text_file], with_caches=False)
    count = len(library.missing_caches())
    cancel = threading.Event()
    steps: list[tuple[int, int]] = []

    def step(done: int, total: int) -> None:
        steps.append((done, total))
        if done == 2:
            cancel.set()

    assert library.build_caches(step, cancel) == 2 and steps == [(1, count), (2, count)]
    assert library.build_caches() == count - 2 and len(library.missing_caches()) == 0
    library.close()


def test_the_store_in_memory_is_sized_by_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 MiB would be five passages of a 7B."""
    monkeypatch.setattr(kv_store, "free_bytes", lambda _: 60_000_000_000)
    assert kv_store.hot_bytes_on(torch.device("cuda")) == 6_000_000_000
    assert kv_store.hot_bytes_on(torch.device("cpu")) == kv_store.HOT_BYTES


def test_asking_for_sizes_does_not_walk_all_files(tmp_path: Path) -> None:
    """A list of 50 documents took 1.2 s at 20,000 files, under the lock that search needs."""
    store = CacheStore("model", 1 << 40)
    folders = {f"{number:04}": tmp_path / f"{number:04}" / "kv" for number in range(50)}
    for document_id, folder in folders.items():
        folder.mkdir(parents=True)
        for number in range(40):
            (folder / f"{number}.bidirectional.safetensors").write_bytes(b"x" * (number + 1))
        store.open_document(document_id, folder)
    walked = 0

    class Counted(dict):  # type: ignore[type-arg]
        def __iter__(self):  # type: ignore[no-untyped-def]
            nonlocal walked
            walked += 1
            return super().__iter__()

        items = values = __iter__  # type: ignore[assignment]

    store._files = Counted(store._files)
    assert store.bytes() == 50 * sum(range(41)) and all(store.bytes(one) == sum(range(41)) for one in folders)
    assert walked == 0
    store.close_document("0007")
    assert store.bytes() == 49 * sum(range(41)) and store.bytes("0007") == 0


def test_the_process_s_budget_takes_caches_from_memory_and_leaves_their_files(model: GritLM, tmp_path: Path) -> None:
    """Two libraries share it: what the first had in memory goes for the second, and comes back from its file."""
    memory = Budget(1)
    stores = [CacheStore("model", 1 << 30, memory=memory) for _ in range(2)]
    encoding = next(iter(model.encode_iter(["Bees make honey."], return_cache=True)))
    assert encoding.cache is not None
    for number, store in enumerate(stores):
        folder = tmp_path / str(number) / "kv"
        folder.mkdir(parents=True)
        store.open_document("doc", folder)
        store.put(("doc:0", "bidirectional"), encoding.cache)
    ids = encoding.cache.ids.tolist()
    states = [found[1] for store in stores if (found := store.get(("doc:0", "bidirectional"), ids))]
    assert states == ["warm", "warm"], "each was let go for the other"
    assert memory.bytes == encoding.cache.nbytes
