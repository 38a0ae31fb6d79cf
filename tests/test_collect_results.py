"""The committed model cards equal what the tool makes now, and the Hub can read them."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from launch import load_script

ROOT = Path(__file__).parents[1]
TOOL = load_script("tools/collect_results.py")
CARDS = TOOL.cards()


def test_every_result_has_a_card_and_every_card_a_result():
    committed = {path.name for path in (ROOT / "model_cards").glob("*.md")} - {"README.md"}
    assert committed == set(CARDS)
    assert len(CARDS) == len(list(ROOT.glob("recipes/*/results/*.json")))


@pytest.mark.parametrize("name", CARDS)
def test_the_cards_are_up_to_date(name):
    assert (ROOT / "model_cards" / name).read_text() == CARDS[name], "run python tools/collect_results.py"


@pytest.mark.parametrize("name", CARDS)
def test_the_hub_can_read_the_metadata(name):
    data = ModelCard(CARDS[name]).data
    assert data.library_name == "transformers" and data.pipeline_tag
    _, results = model_index_to_eval_results(data.to_dict()["model-index"])
    assert results and all(result.metric_value >= 0 for result in results)


def test_readmes_without_a_place_for_the_table_raise():
    with pytest.raises(ValueError, match="needs these two lines"):
        TOOL.with_table("# Results", "")
