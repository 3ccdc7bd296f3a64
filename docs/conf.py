"""How the documentation is built: ``python -m sphinx -W -n docs docs/_build``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import tables

project = "kling-async"
author = "The kling-async authors"
copyright = f"2026, {author}"
version = release = "0.1.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["substitution"]
myst_substitutions = {
    "commands": tables.commands(),
    "errors": tables.errors(),
    "retryable": tables.retryable(),
    "states": tables.states(),
    "providers": tables.providers(),
    "faults": tables.faults(),
    "fault_matrix": tables.fault_matrix(),
    "journal": tables.journal(),
}
html_theme = "furo"
html_title = "kling-async"
exclude_patterns = ["_build"]

default_role = "code"  # names in docstrings are read as code; the API is one page
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "inherited-members": False}
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_use_ivar = True

# Types in signatures that are documented elsewhere, or are aliases told in words.
nitpick_ignore_regex = [
    (r"py:(class|obj|exc)", r"(?!kling_async\.[A-Z]).*"),
]
