"""Forced terms are in every output, forbidden ones in none, and the rest of the search does not change."""

import itertools
import re

import pytest
import torch
from plain_beam_search import END, PAD, START, words
from test_decoding import steps  # noqa: F401 - a fixture
from test_generation import rows, score
from tiny_generation import padded_batch, plain, random_model
from tiny_translators import TEXTS, make, marian, vanilla
from transformers import LogitsProcessorList

from vanilla_transformer import ForbiddenTerms, find_terms
from vanilla_transformer.beam_search import IMPOSSIBLE
from vanilla_transformer.terms import ForcedTerms, Terms, is_in, pieces_as_bytes

PAPER = {"num_beams": 4, "length_penalty_type": "gnmt", "length_penalty": 0.6, "max_new_tokens": 12}
SEARCHES = {
    "paper": PAPER,
    "paper, wide": {**PAPER, "num_beams": 12, "num_return_sequences": 5},
    "paper with limits": {**PAPER, "max_extra_tokens": 5, "num_return_sequences": 3},
    "paper with coverage": {**PAPER, "coverage_penalty": 0.2},
    "paper with a processor": {**PAPER, "repetition_penalty": 1.5},
    "paper, early": {**PAPER, "early_stopping": True},
    "paper, two beams": {**PAPER, "num_beams": 2},
    "transformers": {"num_beams": 4, "max_new_tokens": 12},
    "transformers, early": {"num_beams": 4, "early_stopping": True, "max_new_tokens": 8},
    "transformers, never early": {"num_beams": 5, "early_stopping": "never", "max_new_tokens": 10},
}  # fmt: skip
searches = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
PHRASES = [[[5, 6, 7]], [], [[8], [9, 9]], [[3, 4], [4, 3]], [[5, 6], [6, 5, 3]]]


def contains(output, phrase):
    size = len(phrase)
    return any(list(output[start : start + size]) == phrase for start in range(len(output) - size + 1))


@searches
@pytest.mark.parametrize("seed", range(3))
def test_every_output_has_the_terms_of_its_sentence(search, seed, steps):  # noqa: F811
    model, batch = random_model(14, seed=seed), padded_batch(14, [5, 2, 7, 1, 3])
    terms = Terms(PHRASES)
    ids = model.generate(**batch, **search, terms=terms)
    assert steps
    assert torch.equal(plain(model, batch, **search, terms=terms), ids)
    outputs = search.get("num_return_sequences", 1)
    for row, output in enumerate(map(words, ids)):
        assert all(contains(output, phrase) for phrase in PHRASES[row // outputs]), output
    without = model.generate(**batch, **search)[outputs : 2 * outputs]
    assert [words(output) for output in ids[outputs : 2 * outputs]] == [words(output) for output in without]


@searches
def test_a_batch_gives_the_same_outputs_as_its_sentences_alone(search):
    model, batch = random_model(14, seed=4), padded_batch(14, [5, 2, 7, 1, 3])
    outputs = search.get("num_return_sequences", 1)
    together = model.generate(**batch, **search, terms=Terms(PHRASES))
    for text, source in enumerate(rows(batch)):
        alone = model.generate(**source, **search, terms=Terms(PHRASES[text : text + 1]))
        of_text = together[text * outputs : (text + 1) * outputs]
        assert [words(output) for output in of_text] == [words(output) for output in alone]


@pytest.mark.parametrize("phrases", [[[3]], [[3, 4]], [[3], [5]], [[3, 5], [4]]], ids=str)
@pytest.mark.parametrize("alpha, beta", [(0.0, 0.0), (0.6, 0.0), (0.6, 0.2)])
def test_a_wide_search_finds_the_best_of_all_outputs_with_the_terms(phrases, alpha, beta):
    model, batch = random_model(6, seed=3), padded_batch(6, [2, 3, 2])
    generated = model.generate(
        **batch,
        length_penalty_type="gnmt",
        length_penalty=alpha,
        coverage_penalty=beta,
        max_new_tokens=5,
        num_beams=300,
        num_return_sequences=3,
        return_dict_in_generate=True,
        terms=Terms([phrases] * 3),
    )
    for sentence, source in enumerate(rows(batch)):
        truth = {}
        for length in range(5):
            middles = itertools.product((START, 3, 4, 5), repeat=length)
            outputs = [(*m, END) for m in middles if all(contains(m, phrase) for phrase in phrases)]
            truth |= score(model, source, outputs, alpha, beta) if outputs else {}
        best = torch.tensor(sorted(truth.values(), reverse=True)[:3])
        torch.testing.assert_close(generated.sequences_scores.view(3, 3)[sentence], best)
        found = [truth[words(output)] for output in generated.sequences[3 * sentence : 3 * sentence + 3]]
        torch.testing.assert_close(torch.tensor(found), best)


@pytest.mark.parametrize("beams", [2, 4, 7])
def test_the_beam_is_shared_out_as_a_plain_loop_does_it(beams):
    torch.manual_seed(0)
    terms = Terms([[[5, 6]], [], [[7], [8, 9]]] * 20)
    forced = ForcedTerms(terms, torch.zeros(60, 1, 1, dtype=torch.long), torch.full((60,), 20), None)
    most = forced.lengths.sum(1, keepdim=True)  # the highest bank of each sentence
    forced.bank = (torch.rand(60, 12) * (most + 1)).long()
    forced.lost = torch.rand(60, 12) < 0.1
    scores = torch.randn(60, 12).sort(descending=True).values
    scores[:, 10:] = IMPOSSIBLE
    for sentence, found in enumerate(forced.share_out(scores, beams)):
        able = ~forced.lost[sentence] & (scores[sentence] > IMPOSSIBLE)
        members = {
            bank: (able & (forced.bank[sentence] == bank)).nonzero().flatten().tolist()
            for bank in range(int(most[sentence]) + 1)
        }
        places = {bank: min(len(own), beams // len(members)) for bank, own in members.items()}
        for bank in sorted(members, reverse=True):
            places[bank] = min(len(members[bank]), places[bank] + beams - sum(places.values()))
        expected = torch.full((12,), IMPOSSIBLE)
        for bank, own in members.items():
            kept = own[: places[bank]]
            expected[kept] = scores[sentence, kept]
        assert torch.equal(found, expected)


def test_terms_fit_into_the_shortest_possible_output():
    model, batch = random_model(14, seed=1), padded_batch(14, [5, 2, 7, 1, 3])
    ids = model.generate(**batch, **{**PAPER, "max_new_tokens": 6}, terms=Terms(PHRASES))
    for output, phrases in zip(map(words, ids), PHRASES):
        assert all(contains(output, phrase) for phrase in phrases) and len(output) <= 6
    with pytest.raises(ValueError, match="sentence 4 need 6 tokens .* may have 5"):
        model.generate(**batch, **{**PAPER, "max_new_tokens": 5}, terms=Terms(PHRASES))


@pytest.mark.parametrize("seed", range(3))
def test_terms_that_begin_alike_give_no_output_twice(seed):
    model, batch = random_model(60, seed=seed), padded_batch(60, [5, 2, 7])
    terms = Terms([[[5, 6], [5, 7], [5, 8]]] * 3)
    ids = model.generate(**batch, **PAPER, terms=terms, num_return_sequences=4)
    for outputs in ids.unflatten(0, (3, 4)):
        assert len({*map(words, outputs)}) == 4


def test_terms_stand_against_processors_that_forbid_their_tokens():
    model, batch = random_model(14, seed=1), padded_batch(14, [5, 2])
    ids = model.generate(**batch, **PAPER, bad_words_ids=[[5], [8]], terms=Terms([[[5, 6]], [[8]]]))
    assert contains(words(ids[0]), [5, 6]) and contains(words(ids[1]), [8])


def test_no_token_continues_a_word_that_a_term_ends():
    model, batch = random_model(14, seed=5), padded_batch(14, [5, 2, 7])
    continuing = torch.arange(14) > 8
    terms = Terms([[[5, 6]]] * 3, continuing)
    for output in map(words, model.generate(**batch, **PAPER, terms=terms, num_return_sequences=4)):
        first = next(i for i in range(len(output)) if output[i : i + 2] == (5, 6))
        assert not continuing[output[first + 2]]


@pytest.mark.parametrize("settings", [{"num_beams": 1}, {"num_beams": 3, "do_sample": True}], ids=str)
def test_terms_need_beam_search(settings):
    model, batch = random_model(14), padded_batch(14, [5, 2])
    with pytest.raises(ValueError, match="terms needs beam search"):
        model.generate(**batch, **settings, max_new_tokens=5, terms=Terms([[[5]], []]))


def test_the_number_of_lists_is_that_of_the_sentences():
    model, batch = random_model(14), padded_batch(14, [5, 2, 3])
    with pytest.raises(ValueError, match="2 lists of phrases for 3 sentences"):
        model.generate(**batch, **PAPER, terms=Terms([[[5]], []]))


def test_a_term_applies_where_its_source_is_a_word_of_the_text():
    assert is_in("bank", "The Bank, closed.") and is_in("New York", "in New York.") and is_in("C++", "C++11")
    assert not is_in("bank", "The banks") and not is_in("bank", "embank") and not is_in("", "bank")
    assert is_in("銀行", "在銀行裡") and is_in("3", "3 dogs") and not is_in("3", "35 dogs")


def test_terms_are_found_in_the_pieces_of_the_tokenizer():
    _, tokenizer = vanilla()
    terms = find_terms(tokenizer, TEXTS, {"dog": "lazy fox", "fence": "quick", "cat": "jumps"})
    texts = [[tokenizer.decode(ids) for ids in phrases] for phrases in terms.phrases]
    assert texts == [[], ["lazy fox"], ["lazy fox"], ["quick"]]
    each = find_terms(tokenizer, TEXTS[:2], [{"fox": "dog"}, {"fox": "dog"}])
    assert [len(phrases) for phrases in each.phrases] == [1, 0]
    letter = tokenizer.convert_tokens_to_ids
    continuing = terms.continuations
    assert continuing[letter("a")] and not continuing[letter("Ġthe")] and not continuing[letter(".")]
    with pytest.raises(ValueError, match="1 dicts for 4 texts"):
        find_terms(tokenizer, TEXTS, [{}])
    for parts in (vanilla, marian):
        with pytest.raises(ValueError, match="cannot write the term"):
            find_terms(parts()[1], ["a dog"], {"dog": " " if parts is vanilla else "Hund"})


@pytest.mark.parametrize(
    "names, expected",
    [
        (["Ġthe", "Ã¼"], [b" the", "ü".encode()]),
        (["▁the", "er", "<0xE4>"], [b" the", b"er", b"\xe4"]),
        (["the</w>", "er"], [b"the ", b"er"]),
        (["th@@", "er"], [b"th", b"er "]),
        (["the", "##er"], [b" the", b"er"]),
    ],
)
def test_pieces_of_other_tokenizers(names, expected):
    assert pieces_as_bytes(names, names) == expected


MODES = {
    "greedy": {"num_beams": 1},
    "sampling": {"num_beams": 1, "do_sample": True},
    "paper": {**PAPER, "num_return_sequences": 4},
    "transformers": {"num_beams": 4},
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("parts", [vanilla, marian])
def test_a_forbidden_word_is_in_no_output(mode, parts):
    model, tokenizer = parts()
    if parts is marian:
        mode = {name: value for name, value in mode.items() if name != "length_penalty_type"}
    with torch.no_grad():
        model.lm_head.weight.mul_(0.1 if parts is vanilla else 1)  # varied outputs
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    settings = {**mode, "max_new_tokens": 25}

    def texts(**others):
        torch.manual_seed(0)
        ids = model.generate(**batch, **settings, **others)
        return tokenizer.batch_decode(ids, skip_special_tokens=True)

    before = texts()
    found = re.findall(r"[^\W\d_]+", " ".join(before))
    forbidden = sorted(set(found), key=lambda word: -found.count(word))[:5]
    assert forbidden
    after = texts(logits_processor=LogitsProcessorList([ForbiddenTerms(tokenizer, forbidden)]))
    assert before != after
    assert not set(forbidden) & set(re.findall(r"[^\W_]+", " ".join(after)))
    pipe = make("translation", (model, tokenizer), **settings, batch_size=len(TEXTS))
    assert not set(forbidden) & set(
        re.findall(r"[^\W_]+", str([list(r.values()) for r in sum_up(pipe(TEXTS, forbid=forbidden))]))
    )


def sum_up(results):
    return [record for result in results for record in (result if isinstance(result, list) else [result])]


def test_a_word_is_forbidden_in_all_splits():
    _, tokenizer = vanilla()
    processor = ForbiddenTerms(tokenizer, ["fox dog"])
    for pieces in (
        ["Ġfox", "Ġ", "d", "o"],
        ["Ġ", "f", "o", "x", "Ġ", "d", "o"],
        ["(", "f", "o", "x", "Ġ", "d", "o"],
    ):
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(pieces)])
        scores = processor(ids, torch.zeros(1, len(tokenizer)))
        assert scores[0, tokenizer.convert_tokens_to_ids("g")] == float("-inf"), pieces
    for pieces in (["e", "f", "o", "x", "Ġ", "d", "o"], ["Ġfox", "d", "o"], ["Ġfox", "Ġ", "d"]):
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(pieces)])
        assert not processor(ids, torch.zeros(1, len(tokenizer))).any(), pieces


def test_pipelines_force_terms_per_call_and_per_text():
    pipe = make("translation", vanilla(), max_new_tokens=20)
    terms = {"fox": "lazy brown dog", "dog": "fence"}
    plain_results, results = pipe(TEXTS), pipe(TEXTS, terms=terms)
    for text, result in zip(TEXTS, results):
        for source, target in terms.items():
            assert (source not in text) or re.search(rf"\b{target}\b", result["translation_text"])
    assert results == [pipe(text, terms=terms)[0] for text in TEXTS]
    each = pipe(TEXTS, terms=[{}, {"lazy": "quick"}, {}, {"fox": "jumps"}])
    assert each[::2] == plain_results[::2]
    assert "quick" in each[1]["translation_text"] and "jumps" in each[3]["translation_text"]
    scored = pipe(TEXTS, terms=terms, return_scores=True, num_return_sequences=2)
    assert [records[0]["translation_text"] for records in scored] == [r["translation_text"] for r in results]
    with pytest.raises(ValueError, match="terms has 1 dicts for 4 texts"):
        pipe(TEXTS, terms=[{}])
    with pytest.raises(ValueError, match="needs a list of texts"):
        pipe(TEXTS[0], terms=[{}])
    with pytest.raises(ValueError, match="MarianMTModel cannot force terms"):
        make("translation", marian())(TEXTS[0], terms={"dog": "fox"})


def test_settings_with_terms_do_not_stay_in_the_model():
    model, batch = random_model(14), padded_batch(14, [5, 2])
    before = model.generation_config.to_dict()
    model.generate(**batch, **PAPER, terms=Terms([[[5]], []]))
    assert model.generation_config.to_dict() == before
    assert PAD not in words(model.generate(**batch, **PAPER, terms=Terms([[], []]))[0])
