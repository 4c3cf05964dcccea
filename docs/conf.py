"""Settings of the documentation's site: `sphinx-build -W docs docs/_build`."""

import importlib.metadata

project = "fednas_jax"
author = "The fednas_jax authors"
release = importlib.metadata.version("fednas-jax")

extensions = [
    "myst_nb",  # pages in Markdown, and the notebook
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.programoutput",  # what --help says, as it says it
]
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "furo"
html_show_copyright = False  # LICENSE has it
html_title = f"fednas_jax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]

# Docstrings are Google's form with single backticks around code.
default_role = "code"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True  # as they are written
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

# The notebook is run whenever the site is built; a cell that fails fails the build.
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
