"""What each command of ``poolkit`` does: parse, call, print."""

import functools
import io
import math
import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import click
import torch

import poolkit
import poolkit.functional as F

from .audit.auditor import PARTS
from .audit.gate import KEYS, below, limit
from .errors import ArgumentError
from .imaging import check_writable, load_image, save_png, write_whole
from .surgery.policies import POLICIES
from .window import PADDING_NAMES

# Inputs up to this many rows and columns are printed as numbers.
PRINTED = 16


def _sizes(_: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """``3``, ``3,2`` or ``3x2``: one size for both axes, or height and width; or a word."""
    words = PADDING_NAMES if parameter.name == "padding" else ()
    if value is None or value in words:
        return value
    parts = value.replace("x", ",").split(",")
    try:
        sizes = tuple(int(part) for part in parts)
    except ValueError:
        sizes = ()
    if len(sizes) not in (1, 2):
        alternatives = "".join(f", {word}" for word in words)
        raise click.BadParameter(
            f"expected one or two whole numbers such as 2 or 3,2{alternatives}, got {value!r}"
        )
    return sizes[0] if len(sizes) == 1 else sizes


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="poolkit", prog_name="poolkit")
def cli() -> None:
    """Pooling and downsampling for PyTorch."""


@cli.command()
@click.option(
    "--image", type=click.Path(path_type=Path), help="A PNG or JPEG of yours. Default: a cat."
)
@click.option("--lang", type=click.Choice(["en", "ko"]), default="en", show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="The folder for report.html and its figures.",
)
@click.option(
    "--section", "sections", multiple=True, metavar="NAME", help="Only this one; repeatable."
)
@click.option("--list", "listing", is_flag=True, help="Name the sections, and do nothing else.")
def demo(
    image: Path | None, lang: str, out: Path, sections: tuple[str, ...], listing: bool
) -> None:
    """Show what pooling does, live, on a photograph and on this machine."""
    from .demo import run_demo
    from .demo.sections import titles

    language: Literal["en", "ko"] = "ko" if lang == "ko" else "en"
    if listing:
        named = titles(language)
        width = max(map(len, named))
        click.echo("\n".join(f"{slug:<{width}}  {title}" for slug, title in named.items()))
        return
    report = run_demo(image=image, lang=language, out=out, sections=sections)
    click.echo(f"{report}")


OPERATORS: dict[str, Callable[..., torch.Tensor]] = {
    "max": F.max_pool2d,
    "avg": F.avg_pool2d,
    "lp": functools.partial(F.lp_pool2d, norm_type=2.0),
}


@cli.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--op",
    type=click.Choice(list(OPERATORS)),
    default="max",
    show_default=True,
    help="The largest value, the mean, or the Euclidean norm of each window.",
)
@click.option("--kernel", callback=_sizes, metavar="N[,N]", default="2", show_default=True)
@click.option(
    "--stride", callback=_sizes, metavar="N[,N]", default=None, help="Default: the kernel."
)
@click.option("--padding", callback=_sizes, metavar="N[,N]|same", default="0", show_default=True)
@click.option("--dilation", callback=_sizes, metavar="N[,N]", default="1", show_default=True)
@click.option("--ceil", is_flag=True, help="Round the output size up.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="The PNG to write. Default: IMAGE-OP.png in the current folder.",
)
def pool(image: Path, op: str, ceil: bool, out: Path | None, **window: Any) -> None:
    """Pool one image, and write the result as a PNG.

    The arrays are printed if the image is 16 x 16 or smaller.
    """
    x = load_image(image)
    kernel = window.pop("kernel")
    y = OPERATORS[op](x, kernel_size=kernel, ceil_mode=ceil, **window)
    out = Path(f"{image.stem}-{op}.png") if out is None else out
    taps = kernel**2 if isinstance(kernel, int) else math.prod(kernel)
    # A norm adds up all cells of a window; the root mean square has the range of a picture.
    save_png(y / taps**0.5 if op == "lp" else y, out)
    height, width = x.shape[-2:]
    rows, columns = y.shape[-2:]
    click.echo(f"{op}: {height} x {width} -> {rows} x {columns}, {_channels(x)}")
    if max(height, width) <= PRINTED:
        click.echo(f"{_digits(x)}\n->\n{_digits(y)}")
    note = " (divided by the root of the window's size, to fit 0..255)" if op == "lp" else ""
    click.echo(f"{out}{note}")


def _channels(x: torch.Tensor) -> str:
    return "1 channel" if x.shape[1] == 1 else f"{x.shape[1]} channels"


def _digits(x: torch.Tensor) -> str:
    """The planes of ``x`` as aligned rows; channels under one another, an empty line between."""
    text = [[[f"{value:g}" for value in row] for row in plane] for plane in x[0].tolist()]
    width = max(len(cell) for plane in text for row in plane for cell in row)
    return "\n\n".join(
        "\n".join(" ".join(cell.rjust(width) for cell in row) for row in plane) for plane in text
    )


def _shape(_: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """``1x3x224x224``: the sizes of a tensor."""
    parts = value.replace(",", "x").split("x")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"expected sizes such as 1x3x224x224, got {value!r}")
    return tuple(int(part) for part in parts)


def _limits(
    _: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    try:
        return dict(limit(value) for value in values)
    except ArgumentError as error:
        raise click.BadParameter(str(error)) from None


_IMAGES = click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="A folder of PNG and JPEG files. Default: photographs that ship with scikit-image.",
)
_SKIP = click.option(
    "--skip", multiple=True, type=click.Choice(PARTS), help="What not to measure. Repeatable."
)
_SEED = click.option(
    "--seed", type=int, default=0, show_default=True, help="Of moves, and of random weights."
)


@cli.command()
@click.argument("model", metavar="MODEL")
@click.option("--input", "shape", callback=_shape, default="8x3x224x224", show_default=True)
@_IMAGES
@click.option("--weights", type=click.Path(path_type=Path), help="A state dict to load before.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with plots, too.")
@click.option("--json", type=click.Path(path_type=Path), help="Write all figures, too.")
@click.option(
    "--fail-under",
    "limits",
    multiple=True,
    callback=_limits,
    metavar="KEY=VALUE",
    help=f"Exit with 1 if a figure is less: {', '.join(KEYS)}. Repeatable.",
)
@_SKIP
@_SEED
def audit(
    model: str,
    shape: tuple[int, ...],
    images: Path | None,
    weights: Path | None,
    html: Path | None,
    json: Path | None,
    limits: dict[str, float],
    skip: tuple[str, ...],
    seed: int,
) -> int:
    """Measure what downsampling costs MODEL, and what it does to its answers.

    MODEL is package.module:factory, file.py:factory, an exported program (.pt2), a class of
    poolkit.models such as ResNet18, or a name of pytorchcv where that is installed.

    Exit status: 0, or 1 if a figure is below what --fail-under asks for, or was not measured.
    """
    for path in (html, json):
        if path is not None:
            check_writable(path)
    network = _network(model, weights, seed)
    report = poolkit.audit(network, shape, images, skip=skip, seed=seed, name=model)
    click.echo(f"{report}")
    # Both are made before either is written.
    pages = [(html, report.to_html() if html else ""), (json, report.to_json())]
    for path, text in pages:
        if path is not None:
            write_whole(path, functools.partial(_write, text))
            click.echo(f"{path}")
    failures = below(report, limits)
    for sentence in failures:
        click.echo(f"poolkit: audit: {sentence}", err=True)
    return 1 if failures else 0


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


@cli.command()
@click.argument("model", metavar="MODEL")
@click.option("--policy", type=click.Choice(list(POLICIES)), required=True)
@click.option("--input", "shape", callback=_shape, default="1x3x224x224", show_default=True)
@click.option("--weights", type=click.Path(path_type=Path), help="A state dict to load before.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="FILE.pt for the new state dict, FILE.pt2 for an exported program.",
)
@click.option("--include", multiple=True, metavar="NAME", help="Only these, such as layer4.*.")
@click.option("--exclude", multiple=True, metavar="NAME", help="All but these.")
@click.option("--blur", type=int, default=3, show_default=True, help="The size of the filter.")
@click.option(
    "--min-channels",
    type=int,
    default=16,
    show_default=True,
    help="Convolutions that read fewer are not antialiased.",
)
@_IMAGES
@_SKIP
@_SEED
def rewrite(
    model: str,
    policy: str,
    shape: tuple[int, ...],
    weights: Path | None,
    out: Path,
    images: Path | None,
    skip: tuple[str, ...],
    seed: int,
    **options: Any,
) -> int:
    """Put other modules in place of a network's downsampling, and write the result.

    Both networks are audited, and what has changed is printed.

    Exit status: 0, or 1 if there was nothing to replace; then nothing is written.
    """
    if out.suffix not in {".pt", ".pt2"}:
        raise ArgumentError(f"rewrite: --out must end in .pt or .pt2, got {out}")
    check_writable(out)
    network = _network(model, weights, seed)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    measure = functools.partial(poolkit.audit, network, shape, images, skip=skip, seed=seed)
    before = measure(name=model)
    report = poolkit.rewrite(network, policy, x, **options)
    click.echo(f"{report}")
    if not report:
        return 1
    click.echo(f"\n{before.compare(measure(name=f'{model}, {policy}'))}")
    if out.suffix == ".pt2":
        buffer = io.BytesIO()  # the exporter looks at the names of files
        torch.export.save(torch.export.export(network.eval(), (x,)), buffer)
        write_whole(out, lambda temporary: temporary.write_bytes(buffer.getvalue()))
    else:
        write_whole(out, lambda temporary: torch.save(network.state_dict(), temporary))
    click.echo(f"{out}")
    return 0


def _network(name: str, weights: Path | None, seed: int) -> torch.nn.Module:
    from .loading import load_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = load_model(name)
    if weights is not None:
        _load_weights(network, weights)
    return network


def _load_weights(network: torch.nn.Module, path: Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what a file that is none makes torch raise has no end
        raise ArgumentError(
            f"cannot load {path}: expected tensors by name, as torch.save(model.state_dict(), path)"
            f" writes them; whatever else it may hold is not unpickled ({type(error).__name__})"
        ) from error
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ArgumentError(f"cannot load {path}: {error}") from None


@cli.command(
    name="run",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("-m", "as_module", is_flag=True, help="SCRIPT is the name of a module.")
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run_command(script: str, arguments: tuple[str, ...], as_module: bool) -> int:
    """Run a script of yours with torch's pooling on poolkit's kernels, without touching it."""
    from .run import run_script

    return run_script(script, arguments, as_module)


@cli.command()
def config() -> None:
    """Say which kernels serve, and on what."""
    click.echo(poolkit.show_config())


@cli.command()
@click.option("--seconds", type=float, default=60, show_default=True, help="How long.")
@click.option("--seed", type=int, default=None, help="Of all that is random. Default: drawn.")
def selfcheck(seconds: float, seed: int | None) -> int:
    """Compare every operator with torch, on random input and on this machine.

    Exit status: 0 if all agree, 1 if a comparison failed, 130 after Ctrl-C, which ends it early.
    """
    from rich.console import Console
    from rich.progress import Progress

    seed = secrets.randbelow(2**32) if seed is None else seed
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True)
    task = bar.add_task("comparing with torch", total=seconds)
    with ExitStack() as stack:

        def progress(passed: float) -> None:
            if not passed:  # the arguments are good, and nothing has been run that could crash
                console.print(f"seed {seed}", highlight=False)
                stack.enter_context(bar)
            bar.update(task, completed=min(passed, seconds))

        result = poolkit.selfcheck(seconds, seed, progress=progress)
    click.echo(f"{result}")
    return result.exit_code


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    try:
        result = cli.main(args=arguments, prog_name="poolkit", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        # Click would print its usage text above the reason.
        raise UsageError(error.format_message()) from None
    except click.Abort:
        raise KeyboardInterrupt from None
    return result if isinstance(result, int) else 0


class UsageError(ArgumentError):
    """A command line that click refused."""
