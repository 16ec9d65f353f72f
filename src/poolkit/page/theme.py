"""Colours of the page and of the figures, light and dark.

The hues are Okabe and Ito's, which stay apart under the common kinds of colour blindness; the light
theme uses their darker members so that thin lines keep their contrast on white.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """The colours of one scheme."""

    name: str
    page: str
    card: str
    ink: str
    muted: str
    line: str
    torch: str
    poolkit: str
    windows: tuple[str, str, str, str]
    tint: float  # how strongly a window's colour fills its cells
    scale: str  # matplotlib colour map of differences


LIGHT = Theme(
    name="light",
    page="#f4f5f7",
    card="#ffffff",
    ink="#1b2430",
    muted="#5d6876",
    line="#dde1e7",
    torch="#8a94a3",
    poolkit="#0072b2",
    windows=("#0072b2", "#c75300", "#007a59", "#a8467f"),
    tint=0.10,
    scale="cividis",
)
DARK = Theme(
    name="dark",
    page="#0e1217",
    card="#171d25",
    ink="#e7ecf2",
    muted="#9aa6b4",
    line="#2c3541",
    torch="#7d8896",
    poolkit="#56b4e9",
    windows=("#56b4e9", "#e69f00", "#2fc79a", "#dd8fbb"),
    tint=0.16,
    scale="cividis",
)
