"""``python -m prune_bert`` is ``prune-bert``."""

import sys

from prune_bert.cli import main

if __name__ == "__main__":
    sys.exit(main())
