import json
import random
from fractions import Fraction

import av
import data
import numpy as np
import pytest

from perception_search.cuts import GREY, MAX_CUTS, SIGNATURE_BYTES, SIGNATURE_SHAPE, CutFinder
from perception_search.decode_messages import MAX_HEADER_BYTES
from perception_search.decode_video import decode_video
from perception_search.frames import Frames, FrameSpec, Sampling
from perception_search.signatures import Signatures

HEIGHT, WIDTH = 90, 160
# Cuts inside the clips, by looking at them: seconds from their start.
INNER_CUTS = {
    "021_1.mp4": [5.52],
    "033_cooking.mp4": [0.2, 6.52],
    "137_bikes.mp4": [1.2, 3.04, 5.48, 7.48, 9.68],
    "143_12727.mp4": [0.88, 8.68, 11.28],
}


def scene(seed, width=WIDTH, height=HEIGHT):
    """A smooth picture (height, width, 3) of its own colours, as float."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / HEIGHT
    waves = rng.normal(size=(3, 6, 2)) * 6
    phases = rng.uniform(0, 6.3, (3, 6))
    parts = [
        np.sin(waves[c, k, 0] * x + waves[c, k, 1] * y + phases[c, k])
        for c in range(3)
        for k in range(6)
    ]
    base = rng.uniform(60, 190, 3)
    return base + 20 * np.array(parts).reshape(3, 6, height, width).sum(1).transpose(1, 2, 0)


def signature(picture):
    """What is sampled of a picture (H, W, 3), whose channels stand for brightness and colours."""
    height, width = SIGNATURE_SHAPE
    sampled = []
    for channel, part in enumerate((1, 2, 2)):
        rows = (np.arange(height // part) + 0.5) * picture.shape[0] / (height // part)
        columns = (np.arange(width // part) + 0.5) * picture.shape[1] / (width // part)
        sampled.append(picture[np.ix_(rows.astype(int), columns.astype(int))][..., channel].ravel())
    return np.clip(np.concatenate(sampled), 0, 255).astype(np.uint8)


def cuts_of(pictures, rate=25):
    """The numbers of the frames at which a shot begins."""
    finder = CutFinder()
    for number, picture in enumerate(pictures):
        finder.feed(signature(picture), number / rate)
    return [round(seconds * rate) for seconds in finder.times()]


def noisy(picture, num, seed=0):
    """So many frames of one scene, each with noise of its own."""
    rng = np.random.default_rng(seed)
    return [picture + rng.normal(0, 4, picture.shape) for _ in range(num)]


@pytest.mark.parametrize("first", [3, 5, 40, 60, 61, 62, 63, 64, 65, 66, 67, 100, 128, 197])
def test_a_cut_is_found_at_its_frame_wherever_it_is(first):
    assert cuts_of(noisy(scene(1), first) + noisy(scene(2), 200 - first)) == [first]


def test_many_shots_are_found_all():
    rng = random.Random(0)
    lengths = [rng.randrange(6, 60) for _ in range(40)]
    film = [frame for n, length in enumerate(lengths) for frame in noisy(scene(n), length, n)]
    assert cuts_of(film) == np.cumsum(lengths)[:-1].tolist()


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("colour", [0.0, 255.0])
def test_a_flash_is_no_cut(length, colour):
    flash = [np.full((HEIGHT, WIDTH, 3), colour)] * length
    film = noisy(scene(1), 50) + flash + noisy(scene(1), 50, 1)
    assert cuts_of(film) == []
    odd_picture = noisy(scene(1), 50) + noisy(scene(2), length) + noisy(scene(1), 50, 1)
    assert cuts_of(odd_picture) == []


@pytest.mark.parametrize("speed", [1, 3, 8, 16])
@pytest.mark.parametrize("seed", range(3))
def test_a_pan_is_no_cut(speed, seed):
    wide = scene(seed, width=WIDTH + speed * 150)
    assert cuts_of([wide[:, speed * t : speed * t + WIDTH] for t in range(150)]) == []
    # It starts and stops, as pans do.
    place = np.cumsum(speed * np.clip(8 * np.sin(np.arange(150) / 8), 0, 1)).astype(int)
    assert cuts_of([wide[:, p : p + WIDTH] for p in place]) == []


@pytest.mark.parametrize("shake", [2, 6, 12])
def test_camera_shake_is_no_cut(shake):
    rng = np.random.default_rng(shake)
    wide = scene(3, WIDTH + 2 * shake, HEIGHT + 2 * shake)
    places = rng.integers(0, 2 * shake + 1, (150, 2))
    assert cuts_of([wide[y : y + HEIGHT, x : x + WIDTH] for y, x in places]) == []


@pytest.mark.parametrize("every", [2, 3, 4])
def test_motion_that_is_shown_every_few_frames_is_no_cut(every):
    wide = scene(4, width=WIDTH + 500)
    film = [wide[:, 3 * (t // every * every) :][:, :WIDTH] for t in range(150)]
    assert cuts_of(film) == []


@pytest.mark.parametrize("length", [10, 25, 50])
def test_a_fade_or_dissolve_makes_one_boundary_at_most(length):
    one, other = scene(1), scene(2)
    for target in (other, np.zeros_like(one), np.full_like(one, 255)):
        mixed = [one + (target - one) * t / length for t in range(1, length)]
        assert len(cuts_of(noisy(one, 40) + mixed + noisy(target, 40, 1))) <= 1


@pytest.mark.parametrize("num_mixed", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_a_cut_with_mixed_frames_in_it_is_one_cut(num_mixed, seed):
    one, other = scene(seed), scene(seed + 100)
    mixed = [one + (other - one) * t / (num_mixed + 1) for t in range(1, num_mixed + 1)]
    (found,) = cuts_of(noisy(one, 40) + mixed + noisy(other, 40, 1))
    assert 40 <= found <= 40 + num_mixed


def test_a_shot_of_three_frames_between_others_is_one_cut():
    film = noisy(scene(1), 40) + noisy(scene(2), 3) + noisy(scene(3), 40)
    (found,) = cuts_of(film)
    assert found in (40, 43)


def test_no_frame_and_one_frame_have_no_cut():
    assert CutFinder().times() == ()
    assert cuts_of([scene(1)]) == []


def test_a_film_of_cuts_does_not_fill_memory():
    finder = CutFinder()
    signatures = [signature(scene(n)) for n in range(2)]
    for number in range(6 * (MAX_CUTS + 100)):
        finder.feed(signatures[number // 6 % 2], number / 25)
    assert len(finder.times()) == MAX_CUTS
    assert len(json.dumps([1e5 / 3] * MAX_CUTS)) < MAX_HEADER_BYTES // 2
    assert max(len(part) for part in vars(finder).values() if isinstance(part, np.ndarray)) < 200


PLANAR = ["yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuva420p", "yuv420p10le", "yuv444p12le"]
OTHERS = ["yuv420p16be", "nv12", "rgb24", "gbrp", "gray", "gray10le", "pal8"]


@pytest.mark.parametrize("layout", PLANAR + OTHERS)
@pytest.mark.parametrize("size", [(160, 90), (64, 36), (7, 5), (2, 2)])
def test_every_layout_of_pixels_gives_nearly_the_same_signature(layout, size):
    width, height = size
    picture = np.clip(scene(5, width, height), 0, 255).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    expected = signature(frame.reformat(format="yuv444p").to_ndarray().transpose(1, 2, 0))
    if layout == "pal8":
        assert Signatures().of(av.VideoFrame(width, height, layout)).shape == (SIGNATURE_BYTES,)
        return
    found = Signatures().of(frame.reformat(format=layout))
    assert (found.dtype, found.shape) == (np.uint8, (SIGNATURE_BYTES,))
    num_luma = SIGNATURE_SHAPE[0] * SIGNATURE_SHAPE[1]
    away = np.abs(found.astype(int) - expected)
    if min(size) > 20:
        assert away[:num_luma].mean() < (20 if layout in ("gray", "gray10le", "yuvj420p") else 8)
    if layout.startswith("gray"):
        assert (found[num_luma:] == GREY).all()
    elif min(size) > 20:
        assert away[num_luma:].mean() < 12


def film_of(clips, path, num_frames=150, size=(640, 360)):
    """The clips one after the other as 25 frames a second of H.264; the true cuts as frames."""
    width, height = size
    number = 0
    joins, inner = [], []
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"

        def put(frame):
            nonlocal number
            small = frame.reformat(width, height, "yuv420p", threads=1)
            small.pts, small.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(small))
            number += 1

        for clip in clips:
            first = number
            joins.append(first)
            with av.open(str(clip)) as container:
                begin = last = None
                for frame in container.decode(video=0):
                    begin = frame.time if begin is None else begin
                    while last is not None and first + (frame.time - begin) * 25 > number + 1e-3:
                        put(last)
                        if number - first == num_frames:
                            break
                    last = frame
                    if number - first == num_frames:
                        break
            inner += [first + round(25 * s) for s in INNER_CUTS.get(clip.name, [])]
            inner = [cut for cut in inner if cut < number]
        output.mux(stream.encode())
    return joins[1:], inner, number


def cuts_in(path):
    with path.open("rb", buffering=0) as file:
        steps = decode_video(
            file, "mov", FrameSpec(32, 32), Sampling(), max_pixels=10**7, num_threads=2
        )
        (summary,) = [s for s in steps if not isinstance(s, str | Frames)]
    return [round(seconds * 25) for seconds in summary.cuts]


def test_the_joins_of_twenty_real_videos_are_found(tmp_path, capsys):
    clips = sorted(c for c in data.folder("clips").iterdir() if c.suffix != ".json")
    random.Random(11).shuffle(clips)
    joins, inner, num_frames = film_of(clips[:20], tmp_path / "film.mp4")
    found = cuts_in(tmp_path / "film.mp4")

    def is_near(frame, frames):
        return any(abs(frame - other) <= 1 for other in frames)

    missed = [join for join in joins if not is_near(join, found)]
    false = [cut for cut in found if not is_near(cut, joins + inner)]
    minutes = num_frames / 25 / 60
    with capsys.disabled():
        print(
            f"\n{len(joins) - len(missed)} of {len(joins)} joins found, {len(inner)} cuts inside, "
            f"{len(false)} false cuts in {minutes:.1f} minutes"
        )
    assert len(missed) <= 0.05 * len(joins)
    assert len(false) <= 2 * minutes
