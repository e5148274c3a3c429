"""Edit with the model at its published size in little memory, and write what that took.

`make proof-full` runs it on the CPU, `make proof-full PROOF="--device cuda"` on a GPU. It needs up to 52 GB of disk,
and root for the control group that enforces the limit on the CPU. The next run continues one that was interrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scripts.proof.plan import CHECKPOINTS, ENGINES, Settings, prove
from scripts.proof.report import write_report

LIMITS_GB = {"cpu": [8.0], "cuda": [8.0, 12.0, 16.0, 24.0, 80.0]}


def main() -> None:
    """Run the proof and write its tables."""
    parser = argparse.ArgumentParser(prog="python -m scripts.proof", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("build/proof"), help="where checkpoints are written"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"), help="where the report goes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limits", type=float, nargs="+", help="memory of each edit in GB")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0: its default")
    parser.add_argument("--timeout", type=float, default=60, help="minutes of each edit")
    parser.add_argument(
        "--checkpoints",
        nargs="+",
        choices=CHECKPOINTS,
        default=CHECKPOINTS,
        help="what is edited from, in order",
    )
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    arguments = parser.parse_args()
    kind = arguments.device.partition(":")[0]
    arguments.output.mkdir(parents=True, exist_ok=True)  # hours of edits end with a report there
    results = prove(
        Settings(
            folder=arguments.folder,
            device=arguments.device,
            limits_bytes=tuple(round(gb * 1e9) for gb in arguments.limits or LIMITS_GB[kind]),
            threads=arguments.threads,
            timeout_s=60 * arguments.timeout,
            checkpoints=tuple(arguments.checkpoints),
            engines=tuple(arguments.engines),
        )
    )
    print(write_report(results, arguments.output / f"full-size-{kind}"))


if __name__ == "__main__":
    main()
