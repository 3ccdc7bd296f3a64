"""How the documentation is built: ``python -m sphinx -W -n docs docs/_build``."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import diagram
import model_map
import tables

project = "kling-async"
author = "The kling-async authors"
copyright = f"2026, {author}"
version = release = "0.1.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["substitution"]
myst_heading_anchors = 3
myst_substitutions = {
    "codes": tables.codes(),
    "commands": tables.commands(),
    "errors": tables.errors(),
    "retryable": tables.retryable(),
    "states": tables.states(),
    "providers": tables.providers(),
    "faults": tables.faults(),
    "fault_matrix": tables.fault_matrix(),
    "journal": tables.journal(),
    "state_diagram": diagram.states(),
    "model_features": model_map.features(),
    "model_prices": model_map.prices(),
    "model_sources": model_map.sources(),
    "limits": model_map.limits(),
    "limits_source": model_map.limits_source(),
    "several": model_map.several(),
    "elsewhere": model_map.elsewhere(),
    "price_source": model_map.price_source(),
    "provider_rules": model_map.providers(),
}
html_theme = "furo"
html_title = "kling-async"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#0b6e66", "color-brand-content": "#0b6e66"},
    "dark_css_variables": {"color-brand-primary": "#4fd1c5", "color-brand-content": "#4fd1c5"},
}
exclude_patterns = ["_build"]

default_role = "code"  # names in docstrings are read as code; the API is one page
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True  # as they are written: what they are here is nobody's business
autodoc_default_options = {"members": True, "inherited-members": False}
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_use_ivar = True

# Types in signatures that are documented elsewhere, or are aliases told in words.
nitpick_ignore_regex = [
    (r"py:(class|obj|exc)", r"(?!kling_async\.[A-Z]).*"),
]


def setup(app: Any) -> None:
    """Put back what Sphinx reads of code that attrs wrote: there no default stands as its author wrote it."""
    app.connect("autodoc-before-process-signature", _unread, priority=600)  # after Sphinx's own, at 500


def _unread(app: object, obj: Any, bound_method: object) -> None:
    code = getattr(obj, "__code__", None)
    if code is not None and code.co_filename.startswith("<attrs generated"):
        vars(obj).pop("__signature__", None)
