"""Inline markup: every tag and placeholder survives, where the model put the words."""

import re
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_translators import FAMILIES, TEXTS, make

from vanilla_transformer import split_words
from vanilla_transformer.documents import translate_document, translate_markup
from vanilla_transformer.documents.inline import read_inline

quick = settings(max_examples=150, deadline=None, derandomize=True)
WORDS = st.sampled_from(
    ["the", "dog,", "runs", "(away)", "big!", "3.5", "Über", "a", "word.", "I'm", "well-known"]
)
PLACEHOLDERS = [
    "{name}",
    "{0}",
    "{{ user }}",
    "${x}",
    "%s",
    "%1$d",
    "https://a.b/c?d=e_f",
    "{n, plural, other {#}}",
]
POINTS = ["<br/>", '<img src="a>b.png">', "<!-- a note -->", "<x id='1'/>"]
OPENS = {"<b>": "</b>", '<a href="x?y=1&z=2">': "</a>", "<span class='i'>": "</span>", "<0>": "</0>"}
TAG = re.compile(r"""<!--.*?-->|</?[\w]+(?:\s(?:"[^"]*"|'[^']*'|[^>"'])*)?/?>""")


@st.composite
def marked(draw, depth=2):
    """A text with well nested tags and placeholders."""
    parts = []
    for kind in draw(st.lists(st.sampled_from("wwwppoe"), min_size=1, max_size=6)):
        if kind == "w":
            parts.append(draw(WORDS))
        elif kind == "p":
            parts.append(draw(st.sampled_from(PLACEHOLDERS)))
        elif kind == "o":
            parts.append(draw(st.sampled_from(POINTS)))
        elif depth:
            tag = draw(st.sampled_from(sorted(OPENS)))
            parts.append(tag + draw(marked(depth - 1)) + OPENS[tag])
    return draw(st.sampled_from([" ", "  ", " "])).join(parts)


class Translator:
    """A pipeline with random outputs and links, whose outputs may lose, change and repeat words."""

    return_name = "translation"
    model = SimpleNamespace(generation_config=SimpleNamespace(alignment_layer=0))

    def __init__(self, draw):
        self.draw = draw

    def __call__(self, texts, return_alignments=False):
        return [self.output(text) for text in texts]

    def output(self, text):
        words = [draw_word for word in text.split() for draw_word in self.draw(changed(word))]
        output = " ".join(self.draw(st.permutations(words))) if words else ""
        count = len(split_words(text))
        links = [
            f"{self.draw(st.integers(0, count - 1))}-{target}"
            for target in range(len(split_words(output)))
            if count and self.draw(st.integers(0, 3))
        ]
        return {"translation_text": output, "alignment": " ".join(links)}


def changed(word):
    return st.sampled_from([[word], [word.upper()], [word], [], [word, "und"], [word[::-1]], [word, word]])


def nesting(text):
    """How often each tag is within which elements. Raises AssertionError for tags that are not nested."""
    found, stack = Counter(), []
    for tag in TAG.findall(text):
        if tag.startswith("</"):
            assert stack and OPENS[stack.pop()] == tag
            continue
        found[*stack, tag] += 1
        if tag in OPENS:
            stack.append(tag)
    assert not stack
    return found


@quick
@given(st.data(), marked())
def test_tags_are_written_once_and_nested_and_placeholders_survive(data, text):
    for translate in (Translator(data.draw), lambda texts: [t.swapcase() for t in texts]):
        found = translate_markup(translate, text)
        assert nesting(found) == nesting(text)
        # What is within a tag is no placeholder; the model's own words may not become one.
        plain, seen = TAG.sub(" ", found), TAG.sub(" ", text)
        for placeholder in PLACEHOLDERS:
            assert plain.count(placeholder) == seen.count(placeholder)


@quick
@given(marked())
def test_a_translator_that_changes_nothing_changes_no_byte(text):
    assert translate_markup(lambda texts: texts, text) == text


def test_without_alignments_markup_goes_where_the_same_share_of_the_text_is():
    found = translate_markup(lambda texts: ["abc def ghi jkl"], "abcdef abcdef <b>abcdef abcdef</b>")
    assert found == "abc def <b>ghi jkl</b>"


class Fixed:
    """A pipeline with one output and its links."""

    return_name = "translation"
    model = SimpleNamespace(generation_config=SimpleNamespace(alignment_layer=0))

    def __init__(self, output, alignment):
        self.record = {"translation_text": output, "alignment": alignment}
        self.seen = []

    def __call__(self, texts, **options):
        self.seen += texts
        return [self.record for _ in texts]


@pytest.mark.parametrize(
    "text, output, alignment, expected",
    [
        ("a <b>red</b> car", "un coche rojo", "0-0 2-1 1-2", "un coche <b>rojo</b>"),
        ("a <b>red <i>car</i></b> .", "un coche rojo .", "0-0 2-1 1-2 3-3", "un <b><i>coche</i> rojo</b> ."),
        ("<b>bus</b> <i>stop</i>", "Haltestelle", "1-0", "<b></b><i>Haltestelle</i>"),
        ("<b>Two words</b>", "x y z", "0-0 0-1", "<b>x y z</b>"),
        ("he <b>gave up</b> now", "er gab jetzt auf", "0-0 1-1 3-2 2-3", "er <b>gab</b> jetzt auf"),
        ("a <b>red big</b> car", "x y z", "1-0 0-1 2-2", "<b>x</b> y z"),
        ("a <b>dog</b>, yes", "un perro , sí", "0-0 1-1 1-2 3-3", "un <b>perro</b> , sí"),
        ("one<br>two", "eins zwei", "0-0 1-1", "eins<br>zwei"),
        ("red<x/> car", "coche rojo", "0-1 1-0", "coche rojo<x/>"),
        ("a <b>red car</b> <x/> stops", "p q r s t", "1-0 1-1 3-2 1-3 1-4", "<b>p q r s t</b> <x/>"),
        ("a note<a id='1'></a> b", "b eine Notiz", "2-0 0-1 1-2", "b eine Notiz<a id='1'></a>"),
        ("Hi {name}!", "Hallo {name}!", "0-0", "Hallo {name}!"),
        ("Hi {name}, you", "Hallo Namen, du", "0-0 1-1 2-1 4-3", "Hallo {name}, du"),
        ("A &amp; <b>B</b>", "B & C", "0-2 2-0 1-1", "<b>B</b> &amp; C"),
    ],
)
def test_markup_follows_the_words(text, output, alignment, expected):
    assert translate_markup(Fixed(output, alignment), text) == expected


def test_a_changed_placeholder_is_hidden_from_the_model():
    translate = Fixed("Hallo {nom} und {nom}!", "0-0")
    found = translate_markup(translate, "Hello <b>{name}</b>!")
    assert translate.seen == ["Hello {name}!", "Hello!"] and found.count("<b>{name}</b>") == 1


def test_a_broken_placeholder_is_hidden_from_the_model():
    translate = Fixed("Hallo { nom jetzt", "0-0 2-2 4-3")
    translate_markup(translate, "Hello {name} now")
    assert translate.seen == ["Hello {name} now", "Hello now"]


def test_a_word_that_code_has_too_is_no_copy_of_it():
    translate = Fixed("perro ve dog", "0-0 1-1 2-2")
    translate_document(translate, "<p><code>dog</code> sees dog</p>", "html")
    assert translate.seen == ["dog sees dog", "sees dog"]


def test_an_element_of_two_sentences_is_at_the_end_of_the_first():
    outputs = {
        "We saw red cars.": ("Vimos coches rojos.", "0-0 1-0 3-1 2-2 4-3"),
        "They stop now.": ("Ellos paran ahora.", "0-0 1-1 2-2 3-3"),
        "They go now.": ("Van ahora ellos.", "1-0 2-1 0-2 3-3"),
    }

    class Translator(Fixed):
        def __call__(self, texts, **options):
            return [dict(zip(("translation_text", "alignment"), outputs[text])) for text in texts]

    found = translate_document(Translator("", ""), "<p>We saw <b>red cars. They</b> stop now.</p>", "html")
    assert found == "<p>Vimos <b>coches rojos. Ellos</b> paran ahora.</p>"
    # It has a word of the second sentence even where another element would take them all.
    page = "<p>We saw <b>red cars. They</b> <i>go now</i>.</p>"
    assert translate_document(Translator("", ""), page, "html").endswith("Van</b> <i>ahora</i> ellos.</p>")


@pytest.mark.parametrize("family", FAMILIES)
def test_pipelines_of_every_family_place_markup_and_leave_other_texts_alone(family):
    pipe = make("translation", FAMILIES[family]())
    plain = [each["translation_text"] for each in pipe([*TEXTS, " two  spaces ", ""])]
    assert translate_markup(pipe, [*TEXTS, " two  spaces ", ""]) == plain
    found = translate_markup(pipe, ["the <b>quick</b> fox {x}", *TEXTS])
    assert found[1:] == plain[: len(TEXTS)]
    assert [found[0].count(part) for part in ("<b>", "</b>", "{x}")] == [1, 1, 1]


def test_a_pipeline_takes_markup_as_an_option_of_a_call():
    pipe = make("translation", FAMILIES["vanilla"]())
    texts = ["the <b>quick</b> fox", "the dog"]
    found = [each["translation_text"] for each in pipe(texts, markup=True, num_beams=2)]
    assert found == translate_markup(pipe, texts, num_beams=2)
    assert pipe(texts[0], markup=True, num_beams=2)[0]["translation_text"] == found[0]
    assert pipe(texts[1], markup=False, num_beams=2)[0]["translation_text"] == found[1]


def test_one_dict_of_terms_for_each_text():
    pipe = make("translation", FAMILIES["vanilla"](), num_beams=4)
    texts = ["the <b>dog</b>", "the dog", "a <i>dog</i>"]
    found = translate_markup(pipe, texts, terms=[{"dog": "fence"}, {"dog": "fox"}, {"dog": "brown"}])
    assert ["fence" in found[0], "fox" in found[1], "brown" in found[2]] == [True] * 3


@pytest.mark.parametrize(
    "text", ["100 % sure", "100% dead", "a < b and b > c", "f(x) = {a set}", "AT&T", "3<4", "@"]
)
def test_what_only_looks_like_markup_is_text(text):
    assert [piece.kind for piece in read_inline(text)] == ["text"]


def test_a_placeholder_has_the_brackets_around_it():
    for text, opaque in (("see ({x})", "({x})"), ("({x} y)", "{x}"), ("„{x}“", "„{x}“"), ("[{x})", "{x}")):
        assert [piece.raw for piece in read_inline(text) if piece.kind == "opaque"] == [opaque]


def test_errors_say_what_to_do():
    pipe = make("translation", FAMILIES["vanilla"](), num_beams=2)
    with pytest.raises(ValueError, match="num_return_sequences"):
        translate_markup(pipe, "the <b>dog</b>", num_return_sequences=2)
    with pytest.raises(ValueError, match="1 translations for 2 texts"):
        translate_markup(lambda texts: texts[:1], ["the dog", "a fox"])
