"""``prune``: baseline, plan, pruned model, compensation where it is asked for, report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from prune_bert.compensation import CompensationSettings
from prune_bert.config import RunConfig
from prune_bert.pipeline.calibration import open_calibration
from prune_bert.pipeline.comparing import compare_states
from prune_bert.pipeline.compensating import dropped_copy
from prune_bert.pipeline.fingerprints import Fingerprints, data_fingerprint, model_fingerprint
from prune_bert.pipeline.keeping import check_savable, save_and_weigh, settled_format
from prune_bert.pipeline.precision import own_accelerate_state
from prune_bert.pipeline.prune_run import PruneRun
from prune_bert.pipeline.reporting import finish_run
from prune_bert.pipeline.session import open_accelerator, open_task, read_plan
from prune_bert.pipeline.workspace import Workspace, working_directory
from prune_bert.profiling import check_length
from prune_bert.report import PruningReport
from prune_bert.surgery import check_droppable, drop


def run_prune(config: RunConfig, argv: Sequence[str]) -> int:
    """Run the ``prune`` verb of the command line."""
    report = prune(config, command=shlex.join(argv), show=True)
    return 0 if report.rows else 1


@own_accelerate_state()
def prune(config: RunConfig, *, command: str | None = None, show: bool = False) -> PruningReport:
    """Remove what a plan names, compensate for it if asked to, and report accuracy against speed.

    Everything lands in ``config.output_dir`` at once when all is done: the report in several forms, the plots,
    the predictions, the plan, the config, the compensation and the pruned checkpoint. A run that was killed resumes
    when it is started again with the same settings. Under ``accelerate launch`` every process calls it.

    Args:
        config: Every setting of the run.
        command: The command line to record; by default this process's.
        show: Print the table and the report's path, on the main process.

    Raises:
        UserError: A subclass, for whatever the user can mend.

    Examples:
        >>> config = RunConfig(
        ...     model_name_or_path=checkpoint, task_name="sst2", data_dir=data_dir, plan="layer:1 ffn:3",
        ...     output_dir=str(output_dir / "run"), profile=False,
        ... )
        >>> report = prune(config)
        >>> [row.name for row in report.rows]
        ['baseline', 'pruned']
    """
    run = _begin(config, command or shlex.join(sys.argv))
    with run.workspace:
        compare_states(run, weigh_last=False)
        drop(run.model, run.plan, run.fitted)
        save_and_weigh(run, list(run.scores)[-1])
        return finish_run(run, show=show)


def _begin(config: RunConfig, command: str) -> PruneRun:
    plan, compensated = read_plan(config.plan), config.compensation != "none"
    if compensated:
        CompensationSettings.from_options(config)  # refuses what does not fit together
    config, accelerator, notes = open_accelerator(config, config.report_to, working_directory(config.output_dir))
    workspace = Workspace(config, accelerator)
    calibration = None
    if compensated:
        opened = open_calibration(config, accelerator, needs_labels=False)
        loaded, data, calibration, said = opened.loaded, opened.validation, opened.calibration, opened.notes
    else:
        session = open_task(config)
        loaded, data, said = session.loaded, session.data, session.notes
    # Every fault of the plan, of its compensation and of the grid shows now, before minutes of work.
    check_droppable(loaded.model, plan)
    check_savable(config, loaded.model, plan)
    if config.profile:
        check_length(loaded.model, max(config.profile_sequence_lengths))
    checkpoint_format = settled_format(config, dropped_copy(loaded.model, plan, config))
    models = {"model": model_fingerprint(loaded.model, loaded.tokenizer)}
    used = {"validation": data} if calibration is None else {"validation": data, "calibration": calibration}
    digests = {use: data_fingerprint(rows) for use, rows in used.items()}
    workspace.open(Fingerprints(config, accelerator, models, plan).of_steps(digests))
    return PruneRun(
        config,
        command,
        plan,
        accelerator,
        workspace,
        loaded,
        data,
        checkpoint_format,
        depth=int(loaded.model.config.num_hidden_layers),
        calibration=calibration,
        notes=[*notes, *said],
    )
