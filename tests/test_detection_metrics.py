"""COCO's mean average precision: hand-made cases, and streaming against pycocotools on all at once."""

import contextlib
import io

import evaluate
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vanilla_transformer.metrics import load_metric

SQUARE = [10.0, 10.0, 50.0, 50.0]  # left, top, right, bottom


def score(predictions, references):
    return load_metric("mean_average_precision").compute(predictions=predictions, references=references)


def found(*boxes, label=0, scores=None):
    return {"boxes": list(boxes), "labels": [label] * len(boxes), "scores": scores or [0.9] * len(boxes)}


def there(*boxes, label=0, **more):
    return {"boxes": list(boxes), "labels": [label] * len(boxes), **more}


def at_random(images=30, seed=0):
    """Boxes of three labels, some of which are found about where they are, and some that are not there."""
    random = np.random.default_rng(seed)
    predictions, references = [], []
    for _ in range(images):
        count = random.integers(0, 6)
        corners = random.uniform(0, 200, (count, 2))
        boxes = np.hstack([corners, corners + random.uniform(5, 150, (count, 2))])
        labels = random.integers(0, 3, count)
        seen = random.random(count) < 0.8
        guesses = boxes[seen] + random.normal(0, 4, (seen.sum(), 4))
        wrong = np.tile(SQUARE, (2, 1))
        references.append({"boxes": boxes, "labels": labels})
        predictions.append(
            {
                "boxes": np.vstack([guesses, wrong]),
                "labels": np.hstack([labels[seen], random.integers(0, 3, 2)]),
                "scores": random.random(seen.sum() + 2),
            }
        )
    return predictions, references


def by_pycocotools(predictions, references):
    """All images at once, as its own documentation has it."""

    def annotation(image, index, one, number):
        left, top, right, bottom = map(float, one["boxes"][index])
        box = [left, top, right - left, bottom - top]
        values = {"id": number, "image_id": image, "category_id": int(one["labels"][index]), "bbox": box}
        if "scores" in one:
            return values | {"score": float(one["scores"][index])}
        return values | {"area": box[2] * box[3], "iscrowd": 0}

    def flat(side):
        places = [(image, index) for image, one in enumerate(side) for index in range(len(one["labels"]))]
        return [annotation(image, index, side[image], n + 1) for n, (image, index) in enumerate(places)]

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": image} for image in range(len(references))],
            "annotations": flat(references),
            "categories": [{"id": label} for label in range(3)],
        }
        truth.createIndex()
        scorer = COCOeval(truth, truth.loadRes(flat(predictions)), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return scorer.stats


def test_the_map_is_one_if_all_objects_are_found_and_zero_if_none():
    perfect = score([found(SQUARE)], [there(SQUARE)])
    assert [perfect[name] for name in ("map", "map_50", "mar_100")] == pytest.approx([1, 1, 1])
    assert score([found()], [there(SQUARE)])["map"] == 0
    assert score([found(SQUARE, label=1)], [there(SQUARE)])["map"] == 0


def test_overlap_decides():
    narrow = [10.0, 10.0, 50.0, 34.0]  # 24 of 40 rows: an IoU of 0.6
    scores = score([found(narrow)], [there(SQUARE)])
    assert scores["map_50"] == pytest.approx(1)
    assert scores["map_75"] == 0
    assert scores["map"] == pytest.approx(0.3)  # three of ten thresholds: .50, .55 and .60


def test_a_second_box_on_the_same_object_is_wrong():
    double = found(SQUARE, SQUARE, scores=[0.9, 0.8])
    one_each = score([double, found(SQUARE, scores=[0.7])], [there(SQUARE), there(SQUARE)])
    assert 0.5 < one_each["map_50"] < 1
    last = score([found(SQUARE, SQUARE, scores=[0.9, 0.1])], [there(SQUARE)])
    assert last["map_50"] == pytest.approx(1)  # what comes after all are found costs nothing


def test_labels_are_scored_separately_and_averaged():
    scores = score([found(SQUARE, label=3), found(label=5)], [there(SQUARE, label=3), there(SQUARE, label=5)])
    assert scores["map_50_per_class"] == {3: pytest.approx(1), 5: 0}
    assert scores["map_50"] == pytest.approx(0.5)


def test_sizes_are_scored_separately():
    small, large = [0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 200.0, 200.0]
    scores = score([found(small)], [there(small, large)])
    assert scores["map_small"] == pytest.approx(1)
    assert scores["map_large"] == 0
    assert scores["map_medium"] == -1  # there is no such object


def test_crowds_cost_nothing():
    crowd = there(SQUARE, [100.0, 100.0, 300.0, 300.0], iscrowd=[0, 1])
    inside = found(SQUARE, [150.0, 150.0, 200.0, 200.0], scores=[0.5, 0.9])
    assert score([inside], [crowd])["map"] == pytest.approx(1)


def test_equal_to_pycocotools_on_all_at_once_however_it_is_cut():
    predictions, references = at_random()
    wanted = by_pycocotools(predictions, references)
    for size in (1, 7, 30):
        metric = load_metric("mean_average_precision")
        for start in range(0, 30, size):
            cut = slice(start, start + size)
            metric.add_batch(predictions=predictions[cut], references=references[cut])
        scores = metric.compute()
        assert list(scores.values())[:12] == pytest.approx(wanted.tolist(), abs=1e-12)
        by_label = np.mean(list(scores["map_per_class"].values()))
        assert by_label == pytest.approx(scores["map"])


def test_keeps_no_boxes():
    predictions, references = at_random()
    metric = load_metric("mean_average_precision")
    metric.add_batch(predictions=predictions, references=references)
    kept = [value for images in metric.matches.values() for one in images.values() for value in one]
    assert set(kept) == {"dtScores", "dtMatches", "dtIgnore", "gtIgnore"}


def test_compute_resets_the_metric():
    predictions, references = at_random()
    metric = load_metric("mean_average_precision")
    first = metric.compute(predictions=predictions, references=references)
    metric.add(prediction=found(SQUARE), reference=there(SQUARE))
    assert metric.compute()["map"] == pytest.approx(1)
    assert metric.compute(predictions=predictions, references=references) == first
    with pytest.raises(ValueError, match="nothing to score"):
        metric.compute()


def test_combines():
    predictions, references = at_random()
    combined = evaluate.combine([load_metric("mean_average_precision")])
    assert combined.compute(predictions=predictions, references=references) == score(predictions, references)


def test_images_without_objects():
    assert score([found()], [there()])["map"] == -1
    with_false_alarm = score([found(SQUARE), found(SQUARE, scores=[0.5])], [there(), there(SQUARE)])
    assert with_false_alarm["map_50"] == pytest.approx(0.5)


def test_bad_input():
    with pytest.raises(ValueError, match="2 predictions, but 1 references"):
        score([found(), found()], [there()])
    with pytest.raises(ValueError, match="image 0 has 1 boxes but 2 values in 'labels'"):
        score([{"boxes": [SQUARE], "labels": [0, 1], "scores": [0.5]}], [there()])
    with pytest.raises(TypeError, match="no option"):
        load_metric("mean_average_precision").compute(predictions=[], references=[], iou=0.5)


def test_more_than_100_boxes_of_an_image_count_if_asked_for():
    places = np.array([(20.0 * (n % 15), 20.0 * (n // 15)) for n in range(150)])
    boxes = np.hstack([places, places + 10]).tolist()
    truth, guesses = [there(*boxes), there(SQUARE)], [found(*boxes), found(SQUARE)]
    assert score(guesses, truth)["map"] < 0.7  # as COCO counts
    more = load_metric("mean_average_precision", max_detections=150)
    scores = more.compute(predictions=guesses, references=truth)
    assert scores["map"] == pytest.approx(1) and scores["map_50"] == scores["mar_100"] == pytest.approx(1)
    predictions, references = at_random()
    same, expected = more.compute(predictions=predictions, references=references), score(*at_random())
    for name, value in expected.items():
        assert same[name] == pytest.approx(value), name
    with pytest.raises(ValueError, match="max_detections=50 must be at least 100"):
        load_metric("mean_average_precision", max_detections=50)


def test_a_given_area_decides_the_size_of_an_object_and_not_its_box():
    """COCO's areas are those of the outlines: a thin object in a medium box can be small."""
    box = [0.0, 0.0, 50.0, 50.0]  # 2500 pixels; below 32² is small
    scores = score([found(box)], [there(box, area=[500.0])])
    assert (scores["map_small"], scores["map_medium"]) == (pytest.approx(1), -1)
    scores = score([found(box)], [there(box)])
    assert (scores["map_small"], scores["map_medium"]) == (-1, pytest.approx(1))
