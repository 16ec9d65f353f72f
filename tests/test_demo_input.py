"""What users give to `poolkit demo` and `poolkit pool`: odd images and odd folders."""

import contextlib
import io
import re
import struct
import zlib

import pytest
import torch

pytest.importorskip("matplotlib")

import numpy as np
from PIL import Image

from poolkit import cli, demo, imaging
from poolkit.demo import report
from poolkit.demo.sections import BUILDERS

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 40
# The sections that show the photograph.
PICTURED = [
    slug for slug in ("moves", "max-and-average", "global-average", "adaptive") if slug in BUILDERS
]


def png(path, bits, colour, samples, transparent=b""):
    """A PNG as the standard has it, for kinds that Pillow reads but does not write."""

    def chunk(name, content):
        length, check = len(content), zlib.crc32(name + content)
        return struct.pack(">I", length) + name + content + struct.pack(">I", check)

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
        + (chunk(b"tRNS", transparent) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def deep(*shape):
    return np.random.default_rng(0).integers(0, 2**16, (SIDE, SIDE, *shape)).astype(">u2")


def odd_images(path):
    """Every kind that must work: file name, and what its levels must be (None: anything)."""
    colour = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    photo = Image.fromarray(colour)
    photo.convert("L").save(path / "grey.png")
    yield "grey.png", np.asarray(photo.convert("L"))
    photo.convert("1").save(path / "bilevel.png")
    yield "bilevel.png", np.asarray(photo.convert("1")) * 255.0
    photo.quantize(16).save(path / "palette.png")
    yield "palette.png", np.asarray(photo.quantize(16).convert("RGB"))
    photo.quantize(16).save(path / "clear-palette.png", transparency=0)
    yield "clear-palette.png", None
    clear = np.dstack([colour, np.zeros((SIDE, SIDE), np.uint8)])
    Image.fromarray(clear).save(path / "clear.png")
    yield "clear.png", np.full((SIDE, SIDE, 3), 255)
    half = np.dstack([colour, np.full((SIDE, SIDE), 51, np.uint8)])  # a fifth of it, on white
    Image.fromarray(half).save(path / "glass.png")
    yield "glass.png", np.round(colour * 0.2 + 255 * 0.8)
    levels = deep()
    png(path / "deep.png", 16, 0, levels)
    yield "deep.png", levels.astype(np.float32) / 257
    png(path / "deep-clear.png", 16, 0, np.full_like(levels, 1000), struct.pack(">H", 1000))
    yield "deep-clear.png", np.full((SIDE, SIDE), 255)
    png(path / "deep-clear-elsewhere.png", 16, 0, levels, struct.pack(">H", int(levels[3, 5])))
    shown = levels.astype(np.float32) / 257
    yield "deep-clear-elsewhere.png", np.where(levels == levels[3, 5], 255, shown)
    levels = deep(3)
    png(path / "deep-colour.png", 16, 2, levels)
    yield "deep-colour.png", levels >> 8
    levels = deep(4)
    levels[..., 3] = 65535
    png(path / "deep-opaque.png", 16, 6, levels)
    yield "deep-opaque.png", levels[..., :3] >> 8
    Image.new("CMYK", (SIDE, SIDE), (0, 0, 0, 0)).save(path / "print.jpg")
    yield "print.jpg", np.full((SIDE, SIDE, 3), 255)
    photo.save(path / "camera.jpg", exif=b"Exif\0\0II*\0" + b"\xff" * 20)  # damaged metadata
    yield "camera.jpg", None
    photo.save(path / "film.png", save_all=True, append_images=[Image.new("RGB", (SIDE, SIDE))])
    yield "film.png", colour


def run(*arguments):
    """Exit status, stdout and stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as exit_,
    ):
        cli.main([str(argument) for argument in arguments])
    return exit_.value.code, out.getvalue(), err.getvalue()


def refused(*arguments):
    status, printed, sentence = run(*arguments)
    assert (status, printed) == (2, "")
    assert sentence.startswith("poolkit: ")
    assert sentence.count("\n") == 1
    return sentence


# ---- Images -------------------------------------------------------------------------------------


def test_odd_images_are_read_as_they_look(tmp_path):
    for name, levels in odd_images(tmp_path):
        image = imaging.load_image(tmp_path / name)
        assert image.dtype == torch.float32, name
        assert image.shape[-2:] == (SIDE, SIDE), name
        assert image.min() >= 0, name
        assert image.max() <= 255, name
        if levels is not None:
            shown = image[0].permute(1, 2, 0).squeeze(-1).numpy()
            assert np.abs(shown - levels).max() <= (1 if name == "glass.png" else 1e-4), name


@pytest.mark.parametrize("orientation", range(10))
def test_rotated_by_the_camera(tmp_path, orientation):
    """The eight rotations and reflections of EXIF, undone pixel by pixel; 0 and 9 mean nothing."""
    upright = np.zeros((2 * SIDE, SIDE), np.uint8)
    upright[:SIDE, : SIDE // 2] = 240  # bright top left, which tells all eight apart
    upright[:SIDE, SIDE // 2 :] = 160
    turns = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.T,
        6: np.rot90,
        7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(turns.get(orientation, turns[1])(upright)))
    exif = stored.getexif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    image = imaging.load_image(tmp_path / "turned.jpg")[0, 0].numpy()
    assert image.shape == upright.shape
    assert np.abs(image - upright).mean() < 2


def test_demo_and_pool_of_odd_images(tmp_path):
    """All of them, through both commands; the demo in its quickest section with pictures."""
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name, _ in odd_images(inputs):
        out = tmp_path / name
        out.mkdir()
        status, _, err = run("pool", inputs / name, "--out", out / "small.png")
        assert (status, err) == (0, ""), name
        options = ("--section", "adaptive", "--out", out)
        status, _, err = run("demo", "--image", inputs / name, *options)
        assert (status, err) == (0, ""), name
        assert (out / "report.html").is_file()


@pytest.mark.parametrize("size", [(32, 32), (32, 500), (700, 40)])
@pytest.mark.parametrize("slug", PICTURED)
def test_every_section_of_small_and_long_pictures(slug, size):
    image = demo.fit(torch.rand(1, 1, *size) * 255, "x")
    section = BUILDERS[slug](report.Context(image, "x.png", quick=True))
    assert section.figures


@pytest.mark.parametrize("slug", PICTURED)
def test_every_section_of_a_flat_picture(slug):
    image = demo.fit(torch.full((1, 1, 64, 64), 255.0), "x")
    section = BUILDERS[slug](report.Context(image, "x.png", quick=True))
    for table in section.tables:
        cells = " ".join(cell for row in table.rows for cell in row)
        assert not re.search(r"\b(nan|inf)\b", cells), table.title


def test_tiny_pictures_are_refused(tmp_path):
    for size in ((1, 1), (1, 500), (31, 400)):
        Image.new("L", size).save(tmp_path / "tiny.png")
        sentence = refused("demo", "--image", tmp_path / "tiny.png", "--out", tmp_path / "out")
        assert f"{size[0]} x {size[1]} pixels" in sentence
        assert not (tmp_path / "out").exists()
    Image.new("L", (1, 500)).save(tmp_path / "tiny.png")
    assert "kernel_size 2" in refused("pool", tmp_path / "tiny.png", "--out", tmp_path / "x.png")


def test_damaged_pictures_are_refused(tmp_path):
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((200, 200), 50).save(whole)
    content = whole.read_bytes()
    for name, damaged in (("cut.jpg", content[: len(content) // 2]),
                          ("nul.png", b"\x89PNG\r\n\x1a\n" + bytes(100))):  # fmt: skip
        (tmp_path / name).write_bytes(damaged)
        for command in (("pool",), ("demo", "--image")):
            assert name in refused(*command, tmp_path / name, "--out", tmp_path / "out")
    assert {entry.name for entry in tmp_path.iterdir()} == {"whole.jpg", "cut.jpg", "nul.png"}


# ---- Folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["report.html", "cost-network.png"])
def test_a_folder_in_the_place_of_a_file(tmp_path, taken):
    """Nothing is replaced, and nothing new stays."""
    (tmp_path / "cost-network-dark.png").write_bytes(b"old")
    (tmp_path / taken).mkdir()
    sentence = refused("demo", "--section", "cost", "--out", tmp_path)
    assert sentence == f"poolkit: {tmp_path / taken}: Is a directory\n"
    assert {entry.name for entry in tmp_path.iterdir()} == {"cost-network-dark.png", taken}
    assert (tmp_path / "cost-network-dark.png").read_bytes() == b"old"


def test_a_folder_that_cannot_be_made(tmp_path):
    out = tmp_path / "new" / ("x" * 300)
    assert "File name too long" in refused("demo", "--section", "cost", "--out", out)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_files(tmp_path, monkeypatch):
    """The refusal names the user's folder, and comes before the work."""

    def refuse(**_):
        raise PermissionError(13, "Permission denied", "/hidden/name")

    monkeypatch.setattr(demo.tempfile, "TemporaryDirectory", refuse)
    monkeypatch.setattr(demo, "page", None)
    sentence = refused("demo", "--out", tmp_path / "out")
    assert sentence == f"poolkit: {tmp_path}: Permission denied\n"
