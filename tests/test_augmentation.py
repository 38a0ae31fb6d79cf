"""Augmentation is a function of (seed, epoch, index), and boxes move with their image."""

import numpy as np
import pytest
import torch
from PIL import Image

from vanilla_transformer.tasks.augmentation import (
    RAND_AUGMENT,
    Augmentation,
    AugmentationArguments,
    Mix,
    MixArguments,
    affine,
    crop,
    erase,
    flip,
    flip_vertical,
    random_part,
    recolor,
    rotation,
    shift,
    visible,
)
from vanilla_transformer.tasks.settings import InputError

EVERYTHING = {
    "flip": 0.5,
    "shift": 0.1,
    "rotate": 10,
    "crop": 0.5,
    "color": 0.3,
    "rand_augment": 2,
    "erase": 0.5,
}
SHAPES = ("rotate", "shear_x", "shear_y", "shift_x", "shift_y")


def noise(width: int = 40, height: int = 30) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def scene(left: int, top: int, width: int, height: int) -> tuple[Image.Image, np.ndarray]:
    """Return a white rectangle on black, and the box around it with class 3."""
    pixels = np.zeros((60, 80, 3), dtype=np.uint8)
    pixels[top : top + height, left : left + width] = 255
    return Image.fromarray(pixels), np.array([[left, top, width, height, 3]], dtype=np.float32)


def box_around_white(image: Image.Image) -> list[int]:
    rows, columns = np.nonzero(np.asarray(image)[..., 0] > 127)
    left, top = columns.min(), rows.min()
    return [left, top, columns.max() + 1 - left, rows.max() + 1 - top]


CHANGES = {
    "flip": flip,
    "flip vertical": flip_vertical,
    "shift": lambda image, boxes: shift(image, boxes, 7, -5),
    "crop": lambda image, boxes: crop(image, boxes, 10, 5, 60, 50),
    **{
        f"{name} {strength}": (
            lambda image, boxes, name=name, strength=strength: RAND_AUGMENT[name](image, boxes, strength)
        )
        for name in SHAPES
        for strength in (-0.5, 0.5)
    },
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_boxes_move_with_the_image(change):
    image, boxes = scene(30, 20, 16, 12)
    changed, moved = change(image, boxes)
    assert moved[0, :4] == pytest.approx(
        box_around_white(changed), abs=1.6
    )  # the edges of a rotated rectangle are grey
    assert moved[0, 4] == 3
    assert boxes.tolist() == [[30, 20, 16, 12, 3]]  # the argument is not changed


def test_boxes_at_the_border_are_clipped_or_dropped():
    image, boxes = scene(0, 0, 20, 10)
    changed, moved = shift(image, boxes, -8, 0)
    assert moved.tolist() == [[0, 0, 12, 10, 3]]
    assert shift(image, boxes, -18, 0)[1].shape == (0, 5)
    several = np.array([[0, 0, 8, 8, 1], [30, 30, 8, 8, 2], [100, 0, 8, 8, 3]], dtype=np.float32)
    assert visible(several, 60, 60)[:, 4].tolist() == [1, 2]


def test_flipping_twice_restores_the_image():
    boxes = np.array([[1.0, 2, 3, 4], [10, 20, 30, 10]])
    for change in (flip, flip_vertical):
        twice, same = change(*change(noise(), boxes))
        assert np.array_equal(np.asarray(twice), np.asarray(noise()))
        assert np.allclose(same, boxes)


def test_rotation_is_clockwise():
    square = noise(20, 20)
    turned, _ = affine(square, None, rotation(90))
    exact = np.rot90(np.asarray(square), -1).astype(int)
    assert np.abs(np.asarray(turned) - exact).max() <= 1  # Pillow rounds


def test_a_shift_repeats_the_border():
    pixels = np.asarray(noise())
    shifted = np.asarray(shift(noise(), None, 3, -2)[0])
    assert np.array_equal(shifted[:-2, 3:], pixels[2:, :-3])
    assert (shifted[:-2, :3] == pixels[2:, :1]).all()


def test_changes_of_no_strength_change_nothing():
    image, boxes = scene(30, 20, 16, 12)
    for changed, moved in (
        shift(image, boxes, 0, 0),
        affine(image, boxes, rotation(0)),
        (recolor(image, 1, 1, 1), boxes),
        Augmentation(AugmentationArguments(), seed=0)(image, 0, 0, boxes),
        *(RAND_AUGMENT[name](image, boxes, 0.0) for name in ("solarize", "posterize", "color", *SHAPES)),
    ):
        assert np.abs(np.asarray(changed).astype(int) - np.asarray(image)).max() <= 1
        assert np.allclose(moved, boxes)


@pytest.mark.parametrize("name", RAND_AUGMENT)
def test_every_change_of_rand_augment_keeps_the_size(name):
    image = noise()
    changed = [np.asarray(RAND_AUGMENT[name](image, None, strength)[0]) for strength in (-1.0, -0.4, 1.0)]
    assert all(pixels.shape == (30, 40, 3) and pixels.dtype == np.uint8 for pixels in changed)
    unchanged = np.array_equal(changed[0], np.asarray(image))
    assert unchanged == (name in ("identity", "auto_contrast"))  # noise has full contrast already


def test_the_same_seed_epoch_and_index_give_the_same_image():
    change = Augmentation(AugmentationArguments(**EVERYTHING), seed=1)
    image, boxes = noise(), np.array([[10.0, 10, 15, 15]])

    def pixels(change, epoch, index):
        changed, moved = change(image, epoch, index, boxes)
        return np.asarray(changed).tobytes(), moved.tobytes()

    first = pixels(change, 2, 3)
    np.random.default_rng().random()  # other random numbers do not matter
    pixels(change, 0, 0)
    assert pixels(change, 2, 3) == first
    assert pixels(Augmentation(AugmentationArguments(**EVERYTHING), seed=1), 2, 3) == first
    others = [pixels(change, 3, 3), pixels(change, 3, 2), pixels(change, 2, 4)]
    others.append(pixels(Augmentation(change.settings, 2), 2, 3))
    assert len({first, *others}) == 5


def test_flip_is_a_probability():
    image, flipped = noise(), np.asarray(flip(noise())[0])
    change = Augmentation(AugmentationArguments(flip=0.3), seed=0)
    share = np.mean([np.array_equal(np.asarray(change(image, 0, n)[0]), flipped) for n in range(500)])
    assert 0.2 < share < 0.4


def test_random_parts_have_the_given_share_of_the_area():
    random = np.random.default_rng(0)
    for _ in range(100):
        left, top, width, height = random_part((200, 100), 0.3, random, most=0.5)
        assert 0 <= left <= 200 - width and 0 <= top <= 100 - height
        assert 0.28 < width * height / 20000 < 0.52


def test_erase_changes_only_its_rectangle():
    image = noise()
    erased = np.asarray(erase(image, 5, 6, 10, 8, np.random.default_rng(0)))
    changed = (erased != np.asarray(image)).any(-1)
    inside = np.zeros((30, 40), dtype=bool)
    inside[6:14, 5:15] = True
    assert changed[inside].mean() > 0.9 and not changed[~inside].any()


@pytest.mark.parametrize(
    "settings", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}], ids=str
)
def test_labels_are_mixed_in_the_shares_of_the_images(settings):
    """Every image has the color of its class, so the labels must be the shares of the colors."""
    mix = Mix(MixArguments(**settings), seed=0, classes=4)
    labels = torch.tensor([0, 1, 2, 3])
    images = torch.eye(4)[:, :, None, None].expand(4, 4, 16, 16)  # the channel is the class
    seen = set()
    for epoch in range(20):
        mixed, shares = mix(images, labels, epoch, [5, 6, 7, 8])
        assert torch.allclose(mixed.mean((2, 3)), shares, atol=1e-6)
        assert torch.allclose(shares.sum(1), torch.ones(4))
        seen.add("mixup" if mixed.unique().numel() > 2 else "cutmix")
        again = mix(images, labels, epoch, [5, 6, 7, 8])
        assert all(map(torch.equal, (mixed, shares), again))
    assert seen == settings.keys()
    assert torch.equal(labels, torch.tensor([0, 1, 2, 3])) and images.unique().numel() == 2


@pytest.mark.parametrize(
    "name, value", [("flip", 1.5), ("crop", 0), ("mixup", -1), ("rand_augment_strength", 11)]
)
def test_settings_out_of_range_raise(name, value):
    with pytest.raises(InputError, match=name):
        MixArguments(**{name: value})
