"""The streams and the search of the command, without a model."""

import pytest

from vanilla_transformer.cli import lines
from vanilla_transformer.cli.generating import Request, read_terms
from vanilla_transformer.cli.lines import Streams, cut_to_complete_lines, parse
from vanilla_transformer.cli.verb import Stop


def work(window):
    for line in window:
        if line.texts == ("bad",):
            line.error = "it is bad"
    return (b"" if line.error else line.texts[0].upper().encode() for line in window)


def test_a_resumed_run_counts_lines_from_the_first(tmp_path, capsys):
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_text("one\ntwo\nthree\nbad\nfive\n")
    target.write_text("ONE\nTWO\nTH")
    with pytest.raises(Stop, match="1 of 3 lines were bad"):
        Streams(source, target, resume=True, quiet=True).process(
            lambda window: (part + b"\n" for part in work(window))
        )
    assert target.read_text() == "ONE\nTWO\nTHREE\n\nFIVE\n"
    assert "line 4: it is bad" in capsys.readouterr().err


def test_complete_lines_are_found_in_every_chunk(tmp_path, monkeypatch):
    for size in range(1, 15):
        monkeypatch.setattr(lines, "CHUNK", size)
        (tmp_path / "out").write_bytes(b"one\ntwo\n\nthree")
        assert cut_to_complete_lines(tmp_path / "out") == 3
        assert (tmp_path / "out").read_bytes() == b"one\ntwo\n\n"


def test_only_a_file_begins_with_a_byte_order_mark():
    for number, text in ((1, "a"), (2, "\ufeffa")):
        assert parse(number, b"\xef\xbb\xbfa\r\n", ("text",), "text").texts == (text,)


@pytest.mark.parametrize("groups", [1, 2, 3, 5])
@pytest.mark.parametrize("outputs", [1, 3, 7])
@pytest.mark.parametrize("usual", [None, 1, 4])
def test_the_beam_holds_all_groups_and_outputs(groups, outputs, usual):
    found = Request("translation", "model", n_best=outputs, beam_groups=groups).search(usual)
    beams = found.get("num_beams", usual or 1)
    assert beams % groups == 0 and beams >= outputs
    assert beams < max(outputs, usual or 4) + groups


def test_an_output_is_continued_or_replaced_but_not_both(tmp_path):
    target = tmp_path / "out"
    target.write_text("ONE\n")
    with pytest.raises(Stop, match="give one of them"):
        Streams(None, target, resume=True, overwrite=True).check()
    assert target.read_text() == "ONE\n"


def test_an_error_of_an_earlier_run_is_dropped():
    line = parse(1, b'{"text": "a dog", "id": 3, "error": "old"}', ("text",), "jsonl")
    assert line.record == {"text": "a dog", "id": 3} and line.texts == ("a dog",) and line.error is None


def test_terms_are_read_line_by_line(tmp_path):
    file = tmp_path / "terms.tsv"
    file.write_bytes("\ufeffdog\tHu\u2028nd\r\n\ncat\tKatze\n".encode())
    assert read_terms(file) == {"dog": "Hu\u2028nd", "cat": "Katze"}
    file.write_bytes(b"dog\tHund\ncat\tK\xe4tzchen\n")
    with pytest.raises(ValueError, match="terms.tsv is not UTF-8"):
        read_terms(file)
