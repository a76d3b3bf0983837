"""``score``: what each layer and sublayer of a model is worth, by one or more published scorers."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator

from prune_bert.config import ScoreConfig
from prune_bert.evaluation import encode
from prune_bert.importance import SCORERS, SiteScores, score_sites
from prune_bert.pipeline.calibration import CalibrationSession, open_calibration
from prune_bert.pipeline.fingerprints import Fingerprints, data_fingerprint, model_fingerprint
from prune_bert.pipeline.measuring import show_notes
from prune_bert.pipeline.outputs import config_dict, write_config
from prune_bert.pipeline.precision import own_accelerate_state
from prune_bert.pipeline.session import open_accelerator
from prune_bert.pipeline.workspace import Workspace
from prune_bert.profiling import environment
from prune_bert.report.site_scores import print_scores, write_scores
from prune_bert.storage import write_text


@own_accelerate_state()
def run_score(config: ScoreConfig, argv: Sequence[str]) -> int:
    """Run the ``score`` verb: ``scores.json``, a table and a plot; each scorer is a step that is not done twice."""
    config, accelerator, notes = open_accelerator(config)
    workspace = Workspace(config, accelerator)
    needs_labels = any(SCORERS[name].needs_labels for name in config.scorer)
    session = open_calibration(config, accelerator, needs_labels=needs_labels)
    model = session.loaded.model
    encoded = encode(session.loaded.tokenizer, session.calibration, config.max_seq_length)
    fingerprints = Fingerprints(config, accelerator, {"model": model_fingerprint(model, session.loaded.tokenizer)})
    workspace.open(fingerprints.of_steps({"calibration": data_fingerprint(session.calibration)}))

    def score(name: str) -> SiteScores:
        def compute() -> SiteScores:
            return score_sites(
                model,
                encoded,
                scorer=name,
                components=config.components,
                norm=config.norm,
                accelerator=accelerator,
                batch_size=config.per_device_eval_batch_size,
            )

        return workspace.step(f"score {name}", compute, SiteScores.to_dict, SiteScores.from_dict)

    with workspace:
        scores = [score(name) for name in config.scorer]
        notes = (*notes, *session.notes)
        if accelerator.is_main_process:
            record = _record(config, argv, session, scores, accelerator) | {"notes": list(notes)}
            text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
            write_text(workspace.directory / "scores.json", text)
            write_scores(scores, session.loaded.name, session.calibration.spec.name, workspace.directory)
            write_config(config, workspace.directory)
        target = workspace.finish()
    if accelerator.is_main_process:
        show_notes(notes)
        print_scores(scores)
        sys.stdout.write(f"written to {target}\n")
    return 0


def _record(
    config: ScoreConfig,
    argv: Sequence[str],
    session: CalibrationSession,
    scores: Sequence[SiteScores],
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Gather what ``scores.json`` holds beside the notes."""
    return {
        "model": session.loaded.name,
        "task": session.calibration.spec.name,
        "source": session.calibration.source,
        "n": len(session.calibration.dataset),
        "norm": config.norm,
        "scorers": [one.to_dict() | {"removal_order": [str(site) for site in one.ranking()]} for one in scores],
        "environment": environment(accelerator.device, accelerator.mixed_precision),
        "command": shlex.join(argv),
        "config": config_dict(config),
    }
