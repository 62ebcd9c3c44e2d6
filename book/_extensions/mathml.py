"""Equations as MathML, which browsers draw themselves, so that a page needs no script from another site.

The conversion is docutils' own. A command that it does not know is a warning, and so stops `make book`.
"""

from __future__ import annotations

import html

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(to_mathml(node, block=False))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math-block">{to_mathml(node, block=True)}</div>\n')
    raise nodes.SkipNode


def to_mathml(node: nodes.Node, block: bool) -> str:
    tex = node.astext()
    try:
        return str(tex2mathml(tex, as_block=block))
    except MathError as error:
        logger.warning("equation not understood: %s (%s)", tex, error, location=node)
        return f"<code>{html.escape(tex)}</code>"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
