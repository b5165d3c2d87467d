"""What comes back from disk is what was saved, or nothing."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from grit_app.gritlm.cache import file as kv_file
from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.cache.pack import (
    BITS,
    GROUP_TOKENS,
    SMALLEST_SCALE,
    Scheme,
    pack_keys,
    pack_values,
    unpack_keys,
    unpack_values,
)
from grit_app.gritlm.errors import InputError


def random_cache(tokens: int = 150, dtype: torch.dtype = torch.float32, seed: int = 0) -> KVCache:
    """Keys with a few channels forty times larger than the rest, as real models have them."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(3, 2, tokens, 8, generator=generator)
    keys[..., 5] *= 40
    return KVCache(
        keys=keys.to(dtype),
        values=torch.randn(3, 2, tokens, 8, generator=generator).to(dtype),
        ids=torch.randint(0, 512, (tokens,), generator=generator, dtype=torch.int32),
        header_length=4,
        attention="bidirectional",
        start=2,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_native_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    cache, path = random_cache(dtype=dtype), tmp_path / "one.safetensors"
    kv_file.save(cache, path, identity="me")
    found = kv_file.load(path, identity="me")
    assert found is not None
    assert found.dtype == dtype
    for name in ("keys", "values", "ids"):
        assert torch.equal(getattr(found, name), getattr(cache, name))
    for name in ("header_length", "attention", "start", "end", "length", "nbytes"):
        assert getattr(found, name) == getattr(cache, name)
    assert [file.name for file in tmp_path.iterdir()] == ["one.safetensors"], "nothing may be left beside it"


@pytest.mark.parametrize(("scheme", "levels"), [("int8", 127), ("int4", 7)])
@pytest.mark.parametrize("tokens", [1, GROUP_TOKENS - 1, GROUP_TOKENS, 3 * GROUP_TOKENS + 5])
def test_packing_is_within_half_a_step_of_each_scale(tmp_path: Path, tokens: int, scheme: Scheme, levels: int) -> None:
    """The bound of symmetric rounding, with 1 % for the scale's own rounding. Channels must not share a scale."""
    cache, path = random_cache(tokens), tmp_path / "one.safetensors"
    kv_file.save(cache, path, scheme, identity="me")
    found = kv_file.load(path, identity="me")
    assert found is not None and found.keys.element_size() == 1 and found.shape == cache.shape
    whole = found.unpacked()
    assert whole.keys.dtype == torch.float32
    for group in range(0, tokens, GROUP_TOKENS):
        rows = slice(group, group + GROUP_TOKENS)
        steps = cache.keys[:, :, rows].abs().amax(dim=2, keepdim=True) / levels
        assert ((whole.keys[:, :, rows] - cache.keys[:, :, rows]).abs() <= 0.58 * steps).all()
    steps = cache.values.abs().amax(dim=3, keepdim=True) / levels
    assert ((whole.values - cache.values).abs() <= 0.58 * steps).all()
    assert (whole.keys != cache.keys).any(), "an error of zero would mean that nothing was packed"
    for layer in range(3):
        keys, values = found.layer(layer, torch.device("cpu"))
        assert torch.equal(keys, whole.keys[layer]) and torch.equal(values, whole.values[layer])


@pytest.mark.parametrize(("scheme", "share"), [("int8", 0.25), ("int4", 0.125)])
def test_packed_caches_are_as_small_as_said(scheme: Scheme, share: float) -> None:
    cache = random_cache(640)
    wide = KVCache(*(torch.randn(3, 2, 640, 64) for _ in range(2)), cache.ids, 0, "causal")
    assert share < wide.packed(scheme).nbytes / wide.nbytes < share + 0.25 * 0.06


@pytest.mark.parametrize("bits", BITS.values())
def test_extreme_numbers_survive_packing(bits: int) -> None:
    """Zeros must not divide by zero, and tiny groups must not lose their scale to float16."""
    tiny = torch.randn(1, 1, 70, 8) * 1e-5
    for pack, unpack in ((pack_keys, unpack_keys), (pack_values, unpack_values)):
        assert torch.equal(unpack(*pack(torch.zeros(1, 1, 70, 8), bits), torch.float32), torch.zeros(1, 1, 70, 8))
        assert (unpack(*pack(tiny, bits), torch.float32) - tiny).abs().max() <= SMALLEST_SCALE / 2
        large = tiny * 1e9
        assert torch.isfinite(unpack(*pack(large, bits), torch.float32)).all()


def test_another_identity_is_never_served(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    kv_file.save(random_cache(), path, identity="me")
    assert kv_file.load(path, identity="somebody else") is None
    assert kv_file.load(path, identity="me") is not None


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "foreign", "other safetensors", "folder"])
def test_damaged_and_foreign_files_are_none(tmp_path: Path, damage: str) -> None:
    """The caller makes the cache anew; a person sees nothing of it."""
    path = tmp_path / "one.safetensors"
    kv_file.save(random_cache(), path, identity="me")
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        os.truncate(path, path.stat().st_size - 100)
    elif damage == "foreign":
        path.write_text("this is a letter to my aunt")
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        kv_file.save_file({"k": torch.zeros(2)}, path, {"format": kv_file.FORMAT, "identity": "me"})
    assert kv_file.load(path, identity="me") is None


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in the middle of a write."""
    path = tmp_path / "one.safetensors"
    kv_file.save(random_cache(seed=1), path, identity="me")

    def full(tensors: object, target: Path, metadata: object) -> None:
        target.write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(kv_file, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        kv_file.save(random_cache(seed=2), path, identity="me")
    found = kv_file.load(path, identity="me")
    assert found is not None and torch.equal(found.keys, random_cache(seed=1).keys)
    assert len(list(tmp_path.iterdir())) == 1


def test_readers_see_whole_files_while_writers_replace_them(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    caches = [random_cache(seed=seed) for seed in (1, 2)]
    kv_file.save(caches[0], path, identity="me")
    done = threading.Event()

    def write() -> None:
        for turn in range(30):
            kv_file.save(caches[turn % 2], path, identity="me")
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not done.is_set() or reads == 0:
        found = kv_file.load(path, identity="me")
        assert found is not None
        assert any(torch.equal(found.keys, cache.keys) and torch.equal(found.values, cache.values) for cache in caches)
        reads += 1
    writer.join()


def test_a_loaded_cache_outlives_its_file(tmp_path: Path) -> None:
    """A document may be deleted while a question over it is being answered."""
    cache, path = random_cache(), tmp_path / "one.safetensors"
    kv_file.save(cache, path, identity="me")
    found = kv_file.load(path, identity="me")
    path.unlink()
    assert found is not None and torch.equal(found.keys, cache.keys)


def test_unknown_scheme_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="native, int8, int4"):
        kv_file.save(random_cache(), tmp_path / "x", "int3", identity="me")  # type: ignore[arg-type]
