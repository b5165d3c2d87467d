"""A stay on somebody's machine, rehearsed here: packed, run by its script alone, and made into a model again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from grit_app.gritlm import GritLM
from grit_app.gritlm.load.loading import load_hf_model
from tests.training.helpers import chat_rows, contrastive_rows, write_rows
from training.config import ConfigError, TrainError
from training.lease.__main__ import LeaseConfig, main
from training.lease.parts import PartsError, read_parts, write_parts


def test_parts_have_one_size_and_every_byte_comes_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    rng = np.random.default_rng(0)
    for name, size in (("a.bin", 5000), ("deep/b.bin", 12345), ("run.sh", 10), ("empty", 0)):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(rng.bytes(size))
    parts = write_parts(source, tmp_path / "out", "part", 4096)
    sizes = [part.stat().st_size for part in parts]
    assert set(sizes[:-1]) == {4096} and 0 < sizes[-1] <= 4096 and len(parts) > 4
    read_parts(tmp_path / "out", "part", tmp_path / "back")
    for path in source.rglob("*"):
        if path.is_file():
            assert (tmp_path / "back" / path.relative_to(source)).read_bytes() == path.read_bytes()
    again = write_parts(source, tmp_path / "again", "part", 4096)
    assert [part.read_bytes() for part in again] == [part.read_bytes() for part in parts]
    data = bytearray(parts[1].read_bytes())
    data[7] ^= 1
    parts[1].write_bytes(bytes(data))
    with pytest.raises(PartsError, match=r"1 parts are damaged: part-001. Copy them again"):
        read_parts(tmp_path / "out", "part", tmp_path / "other")
    parts[0].unlink()
    with pytest.raises(PartsError, match=r"parts are missing: part-000"):
        read_parts(tmp_path / "out", "part", tmp_path / "other")


def test_a_stay_from_the_recipe_to_the_exported_model(
    tmp_path: Path, tiny_model_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing but the parts and run.sh is there: code, weights, data, vectors and settings come out of them.

    The exported model is the start plus the change: nearer to what was trained than int8 weights would be.
    """
    pairs = write_rows(tmp_path / "pairs.jsonl", contrastive_rows(24))
    chats = write_rows(tmp_path / "chats.jsonl", chat_rows(24))
    held_out = write_rows(tmp_path / "dev.jsonl", contrastive_rows(6, seed=9))
    start = tiny_model_folder("mistral")
    recipe = {
        "model": {"path": str(start)},
        "data": {
            "train": [{"path": str(pairs), "teacher": str(tiny_model_folder("llama", 3))}, {"path": str(chats)}],
            "query_max_length": 64,
            "passage_max_length": 128,
            "generative_max_length": 128,
        },
        "contrastive": {"batch_size": 8, "negatives": 1, "temperature": 0.1, "chunk_tokens": 512},
        "generative": {"batch_size": 4, "chunk_tokens": 256},
        "distill": {"vectors_dir": str(tmp_path / "vectors")},
        "optimizer": {"learning_rate": 0.003},
        "evaluation": {"files": [str(held_out)]},
        "run": {"steps": 4, "save_every": 1000},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "lease"
    arguments = ["--config", str(tmp_path / "recipe.yaml"), "--out", str(out), "--part_mb", "0.3"]
    main([*arguments, "--minutes", "10", "--evaluation_s", "8", "--piece_mb", "0.02"])
    assert len(list(out.glob("part-*"))) > 2 and max(p.stat().st_size for p in out.glob("part-*")) <= 300_000

    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        ["bash", str(out / "run.sh")], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pieces = sorted((out / "results").glob("result-*"))
    assert len(pieces) > 2 and max(piece.stat().st_size for piece in pieces) <= 20_000
    lines = [json.loads(line) for line in (out / "lease" / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("eval/dev/accuracy_at_1" in line for line in lines[-1:]) and any("kl_contrastive" in x for x in lines)

    main(["--unpack", str(out / "results"), "--out", str(out)])
    cpu = torch.device("cpu")
    (checkpoint,) = (out / "lease" / "run").glob("checkpoint-*")
    trained, before, made = (
        dict(load_hf_model(f, device=cpu, dtype=torch.float32, quantization="none").named_parameters())
        for f in (checkpoint, start, out / "results" / "run" / checkpoint.name)
    )
    moved = max(float((trained[n] - before[n]).abs().max()) for n in trained)
    off = max(float((trained[n] - made[n]).abs().max()) for n in trained)
    assert moved > 1e-3 and off < 0.02 * moved + 1e-4
    model = GritLM.from_pretrained(out / "results" / "export", dtype="float32")
    expected = GritLM.from_pretrained(checkpoint, dtype="float32").encode(["the river", "bees"])
    assert float((model.encode(["the river", "bees"]) * expected).sum(1).min()) > 0.995
    with pytest.raises(SystemExit, match="2"):
        main(["--unpack", str(out / "results"), "--out", str(out)])
    assert "holds a run or an export already" in capsys.readouterr().err
    (out / "part-001").unlink()
    broken = subprocess.run(["bash", str(out / "run.sh")], env=environment, capture_output=True, text=True)
    assert broken.returncode == 2 and "missing or damaged" in broken.stderr


def test_what_cannot_be_packed_is_a_sentence(
    tmp_path: Path, tiny_model_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="Name one of --config"):
        LeaseConfig()
    with pytest.raises(ConfigError, match="minutes must leave time"):
        LeaseConfig(config=tmp_path / "r.yaml", minutes=0.4)
    pairs = write_rows(tmp_path / "pairs.jsonl", contrastive_rows(24))
    text = f"model: {{path: {tiny_model_folder('mistral')}}}\ndata: {{train: [{{path: {pairs}}}]}}\nrun: {{steps: 2}}\n"
    (tmp_path / "r.yaml").write_text(text)
    base = ["--config", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        main([*base, "--overrides", '["--adapter.method", "lora"]'])
    assert "set adapter.method to full" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*base[:-1], str(tmp_path)])
    assert "is not empty" in capsys.readouterr().err
    assert issubclass(PartsError, TrainError)
