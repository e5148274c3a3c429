"""The price table of docs/speed.md: what `joyimage eval speed` measures of the embedded checkpoint, and ST-LPIPS.

`python -m scripts.speed_table --num 8` prints it.
"""

from __future__ import annotations

import argparse
import sys

from joyimage.errors import InvalidInputError
from joyimage.evaluation.prices import measure_prices, to_price_table
from joyimage.evaluation.runner import check_amounts
from joyimage.loading import load_pipeline
from joyimage.tiny.suite import DrawnScenes
from scripts.st_lpips import MissingMetricError, load_st_lpips

BATCH_SIZE = 20


def main() -> int:
    """Measure and print the table; return the exit code, 2 where nothing can be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=200, help="scenes per row")
    parser.add_argument("--dtype", default="float32", help="of the model")
    options = parser.parse_args()
    try:
        check_amounts(DrawnScenes(), num=options.num, batch_size=BATCH_SIZE)
        distance = load_st_lpips()
    except (InvalidInputError, MissingMetricError) as error:
        print(error, file=sys.stderr)
        return 2
    pipe = load_pipeline("tiny", device="cpu", dtype=options.dtype).pipe
    suite = DrawnScenes(size=pipe.config["base_size"])
    prices = measure_prices(pipe, suite, num=options.num, batch_size=BATCH_SIZE, distance=distance)
    print(to_price_table(prices, num=options.num, rows=len(suite.tasks) + 1, distance_name="ST-LPIPS"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
