"""The ``prune`` verb as a script: ``accelerate launch scripts/prune.py --config FILE [--field value ...]``.

It runs the package of its own checkout, whether or not prune_bert is installed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune_bert.cli import main

if __name__ == "__main__":
    sys.exit(main(["prune", *sys.argv[1:]]))
