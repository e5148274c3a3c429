"""The price table of docs/speed.md: what `joyimage eval speed` measures of the embedded checkpoint, and ST-LPIPS.

`python -m scripts.speed_table --num 8` prints it.
"""

from __future__ import annotations

import argparse

from joyimage.evaluation.prices import measure_prices, to_price_table
from joyimage.loading import load_pipeline
from joyimage.tiny.suite import DrawnScenes
from scripts.st_lpips import load_st_lpips


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=200, help="scenes per row")
    parser.add_argument("--dtype", default="float32", help="of the model")
    options = parser.parse_args()
    distance = load_st_lpips()
    pipe = load_pipeline("tiny", device="cpu", dtype=options.dtype).pipe
    suite = DrawnScenes(size=pipe.config["base_size"])
    prices = measure_prices(pipe, suite, num=options.num, distance=distance)
    print(to_price_table(prices, num=options.num, rows=len(suite.tasks) + 1, distance_name="ST-LPIPS"))


if __name__ == "__main__":
    main()
