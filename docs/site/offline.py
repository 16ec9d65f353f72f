"""Does a page load anything from another machine?"""

import re

# Relations of a <link> that make a browser fetch its address.
_LOADED = "stylesheet|icon|preload|modulepreload|prefetch|preconnect|manifest"

FETCHES = re.compile(
    rf"""<(?:script|img|source|iframe|audio|video|embed)\b[^>]*\b(?:src|srcset)\s*=\s*["']?\s*
        (?:https?:)?//[^"'\s>]+
      | <link\b(?=[^>]*\brel\s*=\s*["']?[^"'>]*(?:{_LOADED}))[^>]*\bhref\s*=\s*["']?
        (?:https?:)?//[^"'\s>]+
      | @import\s+(?:url\()?\s*["']?(?:https?:)?//[^"')\s]+
      | url\(\s*["']?(?:https?:)?//[^"')\s]+""",
    re.VERBOSE | re.IGNORECASE,
)


def fetches(text: str) -> list[str]:
    """The parts of an HTML page or a style sheet that do; links to follow are none."""
    return [found[0] for found in FETCHES.finditer(text)]
