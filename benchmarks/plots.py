"""The plots of the performance page: SVG without background, in colors that are legible on light and on dark ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import matplotlib.lines
import matplotlib.patches
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results import Report
from timing import Spread

GRAY = "#808080"
COLORS = (
    "#d55e00",
    "#2f8fd0",
    "#009e73",
    "#c77ab0",
    "#b08d00",
    "#7a7ad8",
    "#5aa0a0",
    "#a0785a",
    "#909090",
    "#e06c75",
    "#3a7d44",
)
STYLE = {
    "axes.edgecolor": GRAY,
    "axes.labelcolor": GRAY,
    "axes.prop_cycle": mpl.cycler(color=COLORS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "legend.frameon": False,
    "legend.labelcolor": GRAY,
    "svg.fonttype": "none",
    "svg.hashsalt": "autobackbone",
    "text.color": GRAY,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
}


@contextmanager
def drawn(path: Path, digest: str, width: float, height: float) -> Iterator[Axes]:
    """Yield axes to draw on; then write them, the same bytes each time."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.add_subplot()
        metadata = {"Date": None, "Description": f"results {digest}"}
        figure.savefig(path, format="svg", transparent=True, metadata=metadata)


def bars(
    title: str, label: str, column: str, unit: str, *, inverse: bool = False
) -> Callable[[Report, Path, str], None]:
    """Return what draws a column of a table as bars, a group for each architecture.

    Of several batches, the largest is drawn. What others are relative to, is one line.
    """

    def draw(report: Report, path: Path, digest: str) -> None:
        table = next(table for table in report.tables if table.title.startswith(title))
        rows = [row for row in table.rows if isinstance(row[column], Spread) and row[column].low < row[column].high]
        batch = max((row.get("batch", 0) for row in rows), default=0)
        rows = [row for row in rows if row.get("batch", 0) == batch]
        groups = list(dict.fromkeys(str(row["architecture"]) for row in rows))
        labels = list(dict.fromkeys(str(row[label]) for row in rows))
        with drawn(path, digest, 8, 1 + 0.16 * len(rows)) as axes:
            start = 0.0
            ticks = []
            for group in groups:
                members = [row for row in rows if row["architecture"] == group]
                ticks.append(start + (len(members) - 1) / 2)
                for i, row in enumerate(members):
                    low, median, high = (getattr(row[column], name) for name in ("low", "median", "high"))
                    if inverse:
                        low, median, high = 1 / high, 1 / median, 1 / low
                    color = COLORS[labels.index(str(row[label])) % len(COLORS)]
                    spread = [[median - low], [high - median]]
                    axes.barh(start + i, median, color=color, xerr=spread, ecolor=GRAY, height=0.85)
                start += len(members) + 1
            axes.axvline(1, color=GRAY, linewidth=0.8, linestyle="--")
            axes.set_yticks(ticks, groups)
            axes.margins(y=0.01)
            axes.invert_yaxis()
            axes.set_xlabel(unit)
            handles = [mpl.patches.Patch(color=COLORS[i % len(COLORS)], label=name) for i, name in enumerate(labels)]
            axes.figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize="small")

    return draw


def roofline(report: Report, path: Path, digest: str) -> None:
    """Draw the roofs of the machine, and each backbone below them."""
    peaks = [row for row in report.find("Peaks").rows if row["threads"] == report.environment["threads"]]
    flops = {str(row["peak"]): row["figure"] for row in peaks}
    bandwidth = flops.pop("memory")
    rows = report.find("Backbones").rows
    intensities = [row["FLOP/byte"] for row in rows]
    span = [min(intensities) / 2, max(2 * max(intensities), 2 * max(flops.values()) / bandwidth)]
    with drawn(path, digest, 8, 6) as axes:
        for (dtype, peak), line in zip(flops.items(), ("-", "--"), strict=False):
            x = [span[0], peak / bandwidth, span[1]]
            y = [min(peak, bandwidth * each) for each in x]
            axes.plot(x, y, color=GRAY, linestyle=line, label=f"{dtype}: {peak:.0f} GFLOP/s, {bandwidth:.0f} GB/s")
        names = list(dict.fromkeys(str(row["architecture"]) for row in rows))
        markers = dict(zip(dict.fromkeys(str(row["model"]) for row in rows), "os^Dv", strict=False))
        for row in rows:
            color = COLORS[names.index(str(row["architecture"])) % len(COLORS)]
            axes.plot(row["FLOP/byte"], row["GFLOP/s"].median, markers[str(row["model"])], color=color)
        handles = [
            mpl.lines.Line2D([], [], color=COLORS[i % len(COLORS)], label=name, lw=4) for i, name in enumerate(names)
        ]
        handles += [mpl.lines.Line2D([], [], color=GRAY, marker=m, label=name, lw=0) for name, m in markers.items()]
        axes.set(xscale="log", yscale="log", xlabel="FLOP per byte, nothing fused", ylabel="GFLOP/s")
        axes.figure.legend(
            handles=[*axes.get_legend_handles_labels()[0], *handles],
            loc="outside lower center",
            ncols=3,
            fontsize="small",
        )


PLOTS: dict[str, Callable[[Report, Path, str], None]] = {
    "peers.cpu": bars(
        "Batches of", "library", "time, of raw", "times as fast as the library's own model", inverse=True
    ),
    "inference.cpu": bars("Variants", "variant", "times faster", "times as fast as the library's own model"),
    "roofline.cpu": roofline,
}
"""What is drawn of which results."""
