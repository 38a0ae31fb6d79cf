"""Data sets made from scikit-learn's digits: fixed splits, and canvases that do not depend on workers."""

import numpy as np
import pytest
from torch.utils.data import DataLoader

from vanilla_transformer.corpora.digits import DigitCanvases, load_digits


def test_the_split_of_the_digits_is_always_the_same():
    splits = load_digits()
    assert [len(splits[name]) for name in ("train", "validation")] == [1438, 359]
    assert len({image.tobytes() for rows in splits.values() for image in rows["image"]}) == 1797
    assert np.bincount(splits["validation"]["label"]).min() >= 34
    again = load_digits()["validation"]
    assert again["label"][:] == splits["validation"]["label"][:]


def test_a_canvas_is_a_function_of_seed_split_epoch_and_index():
    def pixels(split="train", seed=0, epoch=0, index=0):
        canvases = DigitCanvases(split, 10, seed)
        canvases.set_epoch(epoch)
        return np.asarray(canvases[index][0])

    assert (pixels() == pixels()).all()
    for change in ({"split": "test"}, {"seed": 1}, {"epoch": 1}, {"index": 1}):
        assert (pixels() != pixels(**change)).any()


@pytest.mark.parametrize("workers", [0, 2])
def test_persistent_workers_draw_new_canvases_in_every_epoch(workers):
    canvases = DigitCanvases("train", 4)
    loader = DataLoader(
        canvases, batch_size=1, num_workers=workers, collate_fn=list, persistent_workers=workers > 0
    )
    epochs = []
    for epoch in range(2):
        canvases.set_epoch(epoch)
        epochs.append([image.tobytes() for ((image, _),) in loader])
        assert epochs[-1] == [canvases[index][0].tobytes() for index in range(4)]
    assert not set(epochs[0]) & set(epochs[1])


def test_digits_lie_in_their_boxes_and_each_in_one_split():
    splits = {name: DigitCanvases(name, 40) for name in ("train", "validation", "test")}
    counts = {name: len(split.digits) for name, split in splits.items()}
    assert counts == {"train": 1397, "validation": 200, "test": 200}
    for index in range(40):
        image, annotation = splits["validation"][index]
        assert image.size == (96, 96) and 1 <= len(annotation["annotations"]) <= 6
        assert annotation == splits["validation"].annotations[index]
        ink = np.asarray(image, dtype=float).mean(-1)
        for item in annotation["annotations"]:
            left, top, width, height = item["bbox"]
            assert left >= 0 and top >= 0 and left + width <= 96 and top + height <= 96
            inside = ink[top : top + height, left : left + width]
            assert inside.max() > ink.min() + 30
