"""The command line: ``prune-bert VERB [--config FILE] [--field value ...]``."""

from prune_bert.cli.entry import main

__all__ = ["main"]
