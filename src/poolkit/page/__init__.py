"""What every HTML page of poolkit shares: its colours, its style sheet, and how it is rendered."""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

__all__ = ["environment"]


def environment(package: str) -> Environment:
    """Templates of ``package`` beside the shared ones; what they are given is escaped."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("poolkit.page")]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
