"""What prune_bert claims of speed, measured on this machine: ratios from interleaved runs, as JSON.

python scripts/benchmark.py --output benchmark.json
python scripts/benchmark.py --only evaluation plans --model DIR --task sst2 --data_dir GLUE_DIR --output benchmark.json
python scripts/benchmark.py --only compensation --model DIR --task sst2 --data_dir GLUE_DIR --plans "ffn:3-5"
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


NAMES = ("surgery", "evaluation", "plans", "compensation")


def main() -> None:
    """Run the benchmarks asked for and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, help="default: the first three")
    parser.add_argument("--model", default="embedded", help="for evaluation and plans: a model directory")
    parser.add_argument("--task", default="reviews")
    parser.add_argument("--data_dir")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--plans", nargs="+", default=["attention:4 ffn:3-5"], help="for compensation")
    parser.add_argument("--samples", type=int, default=256, help="for compensation: rows to fit to")
    parser.add_argument("--longest", action="store_true", help="for compensation: from the longest rows of train")
    parser.add_argument("--forms", nargs="+", help="for compensation; default: all")
    parser.add_argument("--output", type=Path, help="default: standard output")
    arguments = parser.parse_args()

    import torch

    from prune_bert.profiling import environment

    device = "cuda" if torch.cuda.is_available() else "cpu"
    results = {"command": sys.argv, "environment": environment(device)}
    for name in arguments.only or NAMES[:3]:
        results[name] = measure(name, arguments)
    text = json.dumps(results, indent=2) + "\n"
    if arguments.output:
        arguments.output.write_text(text)
    else:
        sys.stdout.write(text)


def measure(name: str, arguments: argparse.Namespace) -> dict:
    """Run one benchmark."""
    if name == "surgery":
        from benchmarks import surgery

        return surgery.run(rounds=arguments.rounds)
    if name == "evaluation":
        from benchmarks import evaluation

        return evaluation.run(arguments.rounds, arguments.model, arguments.task, arguments.data_dir)
    if name == "compensation":
        from benchmarks import compensation

        return compensation.run(
            model_path=arguments.model,
            task=arguments.task,
            data_dir=arguments.data_dir,
            plans=arguments.plans,
            samples=arguments.samples,
            longest=arguments.longest,
            forms=arguments.forms,
        )
    from benchmarks import plans

    model = None if arguments.model == "embedded" else arguments.model
    return plans.run(model_path=model, data_dir=arguments.data_dir)


if __name__ == "__main__":
    main()
