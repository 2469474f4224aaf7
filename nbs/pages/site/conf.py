"Sphinx configuration of the site; `cvlab.docs.site` copies it to the generated sources."
import importlib.metadata
from pathlib import Path

from docutils.utils.math.latex2mathml import tex2mathml

from cvlab.docs.narrow import with_cards

project = "cvlab"
author = "The cvlab maintainers"
copyright = "The cvlab maintainers, Apache-2.0"
version = release = importlib.metadata.version("cvlab")
extensions = ["myst_nb", "sphinx_design", "sphinx_copybutton"]
exclude_patterns = ["_site", "_extra", *Path(__file__).with_name("_site").joinpath("no_pages.txt").read_text().split("\n")[:-1]]

# notebooks are shown with their stored outputs and not executed
nb_execution_mode = "off"
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)] # no external widget scripts
nb_number_source_lines = False
nb_render_markdown_format = "myst"
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "misc.highlighting_failure", "toc.not_included",
                     "myst.strikethrough", "config.cache"]

highlight_language = "text" # default for fences without a language
html_theme = "pydata_sphinx_theme"
html_title = "cvlab"
html_context = dict(default_mode="auto") # light or dark as set by the system
html_static_path = ["_site"]
html_extra_path = ["_extra"] # slides and animation, copied unchanged
html_css_files = ["cvlab.css"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_show_search_summary = False # summaries would be fetched, which does not work for pages opened from disk
html_sidebars = dict.fromkeys(("index", "claims", "gallery", "TRAINING_RESULTS", "troubleshooting"), [])
html_theme_options = dict(
    logo=dict(text="cvlab"), navbar_end=["theme-switcher"], secondary_sidebar_items=["page-toc"], show_prev_next=True,
    navigation_depth=3, show_nav_level=1, collapse_navigation=True, footer_start=["copyright"], footer_end=[], header_links_before_dropdown=7)


def _inline(self, node):
    self.body.append(_mathml(node, block=False))
    raise SkipNode


def _block(self, node):
    self.body.append(f'<div class="math">{_mathml(node, block=True)}</div>')
    raise SkipNode


def _mathml(node, block):
    "Formulas as MathML, which browsers render without external scripts."
    return tex2mathml(node.astext(), as_block=block)


from docutils.nodes import SkipNode  # noqa: E402


def _cards(app, pagename, templatename, context, doctree):
    if "body" in context:
        context["body"] = with_cards(context["body"])


def setup(app):
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("html-page-context", _cards)


html_math_renderer = "mathml"
