#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.5.1"]
# ///
"""Sessions. ``nox`` runs the tests; ``nox -s families zoo lint types docs`` the rest of what CI runs."""

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests"]
PROJECT = nox.project.load_toml("pyproject.toml")


def _install(session: nox.Session, *groups: str, project: bool = True) -> None:
    """Install the project as users get it, as a built wheel, and dependency groups."""
    wanted = nox.project.dependency_groups(PROJECT, *groups)
    session.install(*(["."] if project else []), *wanted)


def _pytest(session: nox.Session, marks: str, *options: str, dist: str = "loadscope") -> None:
    """Run the tests of some marks, on two processes."""
    session.run("pytest", "-n", "2", "--dist", dist, "-m", marks, *options, *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite against the built wheel."""
    _install(session, "test")
    _pytest(session, "not zoo and not families and not ray")


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the test suite, and report the lines and branches that it does not reach."""
    _install(session, "test")
    _pytest(session, "not zoo and not families and not ray", "--cov", "--cov-report=term", "--cov-report=xml")


@nox.session
def families(session: nox.Session) -> None:
    """Run the tests of the contract on one architecture of every family."""
    _install(session, "test")
    _pytest(session, "families", dist="worksteal")


@nox.session
def ray(session: nox.Session) -> None:
    """Run extraction on Ray clusters of this machine, whose workers, nodes and drivers are killed."""
    session.install(".[ray]", *nox.project.dependency_groups(PROJECT, "test"))
    _pytest(session, "ray")


@nox.session
def cuda(session: nox.Session) -> None:
    """Run the tests that need a GPU."""
    _install(session, "test")
    session.run("pytest", "-m", "cuda", *session.posargs)


@nox.session
def zoo(session: nox.Session) -> None:
    """Check every architecture of timm's registry on the meta device, and measure the whole catalog anew."""
    _install(session, "test")
    _pytest(session, "zoo", "-q", dist="worksteal")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style."""
    _install(session, "lint", project=False)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, those of user code too."""
    _install(session, "types")
    session.run("mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Run what the documentation shows, build it with what came out, warnings being errors, and look at the pages."""
    _install(session, "docs")
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        session.run("playwright", "install", "chromium")
    built = [f"docs/test_{name}.py" for name in ("pages", "reference", "site")]
    others = sorted({path.as_posix() for path in Path("docs").glob("test_*.py")} - {*built})
    without_ray = ("--ignore-glob=*/integrations/ray*", "--ignore-glob=*/integrations/packing*")
    doctests = ("--doctest-modules", *without_ray, "--pyargs", "autobackbone")
    both = ("-n", "2", "--dist", "loadfile")
    # Keeps what snippets print and draw, for the pages.
    session.run("pytest", *both, *doctests, *others, *session.posargs)
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")
    session.run("pytest", *both, *built, *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure against raw timm, transformers and other libraries, and write the performance page."""
    _install(session, "bench")
    peers = nox.project.dependency_groups(PROJECT, "peers")
    session.install(*peers, success_codes=range(256))  # those that are not installed are rows that say so
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session(venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """Run the test suite on the oldest dependencies allowed."""
    groups = nox.project.dependency_groups(PROJECT, "test")
    session.install("--resolution", "lowest-direct", ".", *groups)
    _pytest(session, "not zoo and not families and not ray")


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and the source distribution, and check them."""
    session.install("build", "twine")
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", "dist/*", external=False)


if __name__ == "__main__":
    nox.main()
