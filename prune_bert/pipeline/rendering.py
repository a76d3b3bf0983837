"""``report``: a finished run's ``report.json``, rendered again."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from prune_bert.checkpoint.staging import check_output_dir
from prune_bert.config import ReportConfig
from prune_bert.report import print_table, read_report, write_report


def run_report(config: ReportConfig, argv: Sequence[str]) -> int:
    """Run the ``report`` verb; ``overwrite_output_dir`` renews the files of an existing directory in place."""
    report = read_report(config.report)
    directory = check_output_dir(config.output_dir, config.overwrite_output_dir)
    write_report(report, directory)
    print_table(report)
    sys.stdout.write(f"\nreport: {directory / 'report.html'}\n")
    return 0
