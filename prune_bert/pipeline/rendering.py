"""``report``: a finished run's ``report.json``, rendered again."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from prune_bert.config import ReportConfig
from prune_bert.report import print_table, read_report, write_report
from prune_bert.report.writer import FILES
from prune_bert.storage import new_or_renewed, output_directory


def run_report(config: ReportConfig, argv: Sequence[str]) -> int:
    """Run the ``report`` verb; ``overwrite_output_dir`` renews the files of an existing directory in place."""
    report = read_report(config.report)
    target = output_directory(config.output_dir, config.overwrite_output_dir, renewed=FILES)
    with new_or_renewed(target) as directory:
        write_report(report, directory)
    print_table(report)
    sys.stdout.write(f"\nreport: {target.path / 'report.html'}\n")
    return 0
