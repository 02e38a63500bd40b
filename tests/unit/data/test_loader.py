"""What a step sees is a pure function of the step, whatever the number of processes, parts or threads."""

import time
from contextlib import closing
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from components.data.batch import CropBatch
from components.data.loader import CropLoader, MadeAhead
from components.data.masking import MaskParams, draw_masks
from components.data.order import visits
from components.data.views import ViewParams
from components.errors import UserError
from components.training.planning.memory import LOADED_BATCHES

IDS = [f"{n:02x}" * 32 for n in range(20)]
VIEWS = ViewParams(global_size=16, local_size=8, local_crops=2)


class Pictures:
    """Twenty PNGs of two sizes."""

    def __init__(self) -> None:
        self.reads = 0
        self.announced: list[str] = []

    def read(self, image_id: str) -> bytes:
        self.reads += 1
        rng = np.random.default_rng(int(image_id[:2], 16))
        size = (24, 24) if image_id < "0a" else (60, 160)
        return png(Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)))

    def prefetch(self, image_ids: list[str]) -> None:
        self.announced += image_ids


def png(image: Image.Image) -> bytes:
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def loader(**changes: object) -> CropLoader:
    arguments = {"views": VIEWS, "masks": MaskParams(), "global_batch": 8, "seed": 3, "workers": 0, "patch_size": 4}
    return CropLoader(Pictures(), IDS, **{**arguments, **changes})  # type: ignore[arg-type]


def views_of(crops: torch.Tensor, images: int) -> torch.Tensor:
    return crops.view(-1, images, *crops.shape[1:])


def test_shapes_and_masks() -> None:
    batch = loader().batch(0)
    assert [tuple(crops.shape) for crops in batch.crops] == [(16, 3, 16, 16), (16, 3, 8, 8)]
    assert batch.masks.shape == (16, 16)
    assert batch.positions.tolist() == list(range(8))
    assert len(batch) == len(set(batch.ids)) == 8


@pytest.mark.parametrize(("world", "micros"), [(2, 1), (4, 1), (1, 2), (2, 2)])
def test_F6_the_parts_of_a_step_are_the_step(world: int, micros: int) -> None:
    whole = loader().batch(5)
    parts = [
        loader(rank=rank, world_size=world).batch(5, micro=micro, micros=micros)
        for rank in range(world)
        for micro in range(micros)
    ]
    assert sum((part.ids for part in parts), ()) == whole.ids
    assert torch.equal(torch.cat([part.positions for part in parts]), whole.positions)
    for kind in (0, 1):
        joined = torch.cat([views_of(part.crops[kind], len(part)) for part in parts], dim=1)
        assert torch.equal(joined, views_of(whole.crops[kind], 8))
    masks = torch.cat([views_of(part.masks, len(part)) for part in parts], dim=1)
    assert torch.equal(masks, views_of(whole.masks, 8))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_iterating_gives_what_each_step_is(workers: int) -> None:
    reference = loader()
    seen = list(loader(workers=workers).iterate(2, 6))
    assert [batch.step for batch in seen] == [2, 3, 4, 5]
    for batch in seen:
        plain = reference.batch(batch.step)
        assert batch.ids == plain.ids
        assert all(torch.equal(a, b) for a, b in zip(batch.crops, plain.crops, strict=True))


def test_as_many_batches_exist_at_a_time_as_a_plan_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    ahead = loader(workers=1)
    monkeypatch.setattr(ahead, "batch", lambda step, **_: made.append(step))
    with closing(ahead.iterate(0, 100)) as batches:
        next(batches)
        give_up = time.monotonic() + 10
        while len(made) < LOADED_BATCHES and time.monotonic() < give_up:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(made) == LOADED_BATCHES


def test_leaving_an_iteration_early_ends_its_thread() -> None:
    import threading

    batches = loader(workers=1).iterate(0, 100)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "loader"]


def test_a_failing_reader_is_raised_where_the_batch_is_awaited() -> None:
    class Broken(Pictures):
        def read(self, image_id: str) -> bytes:
            raise OSError("gone")

    broken = CropLoader(Broken(), IDS, views=VIEWS, masks=MaskParams(), global_batch=4, seed=0, workers=1, patch_size=4)
    with pytest.raises(OSError, match="gone"):
        next(broken.iterate(0, 3))


def test_what_comes_next_is_announced_once_and_in_order_unless_it_is_decoded_already() -> None:
    pictures = Pictures()
    arguments = {"views": VIEWS, "masks": MaskParams(), "global_batch": 5, "seed": 0, "workers": 1, "patch_size": 4}
    seen = [batch.ids for batch in CropLoader(pictures, IDS, **arguments).iterate(0, 12)]  # type: ignore[arg-type]
    expected = []
    for number in range(1, 12):  # two batches ahead, when those before them have been decoded
        decoded = {one for ids in seen[: max(number - 2, 0)] for one in ids}
        expected += [one for one in seen[number] if one not in decoded]
    assert pictures.announced == expected
    assert 15 <= len(expected) < 30


def test_small_images_are_decoded_once() -> None:
    pictures = Pictures()
    cached = CropLoader(
        pictures, IDS, views=VIEWS, masks=MaskParams(), global_batch=10, seed=0, workers=0, patch_size=4
    )
    list(cached.iterate(0, 8))
    assert pictures.reads == len(IDS)


def test_without_room_in_memory_every_visit_decodes_and_nothing_else_changes() -> None:
    small, large = loader(cache_bytes=0).batch(4), loader().batch(4)
    assert all(torch.equal(a, b) for a, b in zip(small.crops, large.crops, strict=True))


def test_a_large_image_is_shrunk_once_to_what_its_crops_need() -> None:
    """The least local crop has 5 % of the area and 8 pixels a side: 36 pixels are enough, whatever the format."""

    class Large(Pictures):
        def __init__(self, shrunk: int) -> None:
            super().__init__()
            self.shrunk = shrunk

        def read(self, image_id: str) -> bytes:
            rng = np.random.default_rng(int(image_id[:2], 16))
            image = Image.fromarray(rng.integers(0, 256, (150, 400, 3), dtype=np.uint8))
            return png(image.reduce(self.shrunk) if self.shrunk > 1 else image)

    arguments = {"views": VIEWS, "masks": MaskParams(), "global_batch": 8, "seed": 3, "workers": 0, "patch_size": 4}
    as_is, shrunk, less = (CropLoader(Large(by), IDS, **arguments).batch(1) for by in (1, 4, 3))  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(as_is.crops, shrunk.crops, strict=True))
    assert not torch.equal(as_is.crops[0], less.crops[0])


def test_a_device_with_a_number_makes_the_same_crops() -> None:
    named, numbered = loader(device="cpu").batch(4), loader(device="cpu:0").batch(4)
    assert all(torch.equal(a, b) for a, b in zip(named.crops, numbered.crops, strict=True))


def test_a_gpu_is_named_by_its_number() -> None:
    """In the thread that makes batches ahead, plain `cuda` would be the first device, whichever process it is."""
    assert loader(device="cuda:1").device == torch.device("cuda:1")
    with pytest.raises(ValueError, match="without its number"):
        loader(device="cuda")


def test_a_batch_made_on_another_stream_is_waited_for_and_kept_until_it_has_been_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside a GPU; the stream, the event and the tensors on it are stand-ins."""
    seen: list[tuple[str, object]] = []

    class Stream:
        def wait_event(self, event: object) -> None:
            seen.append(("waited", event))

    class OnGpu:
        device = "cuda:0"

        def record_stream(self, stream: object) -> None:
            seen.append(("kept", self))

    crops, masks, here = [OnGpu(), OnGpu()], OnGpu(), Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: here)
    batch = CropBatch(crops, masks, ("a",), torch.arange(1), 0)  # type: ignore[arg-type]
    assert MadeAhead(batch, "event").received() is batch  # type: ignore[arg-type]
    assert seen[0] == ("waited", "event")
    assert {tensor for _, tensor in seen[1:]} == {*crops, masks}
    seen.clear()
    assert MadeAhead(batch, None).received() is batch
    assert not seen


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_made_ahead_of_a_busy_gpu_are_those_made_one_by_one() -> None:
    reference = [loader(device="cuda:0").batch(step) for step in range(4)]
    work = torch.zeros(4096, 4096, device="cuda")
    for plain, made in zip(reference, loader(device="cuda:0", workers=2).iterate(0, 4), strict=True):
        for _ in range(20):
            work = work @ work
        assert all(torch.equal(a, b) for a, b in zip(plain.crops, made.crops, strict=True))
        assert torch.equal(plain.masks, made.masks)


def test_each_epoch_holds_every_image_once_and_epochs_differ() -> None:
    first = [visit.place for visit in visits(0, 20, 0, 20)]
    second = [visit.place for visit in visits(0, 20, 20, 40)]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert {visit.epoch for visit in visits(0, 20, 15, 25)} == {0, 1}


def test_more_batch_than_images_is_refused_with_a_remedy() -> None:
    with pytest.raises(UserError, match="batch_size of at most 20"):
        loader(global_batch=32)


def test_masks_have_the_stated_share_of_crops_and_patches() -> None:
    shares = []
    for step in range(30):
        masks = draw_masks(MaskParams(), seed=0, step=step, crops=64, grid=14)
        counts = masks.sum(dim=1)
        assert (counts > 0).sum() == 32
        shares += (counts[counts > 0] / 196).tolist()
    assert min(shares) > 0.05
    assert max(shares) <= 0.5
    assert np.mean(shares) == pytest.approx(0.3, abs=0.03)


def test_masks_are_blocks_and_differ_from_step_to_step() -> None:
    first, second = (draw_masks(MaskParams(), seed=0, step=step, crops=32, grid=14) for step in (0, 1))
    assert not torch.equal(first, second)
    grid = first.view(-1, 14, 14)
    neighbours = (grid[:, 1:] & grid[:, :-1]).sum() / grid.sum()
    assert neighbours > 0.6


def test_the_masks_of_a_part_are_those_of_the_whole_and_only_they_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    from components.data import masking

    whole = draw_masks(MaskParams(), seed=1, step=7, crops=64, grid=14)
    filled, fill = [], masking._fill

    def counted(mask: np.ndarray, target: int, rng: np.random.Generator) -> None:
        filled.append(target)
        fill(mask, target, rng)

    monkeypatch.setattr(masking, "_fill", counted)
    rows = [5, 6, 7, 37, 38, 39]
    part = draw_masks(MaskParams(), seed=1, step=7, crops=64, grid=14, rows=rows)
    assert torch.equal(part, whole[rows])
    assert len(filled) == (whole[rows].sum(dim=1) > 0).sum() < len(rows)


def test_crops_that_share_step_or_row_have_masks_of_their_own() -> None:
    always = MaskParams(probability=1.0, ratio_min=0.3, ratio_max=0.3)
    drawn = [
        draw_masks(always, seed=seed, step=step, crops=16, grid=14, rows=[row])
        for seed in (0, 1)
        for step in (0, 1)
        for row in (0, 1)
    ]
    assert len({mask.numpy().tobytes() for mask in drawn}) == len(drawn)


@pytest.mark.parametrize("grid", [2, 4, 8])
def test_small_grids_never_mask_more_than_asked(grid: int) -> None:
    for step in range(20):
        masks = draw_masks(MaskParams(ratio_max=0.5), seed=0, step=step, crops=16, grid=grid)
        assert masks.sum(dim=1).max() <= grid * grid / 2
