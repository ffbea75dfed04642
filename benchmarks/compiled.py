"""Backbones optimized and compiled for inference, against the libraries' own models, as in ``inference.py``.

Apart from it, because torch.compile takes a minute or more for each.

    python benchmarks/compiled.py [--device cuda]
"""

import inference
import models
from results import options, reporting


def main() -> None:
    """Measure, print, and write."""
    parser = options(__doc__, "cpu", "cuda")
    parser.add_argument("--blocks", type=int, default=7, help="pairs of measurements of each variant")
    parser.add_argument("--only", nargs="+", choices=models.ALL, default=models.ALL, help="architectures")
    parser.add_argument("--batches", nargs="+", type=int, default=[4], help="numbers of images")
    args = parser.parse_args()
    if args.quick:
        args.blocks = 2
    with reporting("compiled", args) as report:
        inference.measure(report, args.only, args.batches, args.blocks, inference.compiled)


if __name__ == "__main__":
    main()
