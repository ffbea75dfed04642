"""Sphinx configuration."""

import logging
import os
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for the extensions of this folder

import tables  # noqa: E402 - found by the line above
from api_pages import REPOSITORY, linkcode_resolve  # noqa: E402, F401 - as above; Sphinx calls the second

project = "autobackbone"
author = "The autobackbone developers"
copyright = f"2026, {author}"
version = release = installed("autobackbone")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.linkcode",
    "sphinx.ext.napoleon",
    "notfound.extension",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_sitemap",
    "sphinxext.opengraph",
    "api_pages",
    "catalog_page.build",
    "outputs",
]
exclude_patterns = ["_build", "catalog_page/node_modules"]
templates_path = ["_templates"]

myst_enable_extensions = ["colon_fence", "substitution"]
myst_heading_anchors = 3
myst_substitutions = tables.ALL

default_role = "py:obj"  # in docstrings: a link where there is something of that name
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
napoleon_google_docstring = False
napoleon_use_ivar = True

intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "torch": ("https://docs.pytorch.org/docs/stable", None),
    "torchvision": ("https://docs.pytorch.org/vision/stable", None),
    "numpy": ("https://numpy.org/doc/stable", None),
    "pyarrow": ("https://arrow.apache.org/docs", None),
    "transformers": ("https://huggingface.co/docs/transformers/main/en", None),
}
intersphinx_timeout = 5

html_theme = "furo"
html_title = f"autobackbone {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
}
html_baseurl = os.environ.get("DOCS_URL", "https://autobackbone.github.io/autobackbone/")
sitemap_url_scheme = "{link}"
sitemap_show_lastmod = False
sitemap_excludes = ["search.html", "genindex.html", "py-modindex.html", "404.html"]
notfound_urls_prefix = urlsplit(html_baseurl).path  # it is shown at any address
ogp_site_url = html_baseurl
ogp_site_name = "autobackbone"
ogp_image = "https://raw.githubusercontent.com/autobackbone/autobackbone/main/docs/images/features.png"
ogp_image_alt = "A photograph, and beside it the maps of five backbones at strides 4 to 32, of untrained weights"
ogp_social_cards = {"enable": False}  # drawn with matplotlib for each page, they take longer than the rest
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_copy_empty_lines = False
copybutton_selector = "div[class*=highlight-]:not(.output) > div.highlight > pre"  # not what was printed


class _Offline(logging.Filter):
    """Lets a build without network pass: types of other libraries are then shown without links."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "failed to reach any of the inventories" not in str(record.msg)


logging.getLogger("sphinx.sphinx.ext.intersphinx").addFilter(_Offline())


def setup(app: Sphinx) -> None:
    """Have pages completed before they are written."""
    app.connect("html-page-context", _complete_for_screen_readers, priority=900)  # after furo has made the sidebar


def _complete_for_screen_readers(
    app: Sphinx,  # noqa: ARG001
    name: str,  # noqa: ARG001
    template: str,  # noqa: ARG001
    context: dict[str, Any],
    doctree: object,  # noqa: ARG001
) -> None:
    """Say the level of the sidebar's headings, and that the parameters of a signature are no list of definitions."""
    tree, body = context.get("furo_navigation_tree", ""), context.get("body", "")
    context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')
    body = body.replace('<dd><em class="sig-param">', '<dd role="none"><em class="sig-param">')
    context["body"] = body.replace('<dl>\n<dd role="none">', '<dl role="none">\n<dd role="none">')
