"""Settings of the site: sphinx-build -W docs build/site"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import refoptim  # noqa: E402

if find_spec("refoptim.conformance") is None:
    refoptim.__path__.append(str(HERE.parent))

project = "refoptim"
author = "the authors of refoptim"
copyright = author  # noqa: A001
version = release = refoptim.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",
    "formula",
    "differences",
    "docstrings",
    "generate",
]
exclude_patterns = ["examples"]
nitpicky = True
nitpick_ignore_regex = [("py:exc", "(.*, )?[A-Z][A-Za-z]*Error.*")]
"""Python's own exceptions: their pages are elsewhere, and a build needs no network."""

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"
napoleon_use_ivar = True
autodoc_member_order = "bysource"
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = "refoptim"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "header_links_before_dropdown": 4,
    "navbar_end": ["theme-switcher"],
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
    "show_toc_level": 2,
}
