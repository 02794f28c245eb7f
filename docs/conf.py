"""How Sphinx builds the documentation (`make docs`). Nothing is fetched while it is built or read."""  # noqa: INP001

from typing import Any

from sphinx.application import Sphinx

from airflow_provider_hailuo import __version__

project = "airflow-provider-hailuo"
release = __version__
html_title = f"{project} {release}"
html_theme = "furo"
pygments_dark_style = "github-dark"  # the theme's own underlines modules
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_copyright = False
smartquotes = False

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

default_role = "literal"  # single backticks in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

# Only what is documented here can be a target: Python's and Airflow's own documentation would have to be fetched.
nitpick_ignore_regex = [("py:.*", "(?!airflow_provider_hailuo).*")]


def without_types_of_models(app: Sphinx, *_: Any) -> None:
    """Leave out the types of pydantic's fields, which are validators for the most part."""
    types = app.env.current_document.autodoc_annotations
    for name in [name for name in types if ".apiframe.models." in name]:
        del types[name]


def without_signatures_of_exceptions(_: Sphinx, what: str, *more: Any) -> tuple[str, str] | None:
    """Leave out what exceptions are made with, which is the same for nearly all of them."""
    *_, signature, _ = more
    return ("", "") if what == "exception" and signature else None


def setup(app: Sphinx) -> None:
    """Shorten what autodoc tells: of the types before it adds them to descriptions."""
    app.connect("autodoc-process-signature", without_signatures_of_exceptions)
    app.connect("object-description-transform", without_types_of_models, priority=0)
