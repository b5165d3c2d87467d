"""Does this machine give the published numbers? Four cosines of GritLM-7B, from its README.

    python -m grit_app.gritlm.load.parity --model GritLM/GritLM-7B --device cuda

Two paper titles are embedded with an instruction and two abstracts without one. Exits with 0 if all four cosines agree
within the tolerance, with 1 if one does not, with 2 if the model cannot be loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import numpy as np
from jsonargparse import ArgumentParser
from numpy.typing import NDArray

from grit_app.gritlm.errors import GritError
from grit_app.gritlm.load.loading import QUANTIZATIONS
from grit_app.gritlm.model import GritLM

INSTRUCTION: Final = "Given a scientific paper title, retrieve the paper's abstract"

TITLES: Final = (
    "Bitcoin: A Peer-to-Peer Electronic Cash System",
    "Generative Representational Instruction Tuning",
)

ABSTRACTS: Final = (
    "A purely peer-to-peer version of electronic cash would allow online payments to be sent directly from one "
    "party to another without going through a financial institution. Digital signatures provide part of the "
    "solution, but the main benefits are lost if a trusted third party is still required to prevent "
    "double-spending. We propose a solution to the double-spending problem using a peer-to-peer network. The "
    "network timestamps transactions by hashing them into an ongoing chain of hash-based proof-of-work, forming a "
    "record that cannot be changed without redoing the proof-of-work. The longest chain not only serves as proof of "
    "the sequence of events witnessed, but proof that it came from the largest pool of CPU power. As long as a "
    "majority of CPU power is controlled by nodes that are not cooperating to attack the network, they'll generate "
    "the longest chain and outpace attackers. The network itself requires minimal structure. Messages are broadcast "
    "on a best effort basis, and nodes can leave and rejoin the network at will, accepting the longest "
    "proof-of-work chain as proof of what happened while they were gone.",
    "All text-based language problems can be reduced to either generation or embedding. Current models only perform "
    "well at one or the other. We introduce generative representational instruction tuning (GRIT) whereby a large "
    "language model is trained to handle both generative and embedding tasks by distinguishing between them through "
    "instructions. Compared to other open models, our resulting GritLM 7B sets a new state of the art on the "
    "Massive Text Embedding Benchmark (MTEB) and outperforms all models up to its size on a range of generative "
    "tasks. By scaling up further, GritLM 8X7B outperforms all open generative language models that we tried while "
    "still being among the best embedding models. Notably, we find that GRIT matches training on only generative or "
    "embedding data, thus we can unify both at no performance loss. Among other benefits, the unification via GRIT "
    "speeds up Retrieval-Augmented Generation (RAG) by > 60% for long documents, by no longer requiring separate "
    "retrieval and generation models. Models, code, etc. are freely available at "
    "https://github.com/ContextualAI/gritlm.",
)

PUBLISHED: Final = np.array([[0.608, 0.101], [0.120, 0.533]])
"""GritLM-7B in bfloat16; rows are titles, columns abstracts."""

TOLERANCE: Final = 0.002


def cosines(model: GritLM) -> NDArray[np.float32]:
    """[titles, abstracts]"""
    matrix: NDArray[np.float32] = model.encode(TITLES, instruction=INSTRUCTION) @ model.encode(ABSTRACTS).T
    return matrix


def main(arguments: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m grit_app.gritlm.load.parity", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="GritLM/GritLM-7B", help="folder or hub name (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--quantization", default="none", choices=QUANTIZATIONS, help="(default: %(default)s)")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        model = GritLM.from_pretrained(options.model, quantization=options.quantization, device=options.device)
        measured = cosines(model)
    except GritError as error:
        print(error, file=sys.stderr)
        return 2
    for row, title in enumerate(TITLES):
        for column, abstract in enumerate(ABSTRACTS):
            value, published = float(measured[row, column]), PUBLISHED[row, column]
            verdict = "ok" if abs(value - published) <= options.tolerance else "differs"
            print(f"{title[:15]:15}  {abstract[:15]:15}  published {published:.3f}  here {value:.3f}  {verdict}")
    largest = float(np.abs(measured - PUBLISHED).max())
    print(f"largest difference {largest:.4f}, tolerance {options.tolerance}")
    return int(largest > options.tolerance)


if __name__ == "__main__":
    sys.exit(main())
