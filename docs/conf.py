"""How Sphinx builds the documentation (`make docs`). Nothing is fetched while it is built or read."""  # noqa: INP001

from airflow_provider_hailuo import __version__

project = "airflow-provider-hailuo"
release = __version__
html_title = f"{project} {release}"
html_theme = "furo"
html_copy_source = False
html_show_copyright = False

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

default_role = "literal"  # single backticks in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True

# Only what is documented here can be a target: Python's and Airflow's own documentation would have to be fetched.
nitpick_ignore_regex = [("py:.*", "(?!airflow_provider_hailuo).*")]
