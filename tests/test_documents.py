"""Documents: sentences are translated, and everything that is not text stays."""

import random
import re
import textwrap
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanilla_transformer.documents import FORMATS, Document, translate_document
from vanilla_transformer.documents.sentences import Sentence

quick = settings(max_examples=150, deadline=None, derandomize=True)
TEXT = [
    "Dog runs. ",
    "a word ",
    "e.g. Über ",
    "{x}",
    "%s ",
    "http://a.b/c_d ",
    "\n",
    "\n\n",
    "\r\n",
    "  ",
    "\0",
    "…",
    "你好。",
]
FRAGMENTS = {
    "txt": [
        *TEXT,
        "- ",
        "1. ",
        "> ",
        "\t",
        "\f",
        "<b>",
        "a very long line of text that goes on for a good while ",
    ],
    "md": [
        *TEXT,
        *[
            "# ",
            "- ",
            "1. ",
            "> ",
            "    ",
            "**",
            "*",
            "_",
            "`",
            "``",
            "```\n",
            "~~",
            "[",
            "](u 't')",
            "](",
            "]",
            "![a](b)",
            "<b>",
            "</b>",
            "<br/>",
            "<!-- c -->",
        ],
    ]
    + ["<div>\n", "&amp;", "\\*", "\\", "|", "\n|---|---|\n", "| a | b |\n", "[^1]", "\n[^1]: note\n", "$x$"]
    + ["---\n", "+++\n", "- [ ] ", "==\n", "<http://x.y>", "***", "&lt;", "\\|"],
    "html": [
        *TEXT,
        "<p>",
        "</p>",
        "<b>",
        "</b>",
        "<i class='x'>",
        "</i>",
        '<a href="?a=1&b=2">',
        "</a>",
        "<br>",
    ]
    + ["<!-- c -->", "<!DOCTYPE html>", "<script>a='<b>';</script>", "<style>", "</style>", "<pre>", "</pre>"]
    + [
        "<code>",
        "</code>",
        "&amp;",
        "&nbsp;",
        "&#39;",
        "&bogus;",
        "&",
        "< ",
        ">",
        "<div translate=no>",
        "</div>",
    ]
    + [
        "<textarea>",
        "</textarea>",
        "<title>",
        "</title>",
        "<?pi x?>",
        "<![CDATA[x]]>",
        "<svg>",
        "</",
        "<b",
        "<li>",
    ],
    "srt": [
        *TEXT,
        "1\n",
        "00:00:01,000 --> 00:00:02,500\n",
        "00:00:02,600 --> 00:00:04,000 X1:0\n",
        "<i>",
        "</i>",
    ]
    + [
        "\n\n2\n00:00:04.500 --> 00:00:06.000\r\n",
        "{\\an8}",
        "- Hi\n",
        "♪ la",
        "[noise]",
        "&amp;",
        "WEBVTT\n\n",
    ],
}
FRAGMENTS["vtt"] = ["WEBVTT\n\n", "NOTE x\n", "STYLE\n", "<v Bob>", "<00:00:01.500>", *FRAGMENTS["srt"]]


def documents(format):
    return st.lists(st.sampled_from(FRAGMENTS[format]), max_size=25).map("".join)


def same(texts):
    return texts


def shuffled(texts):
    """A translator that reorders, changes, drops and adds words."""
    random.seed(len(texts))
    outputs = []
    for text in texts:
        words = [random.choice([word, word.upper(), word[::-1], ""]) for word in text.split()] + ["und"]
        random.shuffle(words)
        outputs.append(" ".join(words))
    return outputs


@pytest.mark.parametrize("format", FORMATS)
def test_a_translator_that_changes_nothing_changes_no_byte(format):
    @quick
    @given(documents(format))
    def check(document):
        assert translate_document(same, document, format) == document

    check()


@pytest.mark.parametrize("format", FORMATS)
def test_whatever_the_translator_returns_all_markup_is_there_and_what_is_between_texts_in_order(format):
    @quick
    @given(documents(format))
    def check(document):
        parts = Document(document, format).parts
        found = translate_document(shuffled, document, format)
        assert found.count("\n") == document.count("\n")
        position = 0
        for kept in (part for part in parts if isinstance(part, str)):
            position = found.index(kept, position) + len(kept)
        pieces = [piece for part in parts if not isinstance(part, str) for piece in part.pieces]
        marks = Counter(piece.raw.strip() for piece in pieces if piece.kind != "text")
        assert all(found.count(mark) >= count for mark, count in marks.items() if re.search(r"\w", mark))

    check()


FILES = {
    "md": """\
---
title: Dogs
---
# The *first* day

A **dog** runs. He sees a [cat](https://a.b/c "A title") and `x = 1`,
which is 2 \\* 3 &amp; more.[^1]

> A quote goes on
> in the next line.

- [x] A ![picture](a.png) here.
  1. An item

| Head | Cell |
|:-----|-----:|
| a **b** | `c` and d |

```python
print("a dog")  # stays
```

<div align="center">stays</div>

[^1]: A note.
""",
    "html": """\
<!DOCTYPE html>
<html lang="en"><head><title>The dog</title><style>p { color: red }</style></head>
<body><!-- stays --><h1 id="a">The day</h1>
<p class="b">A <b>dog</b> runs&nbsp;here. He sees
<a href="?a=1&amp;b=2" title="stays">a cat</a>: <code>x &lt; 1</code>.</p>
<pre>stays</pre><p translate="no">stays</p><script>if (a < b) alert("stays")</script>
<img src="a.png" alt="stays"><ul><li>One</li><li>Two &amp; three</li></ul></body></html>
""",
    "srt": """\
1
00:00:01,000 --> 00:00:03,000
The dog sees <i>a cat</i> that

2
00:00:03,200 --> 00:00:06,000
{\\an8}runs in the garden.

3
00:00:07,000 --> 00:00:08,000
- Who?
- The dog.
""",
    "vtt": """\
WEBVTT - stays

STYLE
::cue { color: red }

intro
00:01.000 --> 00:03.000 align:start
<v Bob>The dog &amp; a cat.

NOTE stays
""",
    "txt": """\
THE DAY

  A dog runs in the garden of the house and it sees a cat which
  sits there. It barks.

- one
- two
""",
}
UPPER = {
    "md": [
        "# THE *FIRST* DAY",
        "A **DOG** RUNS.",
        '[CAT](https://a.b/c "A title")',
        "`x = 1`",
        "2 * 3 & MORE.[^1]",
    ]
    + [
        "> A QUOTE GOES ON\n> IN THE NEXT",
        "- [x] A ![picture](a.png) HERE.",
        "  1. AN ITEM",
        "| A **B** | `c` AND D |",
    ]
    + ["[^1]: A NOTE.", "title: Dogs", '<div align="center">stays</div>'],
    "html": [
        "<title>THE DOG</title>",
        "A <b>DOG</b> RUNS HERE. HE SEES\n",
        '<a href="?a=1&amp;b=2" title="stays">A CAT</a>',
    ]
    + ["<code>x &lt; 1</code>.</p>", "<li>TWO &amp; THREE</li>"],
    "srt": ["THE DOG SEES <i>A CAT</i> THAT\n\n2\n", "{\\an8}RUNS IN THE GARDEN.\n", "- WHO?\n- THE DOG."],
    "vtt": ["<v Bob>THE DOG &amp; A CAT.\n", "WEBVTT - stays", "NOTE stays", "intro\n00:01.000"],
    "txt": ["  A DOG RUNS", "A CAT WHICH\n  SITS THERE. IT BARKS.\n\n- ONE\n- TWO\n"],
}


@pytest.mark.parametrize("format", FILES)
def test_files_as_people_write_them(format):
    document = FILES[format]
    assert translate_document(same, document, format) == document
    found = translate_document(lambda texts: [text.upper() for text in texts], document, format)
    for expected in UPPER[format]:
        assert expected in found
    assert found.count("stays") == document.count("stays")
    windows = document.replace("\n", "\r\n")
    assert translate_document(same, windows, format) == windows


def seen(document, format, language="en"):
    return [sentence.text for sentence in Document(document, format, language).sentences]


def test_the_model_sees_sentences_without_markup():
    assert seen(FILES["md"], "md")[:4] == [
        "The first day",
        "A dog runs.",
        "He sees a cat and `x = 1`, which is 2 * 3 & more.",
        "A quote goes on in the next line.",
    ]
    assert seen(FILES["srt"], "srt") == ["The dog sees a cat that runs in the garden.", "Who?", "The dog."]
    assert seen("<p>One.<br>Two <b>or. Three</b>", "html") == ["One.", "Two or.", "Three"]
    assert seen("Das gilt z.B. hier. Am 3. Mai auch.", "txt", "de") == [
        "Das gilt z.B. hier.",
        "Am 3. Mai auch.",
    ]


@pytest.mark.parametrize("format", FILES)
def test_a_sentence_knows_its_line(format):
    lines = FILES[format].split("\n")
    for sentence in Document(FILES[format], format).sentences:
        assert re.search(r"\w+", sentence.text)[0] in lines[sentence.line - 1]


@pytest.mark.parametrize("section", ["<![x]>", "<![ x [a", "<![if !IE]>", "<![CDATA[a]]>", "<!["])
def test_sections_of_sgml_stay(section):
    page = f"<p>The dog runs.</p>{section}<p>A cat.</p>"
    assert seen(page, "html")[0] == "The dog runs."
    assert section[-1] != ">" or "<" not in "".join(seen(f"<p>The dog {section} runs.</p>", "html"))
    assert translate_document(lambda texts: texts, page, "html") == page


def test_what_is_not_translated_ends_with_its_own_tag():
    page = '<div translate="no">a <div>b</div> c</div><p>one <code>x <code>y</code> z</code> two</p>'
    assert seen(page, "html") == ["one x y z two"]
    assert "<div>b</div> c</div>" in translate_document(lambda texts: ["ONE TWO"], page, "html")


def test_nothing_within_code_ends_a_sentence():
    assert seen("<p>Type <code>make.</code> Then go.</p>", "html") == ["Type make. Then go."]


def test_a_closing_tag_stays_with_its_sentence():
    sentences = Document("<p><b>你好。</b>再见。</p>", "html", "zh").sentences
    assert [sentence.raw for sentence in sentences] == ["<b>你好。</b>", "再见。"]


def test_each_line_of_a_paragraph_keeps_words():
    document = "One two three four five six seven eight nine\nten\neleven\ntwelve."
    assert translate_document(lambda texts: ["a b c d"], document, "md") == "a\nb\nc\nd"


@pytest.mark.parametrize("width", [60, 72, 79])
def test_a_wrapped_paragraph_is_one_text(width):
    words = random.Random(0).choices(["a", "dog", "runs", "over", "meadows", "everywhere"], k=200)
    text = textwrap.fill(" ".join(words), width)
    widest = max(map(len, text.split("\n")))
    assert seen(textwrap.fill(" ".join(words), widest), "txt") == [" ".join(words)]
    quoted = f"> {'word ' * 12}\n>> {'other ' * 9}"
    assert seen(quoted, "txt") == [("word " * 12).strip(), ("other " * 9).strip()]


def test_short_lines_stay_apart_and_wrapped_lines_belong_together():
    assert seen("milk\nbread\neggs", "txt") == ["milk", "bread", "eggs"]
    wrapped = "It was a bright cold day in April, and the clocks were\nstriking\nthirteen."
    assert seen(wrapped, "txt") == [" ".join(wrapped.split("\n")[:2]), "thirteen."]


def test_a_pause_ends_a_sentence_of_subtitles():
    cue = "{}\n00:00:{:02},000 --> 00:00:{:02},000\n{}\n\n"
    document = cue.format(1, 1, 2, "the dog") + cue.format(2, 3, 4, "runs") + cue.format(3, 30, 31, "away")
    assert seen(document, "srt") == ["the dog runs", "away"]
    assert seen(cue.format(1, 1, 2, "yes\n- no\n♪ la la"), "srt") == ["yes", "no", "la la"]


def test_a_sentence_of_subtitles_does_not_go_on_forever():
    cues = [f"{n}\n00:00:{n:02},000 --> 00:00:{n:02},900\n{'the dog runs ' * 5}\n\n" for n in range(40)]
    found = seen("".join(cues), "srt")
    assert len(found) > 1 and all(300 < len(text) < 400 for text in found[:-1])


def test_an_element_of_two_sentences_is_opened_and_closed_once():
    swap = {"One two.": "Zwei eins.", "Three four.": "Vier drei."}
    found = translate_document(lambda texts: [swap[text] for text in texts], "One **two. Three** four.", "md")
    assert found.count("**") == 2 and re.sub(r"\*", "", found) == "Zwei eins. Vier drei."


@pytest.mark.parametrize(
    "text", ["2 * 3 * 4", "_a_ b", "- a", "1. a", "# a", "a `b", "[a](b)", "<b>", "a | b", "&amp;"]
)
def test_text_of_the_model_is_written_as_text(text):
    """What the model returns is never read as markup."""
    for format, document in (("md", "Word\n\n| word |\n|---|\n"), ("html", "<p>Word</p>")):
        found = translate_document(lambda texts: [text for _ in texts], document, format)
        pieces = [
            piece
            for part in Document(found, format).parts
            if isinstance(part, Sentence)
            for piece in part.pieces
        ]
        assert {piece.kind for piece in pieces} == {"text"}
        assert "".join(piece.text for piece in pieces).replace(" ", "") == (
            text * document.lower().count("word")
        ).replace(" ", "")
        assert found.count("\n") == document.count("\n")


@pytest.mark.parametrize(
    "format, document",
    [
        ("md", "<b> a `code\ngoes on`"),
        ("md", "<b> `  `r"),
        ("md", "$$\n$$c </b>"),
        ("md", "[f`\t`\t](u)"),
        ("srt", "1\n00:00:01,000 --> 00:00:02,000\n<i> a {n, plural,  one {x}}"),
    ],
)
def test_space_within_code_and_placeholders_moves_no_markup(format, document):
    assert translate_document(same, document, format) == document


def test_a_document_that_the_parser_cannot_read_is_a_clear_error():
    with pytest.raises(ValueError, match="Markdown parser fails on this document"):
        Document("* [x] \\\r  =", "md")


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="'xml'.*txt, md"):
        translate_document(same, "", "xml")
    with pytest.raises(ValueError, match="split it"):
        translate_document(same, "a" * (2**24 + 1), "txt")


def test_the_code_of_the_page_runs():
    page = Path(__file__).parents[1] / "docs" / "documents.md"
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
        exec(compile(block, "docs/documents.md", "exec"), names)
