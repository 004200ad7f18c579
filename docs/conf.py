"""Sphinx settings: Markdown pages, equations from the docstrings."""

import recur

project = "recur"
author = "the recur developers"
release = version = recur.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
default_role = "code"
html_theme = "furo"
html_title = "recur"
exclude_patterns = ["_build"]
# what a command prints is no shell: h' is a state after the step
suppress_warnings = ["misc.highlighting_failure"]
