"""The page: every hit with its picture, nothing of a name or a query taken for HTML."""

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_search.errors import MediaError
from perception_search.hits import Hit
from perception_search.page import clock, render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

PICTURE = Hit(0, Path("/p/<b>&\udce9.jpg"), "image", 0.5)
VIDEO = Hit(1, Path("/p/clip.mp4"), "video", 0.25, 72.44, 78.0, 75.0)


def page(results, thumbnail=lambda *_: b"jpeg", **how):
    return render(results, title="t<", model="m", notice=None, thumbnail=thumbnail, **how)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "00:00:00.0"), (72.44, "00:01:12.4"), (59.96, "00:01:00.0"), (36000.04, "10:00:00.0")],
)
def test_times_are_read_by_people(seconds, shown):
    assert clock(seconds) == shown


def test_names_and_queries_are_escaped():
    text = page([("<script>", [PICTURE])])
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "<b>&" not in text
    assert "\\xe9.jpg" in text
    assert "<title>t&lt;</title>" in text


def test_a_video_shows_its_time_and_its_best_frame():
    asked = []

    def thumbnail(path, seconds, side):
        asked.append((path, seconds, side))
        return b"jpeg"

    text = page([("q", [VIDEO, PICTURE])], thumbnail)
    assert "▶ 00:01:12.4 – 00:01:18.0" in text
    assert asked[0] == (VIDEO.path, 75.0, 320)
    assert asked[1][1] == 0
    assert text.count("data:image/jpeg;base64,anBlZw==") == 2


def test_a_moment_has_a_strip_of_five_frames():
    asked = []

    def thumbnail(path, seconds, side):
        asked.append((seconds, side))
        return b"jpeg"

    text = page([("q", [VIDEO, PICTURE])], thumbnail, strips=True)
    assert text.count('<div class="strip">') == 1
    assert text.count("data:image/jpeg;base64,anBlZw==") == 1 + 5 + 1
    times = [seconds for seconds, side in asked if side == 160]
    assert times == pytest.approx([72.996, 74.108, 75.22, 76.332, 77.444])
    assert 'alt="clip.mp4 at 00:01:13.0"' in text


def test_a_file_that_is_gone_is_shown_without_its_picture():
    def gone(*_):
        raise MediaError("unreadable", "it is gone")

    text = page([("q", [VIDEO]), ("nothing", [])], gone)
    assert "it is gone" in text
    assert "Nothing found." in text


def test_right_answers_are_marked_where_they_are_known():
    text = page([("q", [VIDEO, PICTURE])], right=lambda query, path: path == VIDEO.path)
    assert text.count('class="frame right"') == 1


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: no browser to look with")
def test_a_browser_draws_every_picture(tmp_path):
    def thumbnail(*_):
        file = io.BytesIO()
        Image.new("RGB", (320, 240), (255, 0, 0)).save(file, "JPEG", quality=95)
        return file.getvalue()

    (tmp_path / "page.html").write_text(page([("q", [PICTURE, VIDEO])], thumbnail))
    for width in (1200, 380):  # a screen, a telephone
        shot = tmp_path / f"{width}.png"
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},900", f"--screenshot={shot}",
            (tmp_path / "page.html").as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
        red = (pixels[..., 0] > 240) & (pixels[..., 1:].max(-1) < 20)
        assert red.sum() > 2 * 120 * 90, "two thumbnails"
        assert not red[:, -8:].any(), "nothing hangs over the edge"
