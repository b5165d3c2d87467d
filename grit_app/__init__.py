"""GRIT Workbench: one language model that embeds and generates, to see, measure, train and use."""

__version__ = "0.2.0"
