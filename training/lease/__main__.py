"""Everything for a short stay on somebody's GPU, packed beforehand; and what comes back, made into a model.

    python -m training.lease --config training/recipes/gritlm-135m.yaml --minutes 9 --part_mb 58 --out lease
    bash lease/run.sh                                             # there: one GPU of 24 GB or more, no network
    python -m training.lease --unpack lease/results --out lease   # here again: lease/results/export

The first command does all that a CPU can: start weights as int8 rows, data files, the teachers' vectors, evaluation
files, code and wheels, in parts of one size with checksums. `run.sh` checks that every part is there, unpacks, trains
by the clock, evaluates in the last half minute, and writes the change of the weights as int8 rows in pieces of
`piece_mb`, with the log. The last one adds the change to the start weights and exports.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jsonargparse import ArgumentParser

from grit_app.doors import one_sentence
from training.config import require
from training.lease.pack import pack
from training.lease.stay import stay
from training.lease.unpack import unpack


@dataclass(frozen=True, kw_only=True)
class LeaseConfig:
    """`config` packs, `unpack` makes the model, `run` is what run.sh calls."""

    config: Path | None = None
    """A recipe of training.train."""

    overrides: list[str] = field(default_factory=list)
    """Of the recipe: ["--contrastive.batch_size", "256"]."""

    minutes: float = 9.0
    """From the start of run.sh to its end."""

    evaluation_s: float = 30.0
    """Of those, for the last evaluation, the checkpoint and the pieces."""

    part_mb: float = 58.0
    piece_mb: float = 16.0
    out: Path = Path("lease")
    wheels: list[Path] = field(default_factory=list)
    """Wheel files of packages that the machine may lack."""

    unpack: Path | None = None
    """The folder with the pieces that came back."""

    run: Path | None = None
    began: float | None = None
    """When run.sh began, in seconds since 1970."""

    results: Path = Path("results")

    def __post_init__(self) -> None:
        named = [name for name in ("config", "unpack", "run") if getattr(self, name) is not None]
        require(len(named) == 1, "Name one of --config (pack), --unpack (make the model) and --run (on the machine).")
        require(self.part_mb > 0 and self.piece_mb > 0, "part_mb and piece_mb must be above 0.")
        require(60 * self.minutes > self.evaluation_s >= 0, "minutes must leave time beside evaluation_s.")


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_class_arguments(LeaseConfig)
    with one_sentence():
        config = LeaseConfig(**vars(parser.instantiate(parser.parse_args(arguments))))
        if config.unpack is not None:
            print(f"exported to {unpack(config.unpack, config.out)}")
        elif config.run is not None:
            stay(config.run, config.results, config.began)
        elif config.config is not None:
            pack(
                config.config,
                config.overrides,
                config.out,
                minutes=config.minutes,
                evaluation_s=config.evaluation_s,
                part_bytes=int(config.part_mb * 1e6),
                piece_bytes=int(config.piece_mb * 1e6),
                wheels=config.wheels,
            )


if __name__ == "__main__":
    main()
