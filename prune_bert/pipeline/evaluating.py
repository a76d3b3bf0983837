"""``evaluate``: one model, whole or with a plan's sites bypassed, scored on one task."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence

from prune_bert.config import EvaluateConfig
from prune_bert.evaluation import encode
from prune_bert.pipeline.measuring import score_model, show_notes, show_score
from prune_bert.pipeline.outputs import config_dict, write_config, write_predictions
from prune_bert.pipeline.precision import own_accelerate_state
from prune_bert.pipeline.session import open_accelerator, open_task, read_plan
from prune_bert.pipeline.workspace import checked_output
from prune_bert.plan import PruningPlan
from prune_bert.profiling import environment
from prune_bert.storage import staged_directory, write_text
from prune_bert.surgery import bypass


@own_accelerate_state()
def run_evaluate(config: EvaluateConfig, argv: Sequence[str]) -> int:
    """Run the ``evaluate`` verb: ``score.json``, ``predictions.parquet`` and ``config.yaml``."""
    plan = PruningPlan() if config.plan is None else read_plan(config.plan)
    config, accelerator, notes = open_accelerator(config)
    target = checked_output(config, accelerator)
    session = open_task(config)
    model = session.loaded.model
    encoded = encode(session.loaded.tokenizer, session.data, config.max_seq_length)
    with bypass(model, plan):
        score = score_model(config, model, encoded, accelerator, "evaluate")
    if not accelerator.is_main_process:
        return 0
    result = {
        "model": session.loaded.name,
        "plan": str(plan),
        "task": score.task,
        "split": score.split,
        "source": session.data.source,
        "n": score.n,
        "metrics": {name: figure.to_dict() for name, figure in score.metrics.items()},
        "loss": score.loss,
        "seconds": score.seconds,
        "notes": [*notes, *session.notes],
        "environment": environment(accelerator.device, accelerator.mixed_precision),
        "command": shlex.join(argv),
        "config": config_dict(config),
    }
    with staged_directory(target) as directory:
        write_text(directory / "score.json", json.dumps(result, indent=2) + "\n")
        write_predictions({"model": score}, directory)
        write_config(config, directory)
    show_notes((*notes, *session.notes))
    show_score(score)
    sys.stdout.write(f"written to {target.path}\n")
    return 0
