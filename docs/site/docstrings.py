"""poolkit's docstrings as Markdown for mkdocstrings: formulas as MathML, roles as links.

Griffe reads sources. Docstrings that are filled in when their module runs, as those of
poolkit.functional are, come from the module itself.
"""

import inspect
import re
import sys
import textwrap
from typing import Any

import griffe
from latex2mathml.converter import convert


def to_markdown(docstring: str) -> str:
    """Sphinx's ``.. math::`` and roles, and our names of sections, as mkdocstrings takes them."""
    text = re.sub(r"^\.\. math::(.*(?:\n[ \t]+\S.*)*)", _formula, docstring, flags=re.MULTILINE)
    text = re.sub(r":(?:func|class|meth|mod|data):`~?(poolkit[\w.]*)`", _link, text)
    text = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", text)
    # Sections that the parser of Google's style does not know; of "Examples" it knows the plural.
    text = re.sub(
        r"^(Shapes|Dtypes|State dict):\n((?:    .*\n?)+)", _section, text, flags=re.MULTILINE
    )
    return re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)


def _section(found: re.Match[str]) -> str:
    return f"**{found[1]}:** {textwrap.dedent(found[2])}"


def _formula(found: re.Match[str]) -> str:
    latex = " ".join(textwrap.dedent(found[1]).split())
    return convert(latex, display="block")


def _link(found: re.Match[str]) -> str:
    path = found[1]
    return f"[`{path.rpartition('.')[2]}`][{path}]"


class Docstrings(griffe.Extension):
    """Takes the docstring that the object has at run time, where its module has been imported."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Replace the docstring of one function or class."""
        if not (obj.is_function or obj.is_class):
            return
        found: Any = sys.modules.get(obj.module.path)
        for name in obj.path.removeprefix(obj.module.path).strip(".").split("."):
            found = getattr(found, name, None)
        if not (text := getattr(found, "__doc__", None)):
            return
        text = inspect.cleandoc(text)
        if obj.module.path.startswith("poolkit.nn.") and hasattr(found, "_function"):
            # The rest is the docstring of the function, to which the first line leads.
            text = "\n\n".join(text.split("\n\n")[:2])
        text = to_markdown(text)
        if obj.docstring:
            obj.docstring.value = text
        else:
            obj.docstring = griffe.Docstring(text, parent=obj, parser="google")
