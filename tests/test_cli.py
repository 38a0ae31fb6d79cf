"""The command's lines: one in, one out, whatever is in them and however the program ends."""

import json
import random
import signal
import time

import pytest
from cli_models import call, run, save_classifier, save_translator, start
from tiny_translators import WORDS
from transformers import pipeline

from vanilla_transformer.cli.generating import load_pipeline
from vanilla_transformer.cli.lines import LONGEST, as_one_line, cut_to_complete_lines
from vanilla_transformer.cli.scoring import PairScorer

VERBS = ["translate", "summarize", "generate", "score", "classify"]
BAD = {  # what is wrong with a line -> the line, and a word of the message
    "invalid UTF-8": (b"the \xff dog", "UTF-8"),
    "NUL": (b"the \0 dog", "NUL"),
    "1 MB": (b"dog " * (LONGEST // 4 + 1), "bytes"),
    "too long for the model": (b"dog " * 100, "tokens"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    translator = save_translator(folder / "translator")
    return dict.fromkeys(VERBS[:-1], translator) | {"classify": save_classifier(folder / "classifier")}


def sentences(count, seed=0):
    random.seed(seed)
    return [" ".join(random.choices(WORDS[:10], k=random.randint(1, 9))) for _ in range(count)]


def lines_for(verb, texts):
    if verb == "score":
        texts = [f"{text}\t{text}" if isinstance(text, str) else text + b"\t" + text for text in texts]
    return b"".join((text.encode() if isinstance(text, str) else text) + b"\n" for text in texts)


def outputs(result):
    data = result.stdout_bytes if hasattr(result, "stdout_bytes") else result
    return data.decode().splitlines()


@pytest.mark.parametrize("verb", VERBS)
def test_standard_input_and_a_file_give_the_same_lines(verb, models, tmp_path):
    texts = lines_for(verb, sentences(7))
    (tmp_path / "in.txt").write_bytes(texts)
    piped = outputs(call(verb, models[verb], "--window", 3, input=texts))
    call(verb, models[verb], tmp_path / "in.txt", "--output", tmp_path / "out.txt", "--window", 3)
    assert piped == (tmp_path / "out.txt").read_text().splitlines()
    assert len(piped) == 7 and all(piped)


@pytest.mark.parametrize("verb", VERBS)
def test_a_bad_line_costs_itself_only(verb, models):
    good = sentences(len(BAD) + 1)
    expected = outputs(call(verb, models[verb], input=lines_for(verb, good)))
    texts = [good[0]]
    for (line, _), text in zip(BAD.values(), good[1:]):
        texts += [line, text]
    result = call(verb, models[verb], input=lines_for(verb, texts), code=3)
    found = outputs(result)
    assert found[::2] == expected
    assert not any(found[1::2])
    for index, (_, word) in enumerate(BAD.values()):
        report = next(
            line for line in result.stderr.splitlines() if line.startswith(f"line {2 * index + 2}:")
        )
        assert word in report


@pytest.mark.parametrize("verb", VERBS)
def test_a_reader_that_goes_ends_the_program_quietly(verb, models):
    process = start(verb, models[verb], "--window", 1)
    process.stdout.close()
    _, errors = process.communicate(lines_for(verb, sentences(5)), timeout=300)
    assert process.returncode == 141
    assert b"Traceback" not in errors and b"Error" not in errors


@pytest.mark.parametrize("verb", VERBS)
def test_empty_input_is_no_lines(verb, models):
    assert call(verb, models[verb], input=b"").stdout_bytes == b""


def test_outputs_are_those_of_the_pipeline_in_the_order_of_the_input(models):
    texts = sentences(20)
    expected = [each["translation_text"] for each in pipeline("translation", str(models["translate"]))(texts)]
    assert outputs(call("translate", models["translate"], "--window", 8, input="\n".join(texts))) == [
        " ".join(text.split("\n")) for text in expected
    ]


def test_json_lines_keep_their_entries_and_get_the_output_or_an_error(models):
    records = [{"id": 1, "body": "the dog"}, {"id": 2}, {"id": 3, "body": "a fox", "error": "of an old run"}]
    texts = "".join(json.dumps(record) + "\n" for record in records) + "no JSON\n" + '{"body": "\\ud800"}\n'
    result = call(
        "translate", models["translate"], "--format", "jsonl", "--field", "body", input=texts, code=3
    )
    found = [json.loads(line) for line in outputs(result)]
    assert [each.get("id") for each in found] == [1, 2, 3, None, None]
    assert [sorted(each.keys() - {"id", "body"}) for each in found] == [
        ["translation_text"],
        ["error"],
        ["translation_text"],
        ["error"],
        ["error"],
    ]


def test_n_best_outputs_with_scores_are_columns_from_best_to_worst(models):
    words = ("translate", models["translate"], "--beam", 4, "--n-best", 3, "--scores")
    for line in outputs(call(*words, input="the dog\na lazy fox\n")):
        columns = line.split("\t")
        scores = [float(score) for score in columns[::2]]
        assert len(columns) == 6 and scores == sorted(scores, reverse=True)
    found = json.loads(call(*words, "--format", "jsonl", input='{"text": "the dog"}\n').stdout)
    assert len(found["translation_text"]) == len(found["score"]) == 3


def test_alignments_terms_and_forbidden_words_are_those_of_the_pipeline(models, tmp_path):
    (tmp_path / "terms.tsv").write_text("dog\tfence\n")
    words = ("translate", models["translate"], "--alignments", "--scores", "--forbid", "quick")
    found = outputs(call(*words, "--terms", tmp_path / "terms.tsv", input="the dog\na lazy fox\n"))
    pipe = pipeline("translation", str(models["translate"]))
    expected = pipe(
        ["the dog", "a lazy fox"],
        return_alignments=True,
        return_scores=True,
        forbid=["quick"],
        terms={"dog": "fence"},
    )
    for line, record in zip(found, expected):
        score, text, alignment = line.split("\t")
        assert float(score) == pytest.approx(record["score"], abs=1e-5)
        assert (text, alignment) == (as_one_line(record["translation_text"]), record["alignment"])
    assert "fence" in found[0]
    (tmp_path / "terms.tsv").write_text("dog fence\n")
    assert "line 1" in call(*words, "--terms", tmp_path / "terms.tsv", input="the dog\n", code=1).stderr


def test_terms_of_a_json_line_join_those_of_the_command_and_a_bad_value_costs_the_line(models, tmp_path):
    (tmp_path / "terms.tsv").write_text("fox\tfence\n")
    records = [
        {"text": "the dog and fox", "terms": {"dog": "brown"}},
        {"text": "a fox"},
        {"text": "the dog", "terms": {"dog": 3}},
        {"text": "the dog", "terms": {"dog": "brown " * 60}},
        {"text": "the dog", "forbid": "quick"},
        {"text": "the lazy dog", "forbid": ["lazy"], "terms": {}},
    ]
    texts = "".join(json.dumps(record) + "\n" for record in records)
    words = ("translate", models["translate"], "--format", "jsonl", "--terms", tmp_path / "terms.tsv")
    result = call(*words, "--forbid", "over", input=texts, code=3)
    found = [json.loads(line) for line in outputs(result)]
    assert [("error" in each) for each in found] == [False, False, True, True, True, False]
    assert "fence" in found[0]["translation_text"] and "brown" in found[0]["translation_text"]
    assert "fence" in found[1]["translation_text"]
    pipe = pipeline("translation", str(models["translate"]))
    alone = pipe("the lazy dog", forbid=["over", "lazy"])[0]["translation_text"]
    assert found[5]["translation_text"] == alone
    for number, word in ((3, '"terms"'), (4, "terms"), (5, '"forbid"')):
        assert any(f"line {number}:" in line and word in line for line in result.stderr.splitlines())


def test_markup_of_lines_survives_and_other_lines_stay_the_same(models):
    texts = sentences(5)
    plain = outputs(call("translate", models["translate"], input="\n".join(texts)))
    marked = "\n".join([*texts, "the <b>lazy dog</b> {name} sleeps"])
    found = outputs(call("translate", models["translate"], "--markup", input=marked))
    assert found[:5] == plain
    assert all(found[5].count(part) == 1 for part in ("<b>", "</b>", "{name}"))
    record = '{"text": "<i>the dog</i>"}\n'
    line = call("translate", models["translate"], "--markup", "--format", "jsonl", input=record).stdout
    assert json.loads(line)["translation_text"].count("</i>") == 1


@pytest.mark.parametrize("format", ["txt", "md", "html", "srt", "vtt"])
def test_a_document_keeps_what_is_no_text(format, models, tmp_path):
    times = "1\r\n00:00:01,000 --> 00:00:02,000\r\n"
    document = {"srt": times, "vtt": "WEBVTT\n\n" + times}.get(format, "") + "the dog\r\n\r\n"
    (tmp_path / "in").write_bytes(b"\xef\xbb\xbf" + document.encode())
    words = ("translate", models["translate"], tmp_path / "in", "--format", format)
    expected = pipeline("translation", str(models["translate"]))("the dog")[0]["translation_text"]
    found = call(*words).stdout_bytes.decode()
    assert found.replace(" ".join(expected.split()), "the dog") == "\ufeff" + document
    assert call(*words[:2], *words[3:], input=b"").stdout_bytes == b""
    call(*words, "--output", tmp_path / "out")
    assert (tmp_path / "out").read_bytes().decode() == found


def test_a_bad_sentence_of_a_document_stays_as_it_is_and_is_reported_with_its_line(models):
    bad = b"the dog.\n\n" + b"dog " * 100 + b"\n\nthe \0 fox\n\na fox.\n"
    result = call("translate", models["translate"], "--format", "txt", "--quiet", input=bad, code=3)
    assert result.stdout_bytes.splitlines()[2:5] == bad.splitlines()[2:5]
    assert "line 3: it has" in result.stderr and "line 5: it contains a NUL" in result.stderr
    assert "line 2: invalid UTF-8" in call(
        "translate", models["translate"], "--format", "txt", input=b"a\n\xff", code=1
    ).stderr  # fmt: skip


def test_terms_that_do_not_fit_cost_their_sentence_of_a_document_only(models, tmp_path):
    (tmp_path / "terms.tsv").write_text(f"dog\t{'brown ' * 60}\nfox\tfence\nlazy\tover it\n")
    (tmp_path / "in.md").write_text("a fox\n\n- the **dog**\n- a {x} fox\n\nthe lazy fox\n")
    words = ("translate", models["translate"], tmp_path / "in.md", "--format", "md")
    words += ("--terms", tmp_path / "terms.tsv", "--forbid", "over")
    result = call(*words, code=3)
    found = result.stdout.split("\n")
    assert found[2] == "- the **dog**" and found[5] == "the lazy fox"
    assert "fence" in found[0] and "fence" in found[3]
    assert f"{tmp_path / 'in.md'}, line 3: the terms of the text need" in result.stderr
    assert f"{tmp_path / 'in.md'}, line 6: the term 'over it' is forbidden too" in result.stderr
    assert "2 of 4 sentences were bad" in result.stderr


def test_a_reader_of_a_document_that_goes_ends_the_program_quietly(models):
    process = start("translate", models["translate"], "--format", "txt")
    process.stdout.close()
    _, errors = process.communicate(b"the dog.\n" * 5, timeout=300)
    assert process.returncode == 141 and b"Traceback" not in errors


def test_scores_of_pairs_do_not_depend_on_the_other_lines(models):
    pairs = [f"{source}\t{target}" for source, target in zip(sentences(9), sentences(9, seed=1))]
    together = outputs(call("score", models["score"], "--tokens", input="\n".join(pairs)))
    for pair, line in zip(pairs, together):
        alone = outputs(call("score", models["score"], "--tokens", input=pair))[0]
        total, mean, count, tokens = line.split("\t")
        assert float(alone.split("\t")[0]) == pytest.approx(float(total), abs=1e-4)
        assert sum(map(float, tokens.split())) == pytest.approx(float(total), abs=1e-4)
        assert len(tokens.split()) == int(count) and float(mean) == pytest.approx(
            float(total) / int(count), abs=1e-5
        )


def test_scores_of_pairs_are_those_of_the_search(models):
    """With α = 0, the score of the search is the log-probability of its output."""
    pipe = load_pipeline("translation", str(models["score"]))
    scorer = PairScorer(pipe)
    for text in sentences(5):
        source = pipe.encode(text)["input_ids"]
        found = pipe.model.generate(source, length_penalty=0.0, return_dict_in_generate=True)
        forced = scorer.log_probabilities([(source[0], found.sequences[0, 1:])])[0]
        assert sum(forced) == pytest.approx(float(found.sequences_scores), abs=1e-4)


def test_a_missing_column_and_a_blank_source_are_bad_lines(models):
    result = call("score", models["score"], input="the dog\n \tthe dog\nthe\tdog\n", code=3)
    assert [bool(line) for line in outputs(result)] == [False, False, True]
    assert "columns" in result.stderr and "blank" in result.stderr


def test_the_window_of_a_stopped_program_is_written_again_once(models, tmp_path):
    texts = sentences(40)
    (tmp_path / "in.txt").write_text("".join(text + "\n" for text in texts))
    words = ("translate", models["translate"], tmp_path / "in.txt", "-o", tmp_path / "out.txt")
    call(*words)
    whole = (tmp_path / "out.txt").read_bytes()
    for kept in (0, 1, len(whole) // 2, len(whole) - 1, len(whole)):
        (tmp_path / "out.txt").write_bytes(whole[:kept])
        call(*words, "--resume", "--window", 7)
        assert (tmp_path / "out.txt").read_bytes() == whole


@pytest.mark.slow
def test_ctrl_c_says_how_to_resume_and_loses_no_line(models, tmp_path):
    (tmp_path / "in.txt").write_text("".join(text + "\n" for text in sentences(900)))
    words = (
        "translate",
        models["translate"],
        tmp_path / "in.txt",
        "-o",
        tmp_path / "out.txt",
        "--window",
        20,
    )
    # A shell starts processes in the background with this signal ignored.
    process = start(*words, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while not (tmp_path / "out.txt").exists() or not (tmp_path / "out.txt").stat().st_size:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and b"--resume" in errors and b"Traceback" not in errors
    written = (tmp_path / "out.txt").read_bytes()
    assert 0 < written.count(b"\n") < 900
    run(*words, "--resume")
    continued = (tmp_path / "out.txt").read_bytes()
    assert continued.startswith(written) and continued.count(b"\n") == 900
    call(*words[:3], "-o", tmp_path / "other.txt", "--window", 300)
    assert (tmp_path / "other.txt").read_bytes() == continued


def test_an_output_file_is_never_lost_by_mistake(models, tmp_path):
    (tmp_path / "in.txt").write_text("the dog\n")
    (tmp_path / "out.txt").write_text("precious\n")
    words = ("translate", models["translate"], tmp_path / "in.txt", "-o", tmp_path / "out.txt")
    assert "--resume" in call(*words, code=1).stderr
    assert (tmp_path / "out.txt").read_text() == "precious\n"
    call(*words, "--overwrite")
    assert "precious" not in (tmp_path / "out.txt").read_text()
    call(*words[:-1], tmp_path / "in.txt", "--overwrite", code=2)
    (tmp_path / "out.txt").write_text("more\nlines\n")
    assert "only 1" in call(*words, "--resume", code=1).stderr


def test_a_line_cut_in_a_character_is_removed(tmp_path):
    path = tmp_path / "out.txt"
    path.write_bytes("één\ntwee\ndrié".encode()[:-1])
    assert cut_to_complete_lines(path) == 2
    assert path.read_text() == "één\ntwee\n"


def test_line_ends_of_windows_and_a_byte_order_mark_are_no_text(models):
    plain = call("translate", models["translate"], input=b"the dog\na fox\n").stdout_bytes
    assert call("translate", models["translate"], input=b"\xef\xbb\xbfthe dog\r\na fox").stdout_bytes == plain


def test_blank_lines_stay_blank(models):
    assert outputs(call("translate", models["translate"], input="\n \nthe dog\n"))[:2] == ["", ""]


@pytest.mark.parametrize("precision", ["auto", "bf16", "int8"])
def test_other_precisions_translate_every_line(precision, models):
    found = outputs(
        call("translate", models["translate"], "--precision", precision, input="the dog\na fox\n")
    )
    assert len(found) == 2


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["translate"], 2, "model"),
        (["translate", "no-such-folder-or-model"], 1, "error"),
        (["translate", "MODEL", "no-such-file"], 1, "no-such-file"),
        (["translate", "MODEL", "--resume"], 2, "--output"),
        (["translate", "MODEL", "--beam", "2", "--n-best", "3"], 2, "--beam 3"),
        (["translate", "MODEL", "--set", "beams"], 2, "NAME=VALUE"),
        (["translate", "MODEL", "--target-lang", "es"], 1, "language"),
        (["translate", "MODEL", "--format", "xml"], 2, "xml"),
        (["translate", "MODEL", "--format", "md", "--resume", "-o", "x"], 2, "--resume"),
        (["translate", "MODEL", "--format", "md", "--n-best", "2"], 2, "--n-best"),
        (["translate", "MODEL", "--format", "srt", "--scores"], 2, "--scores"),
        (["translate", "MODEL", "--format", "txt", "--alignments"], 2, "--alignments"),
        (["translate", "MODEL", "--markup", "--alignments"], 2, "--markup"),
        (["translate", "MODEL", "--language", "de"], 2, "--format"),
        (["summarize", "MODEL", "--format", "html"], 2, "summarize"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(words, code, message, models):
    words = [str(models["translate"]) if word == "MODEL" else word for word in words]
    result = call(*words, input="the dog\n", code=code)
    assert message in result.stderr and "Traceback" not in result.stderr


def test_a_truncated_line_is_not_bad(models):
    long = BAD["too long for the model"][0]
    assert len(outputs(call("translate", models["translate"], "--truncate", input=long + b"\n"))) == 1
    assert len(outputs(call("classify", models["classify"], "--truncate", input=long + b"\n"))) == 1


def test_classify_writes_the_labels_of_the_pipeline(models):
    texts = sentences(5)
    expected = pipeline("text-classification", str(models["classify"]))(texts, top_k=2)
    for line, labels in zip(
        outputs(call("classify", models["classify"], "--top", 2, input="\n".join(texts))), expected
    ):
        assert line.split("\t")[::2] == [found["label"] for found in labels]


def test_full_pipes_do_not_block(models):
    """A program that reads and writes at once, as in a shell's pipe."""
    output, _ = run("translate", models["translate"], input=lines_for("translate", sentences(800)))
    assert output.count(b"\n") == 800


def test_terms_that_do_not_fit_cost_their_line_only(models, tmp_path):
    (tmp_path / "terms.tsv").write_text(f"dog\t{'brown ' * 60}\nfox\tfence\n")
    texts = ["a fox", "the dog", "the lazy fox", "over"]
    words = ("translate", models["translate"], "--terms", tmp_path / "terms.tsv")
    result = call(*words, input=lines_for("translate", texts), code=3)
    found = outputs(result)
    assert [bool(line) for line in found] == [True, False, True, True]
    assert "fence" in found[0] and "fence" in found[2]
    assert "line 2: the terms of the text need" in result.stderr


def test_a_term_of_a_line_replaces_the_commands_in_any_case(models, tmp_path):
    (tmp_path / "terms.tsv").write_text("dog\tfence\n")
    words = ("translate", models["translate"], "--format", "jsonl", "--terms", tmp_path / "terms.tsv")
    record = {"text": "the dog", "terms": {"Dog": "brown"}, "error": "of an earlier run"}
    (line,) = outputs(call(*words, input=json.dumps(record) + "\n"))
    text = json.loads(line)["translation_text"]
    assert "brown" in text and "fence" not in text and "error" not in json.loads(line)


def test_a_forced_word_that_is_forbidden_is_an_error_of_its_line(models, tmp_path):
    (tmp_path / "terms.tsv").write_text("dog\tbrown fence\n")
    words = ("translate", models["translate"], "--terms", tmp_path / "terms.tsv", "--forbid", "fence")
    result = call(*words, input="the dog\na fox\n", code=3)
    assert "line 1: the term 'brown fence' is forbidden too" in result.stderr
    assert outputs(result)[1]


@pytest.mark.parametrize(
    "words, option",
    [
        (["--beam", 4, "--set", "num_beams=2"], "--beam"),
        (["--n-best", 2, "--set", "num_return_sequences=3"], "--n-best"),
        (["--forbid", "dog", "--set", "forbid=[fox]"], "--forbid"),
    ],
)
def test_an_option_said_twice_is_an_error(words, option, models):
    result = call("translate", models["translate"], *words, input="the dog\n", code=2)
    assert f"and {option} say the same" in " ".join(result.stderr.split())


def test_several_outputs_of_set_are_all_in_the_record(models):
    words = ("translate", models["translate"], "--format", "jsonl", "--set", "num_return_sequences=3")
    (line,) = outputs(call(*words, input='{"text": "the dog"}\n'))
    assert len(json.loads(line)["translation_text"]) == 3


def test_an_error_before_the_first_line_keeps_the_old_file(models, tmp_path):
    place = tmp_path / "out.txt"
    place.write_text("precious\n")
    words = ("translate", models["translate"], "-o", place, "--overwrite")
    call(*words, "--set", "nonsense=1", input="the dog\n", code=1)
    assert place.read_text() == "precious\n"
    call(*words, input="the dog\n")
    assert place.read_text().count("\n") == 1 and "precious" not in place.read_text()
    call(*words, input="")
    assert place.read_text() == ""
