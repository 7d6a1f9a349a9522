"""Batches through two steps: on a CPU here, where nothing really overlaps but all else happens."""

import numpy as np
import pytest
import torch
from synthetic import T16

from perception_search.encoder import PerceptionEncoder
from perception_search.encoder.overlap import encode_overlapped

NAME = T16.name
CPU = torch.device("cpu")


class Sums:
    """A computation whose embeddings can be told: sum and first pixel of a frame."""

    def __init__(self):
        self.shapes = []

    def __call__(self, pixels):
        self.shapes.append(tuple(pixels.shape))
        return torch.stack([pixels.flatten(1).sum(1), pixels[:, 0, 0, 0]], dim=1).float()


def expected(batch):
    frames = [[float(frame.astype(np.int64).sum()), float(frame[0, 0, 0])] for frame in batch]
    return np.array(frames, np.float32).reshape(len(batch), 2)


def batches_of(*lengths, side=8, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (length, 3, side, side), np.uint8) for length in lengths]


def overlapped(compute, batches, batch_size=4):
    return encode_overlapped(compute, batches, device=CPU, batch_size=batch_size, dim=2)


def assert_same(embeddings, batches):
    for got, batch in zip(embeddings, batches, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected(batch))


def test_batches_of_any_length_come_in_order():
    batches = batches_of(4, 1, 0, 0, 11, 2, 4, 3, 0, 9)
    assert_same(overlapped(Sums(), batches), batches)
    assert_same(overlapped(Sums(), batches_of(0, 0)), batches_of(0, 0))
    assert list(overlapped(Sums(), [])) == []


def test_every_step_but_the_last_is_full():
    compute = Sums()
    list(overlapped(compute, batches_of(4, 1, 0, 11, 2, 4, 3)))
    assert [shape[0] for shape in compute.shapes] == [4, 4, 4, 4, 4, 4, 1]


def test_frames_of_another_size_get_steps_of_their_own():
    batches = [*batches_of(3, 5), *batches_of(6, 1, side=4), *batches_of(2)]
    compute = Sums()
    assert_same(overlapped(compute, batches), batches)
    assert all(shape[2:] in ((8, 8), (4, 4)) for shape in compute.shapes)


def test_embeddings_given_earlier_are_not_written_over():
    batches = batches_of(4, 4, 4, 4, 4)
    given = [(each, each.copy()) for each in overlapped(Sums(), batches)]
    for embeddings, as_it_was in given:
        np.testing.assert_array_equal(embeddings, as_it_was)


def test_none_asks_for_what_is_on_its_way():
    batches = batches_of(4, 1, 2)
    given = []

    def asking():
        for batch in batches:
            yield batch
            yield None
            assert len(given) == 1, "the batch is there before the next is asked for"
            given.clear()

    for number, embeddings in enumerate(overlapped(Sums(), asking())):
        np.testing.assert_array_equal(embeddings, expected(batches[number]))
        given.append(embeddings)
    assert number == 2


def test_no_more_than_two_steps_and_a_batch_are_taken_ahead():
    num_taken, most = 0, 0

    def counted():
        nonlocal num_taken
        for batch in batches_of(*[4] * 20):
            num_taken += 1
            yield batch

    for num_given, _ in enumerate(overlapped(Sums(), counted())):
        most = max(most, num_taken - num_given)
    assert most == 3


def test_an_error_comes_out_and_ends_it():
    def failing(pixels):
        raise RuntimeError("out of memory")

    stream = overlapped(failing, batches_of(4, 4))
    with pytest.raises(RuntimeError, match="out of memory"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)


def test_an_error_among_the_batches_comes_out():
    def broken():
        yield from batches_of(4, 4, 4)
        raise OSError("the disk is gone")

    stream = overlapped(Sums(), broken())
    with pytest.raises(OSError, match="the disk is gone"):
        list(stream)


def test_it_can_be_closed_at_any_time():
    for num_taken in range(4):
        stream = overlapped(Sums(), batches_of(4, 4, 4, 4, 4))
        for _ in range(num_taken):
            next(stream)
        stream.close()
        assert list(stream) == []


def test_other_arrays_than_frames_are_refused():
    with pytest.raises(ValueError, match=r"pixels are float32 .*; must be uint8 \(N, 3, H, W\)"):
        list(overlapped(Sums(), [np.zeros((4, 3, 8, 8), np.float32)]))


def test_read_only_and_strided_frames_are_taken():
    batch = batches_of(5)[0][:, :, ::-1]
    batch.flags.writeable = False
    assert_same(overlapped(Sums(), [batch]), [batch])


@pytest.fixture(scope="module")
def frames():
    return batches_of(2, 0, 3, 1, side=64)


def test_an_encoder_gives_what_it_gives_batch_by_batch(t16_files, frames):
    encoder = PerceptionEncoder(
        NAME, weights=t16_files["safetensors"], device="cpu", dtype="float32", batch_size=4
    )
    streamed = list(encoder.encode_overlapped(frames))
    for got, batch in zip(streamed, frames, strict=True):
        np.testing.assert_allclose(got, encoder.encode_frames(batch), rtol=0, atol=1e-5)
    assert not torch.is_inference_mode_enabled()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_a_gpu_gives_what_a_cpu_gives(t16_files, frames, how):
    options = {"weights": t16_files["safetensors"], "batch_size": 4}
    exact = PerceptionEncoder(NAME, device="cpu", dtype="float32", **options)
    encoder = PerceptionEncoder(NAME, device="cuda", compile=how == "compiled", **options)
    many = frames * 10
    for got, batch in zip(encoder.encode_stream(many), many, strict=True):
        wanted = exact.encode_frames(batch)
        cosines = (got * wanted).sum(1) / np.linalg.norm(got, axis=1)
        assert (cosines / np.linalg.norm(wanted, axis=1) > 0.999).all()
