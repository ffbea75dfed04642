"""Sphinx configuration."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for the extensions that are here

project = "autobackbone"
author = "The autobackbone developers"
copyright = f"2026, {author}"
version = release = installed("autobackbone")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "catalog_page.build", "outputs"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "catalog_page/node_modules"]
html_theme = "furo"
html_title = f"autobackbone {version}"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False
napoleon_use_ivar = True
default_role = "literal"
