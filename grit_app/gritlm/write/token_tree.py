"""Token sequences that share their beginnings, as a tree: every shared beginning is held, and computed, once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class TokenTree:
    """A trie over sequences of ids. Node 0 is the root; a parent always has a smaller number than its children."""

    def __init__(self, sequences: Iterable[Sequence[int]] = ()) -> None:
        self.children: list[dict[int, int]] = [{}]
        """For each node: id → node."""

        self.parents: list[int] = [-1]
        self.depths: list[int] = [0]
        """Number of ids from the root to the node."""

        self.ends: list[int] = []
        """For each sequence, in the order added, the node at its end."""

        for sequence in sequences:
            self.add(sequence)

    def __len__(self) -> int:
        return len(self.children)

    def add(self, sequence: Sequence[int]) -> None:
        """Adds a sequence; the same one again only notes its end again."""
        node = 0
        for token_id in sequence:
            child = self.children[node].get(token_id)
            if child is None:
                child = len(self.children)
                self.children[node][token_id] = child
                self.children.append({})
                self.parents.append(node)
                self.depths.append(self.depths[node] + 1)
            node = child
        self.ends.append(node)
