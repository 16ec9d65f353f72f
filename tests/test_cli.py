"""The command line: what it prints and writes, and how it refuses bad input."""

import os
import re
import struct
import subprocess
import sys
import zlib

import pytest
import torch

pytest.importorskip("click")

import numpy as np
from PIL import Image

import poolkit
import poolkit.functional as F
from poolkit import cli, imaging

EXAMPLE = [[1, 3, 2, 1], [5, 6, 7, 8], [4, 2, 1, 3], [10, 14, 12, 16]]


@pytest.fixture
def example(tmp_path):
    """The 4 x 4 example of the text as a grey PNG."""
    path = tmp_path / "example.png"
    Image.fromarray(np.array(EXAMPLE, np.uint8)).save(path)
    return path


@pytest.fixture
def run(capsys):
    """Run a command in this process; gives (exit status, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return exit_.value.code, output.out, output.err

    return call


def refused(result):
    """The sentence of a refusal, after checking that it is one line and nothing else."""
    status, out, err = result
    assert (status, out) == (2, "")
    assert err.startswith("poolkit: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).tolist()


def folder(path):
    """Everything in a folder, hidden files too: name to content."""
    return {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.is_file()}


# ---- poolkit pool -------------------------------------------------------------------------------


def test_pool_prints_the_example(run, example, tmp_path):
    out = tmp_path / "out.png"
    status, printed, err = run("pool", example, "--out", out)
    assert (status, err) == (0, "")
    assert " 6  8\n14 16" in printed
    assert "4 x 4 -> 2 x 2" in printed
    assert pixels(out) == [[6, 8], [14, 16]]


def test_pool_average(run, example, tmp_path):
    _, printed, _ = run("pool", example, "--op", "avg", "--out", tmp_path / "out.png")
    assert "3.75  4.5\n 7.5    8" in printed


def test_pool_lp_scales_its_picture(run, tmp_path):
    """A flat picture stays flat and as bright, while the printed norm is the norm."""
    path, out = tmp_path / "flat.png", tmp_path / "out.png"
    Image.new("L", (4, 4), 100).save(path)
    _, printed, _ = run("pool", path, "--op", "lp", "--out", out)
    assert "200 200" in printed
    assert pixels(out) == [[100, 100], [100, 100]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--kernel 3 --stride 1", {"kernel_size": 3, "stride": 1}),
        ("--kernel 3,2 --padding 1", {"kernel_size": (3, 2), "padding": 1}),
        ("--kernel 2x1 --stride 2,1", {"kernel_size": (2, 1), "stride": (2, 1)}),
        ("--kernel 2 --dilation 2 --stride 1", {"kernel_size": 2, "dilation": 2, "stride": 1}),
        ("--kernel 3 --stride 2 --ceil", {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
        (
            "--kernel 3 --stride 2 --padding same",
            {"kernel_size": 3, "stride": 2, "padding": "same"},
        ),
    ],
)
def test_pool_passes_its_options_on(run, example, tmp_path, options, expected):
    out = tmp_path / "out.png"
    status, _, _ = run("pool", example, *options.split(), "--out", out)
    assert status == 0
    x = torch.tensor(EXAMPLE, dtype=torch.float32)[None, None]
    assert pixels(out) == F.max_pool2d(x, **expected)[0, 0].tolist()


def test_pool_larger_images_print_sizes_only(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 20), "red").save("photo.jpg")
    status, printed, _ = run("pool", "photo.jpg", "--kernel", "4")
    assert status == 0
    assert printed.splitlines() == ["max: 20 x 40 -> 5 x 10, 3 channels", "photo-max.png"]
    assert np.shape(pixels("photo-max.png")) == (5, 10, 3)


# ---- Kinds of images ----------------------------------------------------------------------------


def kinds(path):
    """One file of each kind that has tripped image readers, with the levels of its first pixel."""
    Image.new("L", (3, 2), 40).save(path / "grey.png")
    yield "grey.png", [40]
    Image.new("1", (3, 2), 1).save(path / "bilevel.png")
    yield "bilevel.png", [255]
    palette = Image.new("P", (3, 2))
    palette.putpalette([1, 2, 3])
    palette.save(path / "palette.png")
    yield "palette.png", [1, 2, 3]
    Image.new("RGBA", (3, 2), (9, 9, 9, 0)).save(path / "clear.png")
    yield "clear.png", [255, 255, 255]
    Image.new("LA", (3, 2), (9, 255)).save(path / "opaque.png")
    yield "opaque.png", [9, 9, 9]
    Image.fromarray(np.full((2, 3), 257 * 7, np.uint16)).save(path / "deep.png")
    yield "deep.png", [7]
    Image.new("CMYK", (3, 2), (0, 0, 0, 0)).save(path / "print.jpg")
    yield "print.jpg", [255, 255, 255]


def test_kinds_of_images(tmp_path):
    for name, levels in kinds(tmp_path):
        image = imaging.load_image(tmp_path / name)
        assert image.dtype == torch.float32, name
        assert image.shape == (1, len(levels), 2, 3), name
        assert image[0, :, 0, 0].tolist() == levels, name


def test_rotation_of_the_camera_is_applied(tmp_path):
    photo = Image.new("L", (3, 2))
    exif = photo.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    photo.save(tmp_path / "turned.jpg", exif=exif)
    assert imaging.load_image(tmp_path / "turned.jpg").shape == (1, 1, 3, 2)


def test_pictures_round_trip(tmp_path):
    image = torch.arange(24.0).reshape(1, 3, 2, 4)
    imaging.save_png(image, tmp_path / "x.png")
    assert torch.equal(imaging.load_image(tmp_path / "x.png"), image)


# ---- Bad input ----------------------------------------------------------------------------------


def bad_images(path):
    (path / "empty.png").touch()
    yield "empty.png", "empty"
    (path / "text.png").write_text("not an image")
    yield "text.png", "not a PNG or JPEG"
    yield "missing.png", "no such file"
    (path / "folder.png").mkdir()
    yield "folder.png", "folder"
    Image.effect_noise((64, 64), 50).save(path / "whole.png")
    whole = (path / "whole.png").read_bytes()
    (path / "cut.png").write_bytes(whole[: len(whole) // 2])
    yield "cut.png", "truncated"
    Image.new("L", (8, 8)).save(path / "other.gif")
    yield "other.gif", "not a PNG or JPEG"
    # The header of a huge image with little behind it: refused before it is decoded.
    for name, width in (("large.png", 20_000), ("huge.png", 200_000)):
        header = b"IHDR" + struct.pack(">II", width, 10_000) + whole[24:29]
        (path / name).write_bytes(
            whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]
        )
        yield name, "more than 100,000,000 pixels"


@pytest.mark.parametrize("command", ["pool", "demo"])
def test_bad_images(run, tmp_path, command):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name, reason in bad_images(inputs):
        out = tmp_path / "out"
        given = ["demo", "--image"] if command == "demo" else ["pool"]
        sentence = refused(run(*given, inputs / name, "--out", out))
        assert reason in sentence.lower() or reason in sentence, sentence
        assert name in sentence
        assert not out.exists()
        assert {entry.name for entry in tmp_path.iterdir()} == {"inputs"}


@pytest.mark.parametrize(
    ("arguments", "mention"),
    [
        ("--op median", "median"),
        ("--kernel 0", "kernel_size"),
        ("--kernel -2", "kernel_size"),
        ("--kernel two", "two"),
        ("--kernel 2,2,2", "2,2,2"),
        ("--kernel 2.5", "2.5"),
        ("--kernel 9", "max_pool2d"),
        ("--stride 0", "stride"),
        ("--dilation 0", "dilation"),
        ("--padding -1", "padding"),
        ("--padding sam", "sam"),
        ("--kernel 2 --padding 7", "max_pool2d"),  # a window without a real cell
        ("--frobnicate 3", "frobnicate"),
        ("extra", "extra"),
    ],
)
def test_bad_arguments(run, example, tmp_path, arguments, mention):
    before = folder(tmp_path)
    command = ["pool", example, *arguments.split(), "--out", tmp_path / "out.png"]
    assert mention in refused(run(*command))
    assert folder(tmp_path) == before


@pytest.mark.parametrize("arguments", ["poll", "demo --lang fr", "pool", "config now"])
def test_unknown_words(run, arguments):
    refused(run(*arguments.split()))


def test_unwritable_output(run, example, tmp_path):
    before = folder(tmp_path)
    inside_a_file = example / "out.png"
    refused(run("pool", example, "--out", inside_a_file))
    refused(run("pool", example, "--out", tmp_path))  # a folder
    nowhere = tmp_path / "none" / "out.png"
    assert f"{nowhere}: " in refused(run("pool", example, "--out", nowhere))
    refused(run("demo", "--out", inside_a_file))
    refused(run("demo", "--out", example))
    assert folder(tmp_path) == before


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_folder_without_permission(run, example, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    refused(run("pool", example, "--out", locked / "out.png"))
    refused(run("demo", "--out", locked))
    assert not list(locked.iterdir())


def test_a_failed_write_keeps_the_old_file(run, example, tmp_path, monkeypatch):
    out = tmp_path / "out.png"
    out.write_bytes(b"old")

    def full(self, target, *_):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(Image.Image, "save", full)
    refused(run("pool", example, "--out", out))
    assert out.read_bytes() == b"old"
    assert set(folder(tmp_path)) == {"example.png", "out.png"}


# ---- poolkit demo -------------------------------------------------------------------------------


def test_demo_lists_its_sections(run, tmp_path, monkeypatch):
    from poolkit.demo.sections import BUILDERS

    monkeypatch.chdir(tmp_path)
    for language, title in (("en", "Max and average pooling"), ("ko", "왜 Pooling인가: 연산량")):
        status, printed, err = run("demo", "--list", "--lang", language)
        assert (status, err) == (0, "")
        lines = printed.splitlines()
        assert [line.split()[0] for line in lines] == list(BUILDERS)
        assert any(line.endswith(f"  {title}") for line in lines)
    assert not list(tmp_path.iterdir())


def test_demo_of_chosen_sections(run, tmp_path):
    """In the order of the lesson, each once, and links to the others are no links."""
    chosen = ["--section", "adaptive", "--section", "cost", "--section", "cost"]
    status, printed, _ = run("demo", *chosen, "--out", tmp_path)
    assert status == 0
    assert printed.splitlines()[-1] == str(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert re.findall(r'<section id="([\w-]+)"', text) == ["cost", "adaptive"]
    assert set(re.findall(r'href="#([\w-]+)"', text)) <= {"cost", "adaptive"}
    assert "Max and average pooling</li>" in text or "Why pool: moves</li>" in text


@pytest.mark.parametrize("arguments", ["--section", "--section cost --section"])
def test_demo_unknown_section(run, tmp_path, arguments):
    from poolkit.demo.sections import BUILDERS

    sentence = refused(run("demo", *arguments.split(), "costs", "--out", tmp_path / "out"))
    assert "'costs'" in sentence
    assert ", ".join(BUILDERS) in sentence
    assert not list(tmp_path.iterdir())


# ---- The rest -----------------------------------------------------------------------------------


def test_config(run):
    status, printed, _ = run("config")
    assert status == 0
    assert printed.strip() == str(poolkit.show_config())


def test_version(run):
    status, printed, _ = run("--version")
    assert status == 0
    assert poolkit.show_config().version in printed


def test_module_runs_as_a_command():
    result = subprocess.run(
        [sys.executable, "-P", "-m", "poolkit", "pool", "missing.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused((result.returncode, result.stdout, result.stderr))


@pytest.mark.parametrize("missing", ["click", "PIL", "matplotlib"])
def test_missing_tools(missing):
    """Without the extra `tools`, one sentence says what to install."""
    code = f"""
import sys
sys.modules[{missing!r}] = None
from poolkit.cli import main
main(["demo", "--out", {os.devnull!r}])
"""
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    sentence = refused((result.returncode, result.stdout, result.stderr))
    assert missing in sentence
    assert "pip install poolkit[tools]" in sentence
