"""axe-core, which the tests of the documentation's pages look for mistakes in accessibility with."""

import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


class AxeError(RuntimeError):
    """axe-core cannot be installed."""


def script(folder: Path = HERE) -> str:
    """Return axe-core's script, after having it installed if it is not, or not as the lock says."""
    lock, installed = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < lock.stat().st_mtime:
        npm = shutil.which("npm")
        if npm is None:
            msg = "The tests of accessibility need npm, which is not on the PATH; install Node.js 20 or later."
            raise AxeError(msg)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            reason = " ".join(re.findall(r"^npm (?:error|ERR!) +(\S.*)", done.stderr, flags=re.MULTILINE)[:4])
            msg = f"`npm ci` cannot install axe-core in {str(folder)!r}: {reason}"
            raise AxeError(msg)
    return (installed.parent / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def violations(page) -> list[tuple[str, list[str]]]:
    """Return the rules of WCAG 2.2 AA that a page breaks, with the elements that do; the script must be there."""
    broken = page.evaluate("(tags) => axe.run({ runOnly: { type: 'tag', values: tags } })", list(RULES))["violations"]
    return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in broken]
