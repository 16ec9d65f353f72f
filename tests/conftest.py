"""Fixtures: torch's threads, of which each process has one number; interrupts; a browser."""

import functools
import importlib
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch


@pytest.fixture
def keep_threads():
    """For a test that sets the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def for_threads(keep_threads):
    """A function that collects what another gives on one, two and three threads."""

    def collect(f):
        results = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(f())
        return results

    return collect


@pytest.fixture
def benchmarks(monkeypatch):
    """Import a module of the benchmark, which is no part of the wheel."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def interruptible_children():
    """What a shell starts in the background is deaf to Ctrl-C, and so would its children be."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def one_thread():
    """Tiny tensors gain nothing from threads, and several test processes share the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Visit:
    """A page that is open, with everything that it complained about and asked for."""

    def __init__(self, browser, address, width, scheme):
        self.complaints, self.requests = [], []
        self.context = browser.new_context(
            viewport={"width": width, "height": 844}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


@pytest.fixture(scope="module")
def visit():
    """``visit(address, width, scheme)`` opens a page in Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    # A browser that is named must be there: `.ci/run` names the one that it has installed.
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium: `apt-get install chromium`, or set CHROMIUM to its path")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path)
        yield functools.partial(Visit, running)
        running.close()


@pytest.fixture(scope="session")
def audited():
    """An audit's report made by hand: branches, ``None`` in places, and markup in every name."""
    from dataclasses import replace

    from poolkit.audit import report as r

    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    interval = r.Interval(0.9, 0.7, 0.97, 32)
    conv = r.Stage(
        name=f"stem.{evil}",
        call=1,
        kind="strided conv",
        side=False,
        input_shape=(1, 3, 33, 32),
        output_shape=(1, 8, 16, 16),
        kernel=(3, 3),
        stride=(2, 2),
        padding=((0, 0), (1, 0)),
        dilation=(1, 1),
        ceil_mode=False,
        border=(r.Border(1, 0, 0, 2, 1), r.Border(0, 0, 1, 1, 0)),
        parameters=216,
        multiply_adds=55296,
        comparisons=0,
        additions=0,
        output_bytes=8192,
        saved_bytes=12288,
        saved_bytes_torch=12288,
        index_bytes=0,
        index_bytes_torch=0,
        field=(r.Field(3, 3, 2.0, 0.0, -0.5, True, 3),) * 2,
        effective_field=(3.0, 3.0),
        seconds=0.0002,
        seconds_torch=0.0002,
        aliasing=0.25,
        feature_shift=0.1,
    )
    pooled = replace(
        conv,
        name="pool",
        kind="max",
        input_shape=(1, 8, 16, 16),
        output_shape=(1, 8, 8, 8),
        padding=((0, 0), (0, 0)),
        border=(r.Border(0, 0, 0, 2, 0),) * 2,
        saved_bytes=512,
        saved_bytes_torch=12288,
        index_bytes=512,
        index_bytes_torch=4096,
        field=(r.Field(5, 5, 4.0, 0.0, -1.5, False, 5),) * 2,
    )
    beside = replace(pooled, name="shortcut.pool", kind="avg")
    squeezed = replace(
        conv,
        name="se.pool",
        call=2,
        kind="global avg",
        side=True,
        input_shape=(1, 8, 8, 8),
        output_shape=(1, 8, 1, 1),
        border=None,
        saved_bytes=0,
        saved_bytes_torch=0,
        field=(r.Field(None, None, 4.0, 14.0, -1.5, True, 5),) * 2,
        effective_field=None,
        seconds=None,
        seconds_torch=None,
        aliasing=None,
        feature_shift=None,
    )
    last = replace(squeezed, name="gap", call=1, side=False, field=None)
    return r.Report(
        model=f"Net {evil}",
        input_shape=(1, 3, 33, 32),
        machine={"processor": evil},
        stages=(conv, pooled, beside, squeezed, last),
        totals=r.Totals(
            1000, 60000, 2000, 500, 9000, 20000, 30000, 512, 4096, 0.004, 0.006, (5, 5), (4, 4)
        ),
        head=r.Head("gap", evil, (8, 8), 90, 0.09, 90, 80, True, (((48, 48), True),)),
        consistency=(
            r.Consistency("roll", interval, interval, 32, 4, 4.0, 0),
            r.Consistency("crop", None, interval, 32, 4, 4.0, 0),
        ),
        recommendations=(r.Recommendation(f"Do {evil}", f"model.{evil}", evil),),
        not_measured=(r.Unmeasured(evil, evil),),
    )
