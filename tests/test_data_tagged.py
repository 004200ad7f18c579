"""Sentences with tags from files: every format, and what is said of a broken one."""

import gzip
import re
from pathlib import Path

import pytest

from recur.data import TagColumns, TaggedFile
from recur.errors import InputError

CONLLU = """# text = vámonos al mar
1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tvamos\tir\tVERB\tV\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\tP\tCase=Acc\t1\tobj\t_\t_
2.1\tgone\t_\tVERB\t_\t_\t_\t_\t_\t_
3\ta\ta\tADP\tS\t_\t1\tcase\t_\t_

# sent_id = 2
1\tSan José\t_\tPROPN\tN\t_\t0\troot\t_\t_
"""
WORDS = [["vamos", "nos", "a"], ["San José"]]
TAGS = [["VERB", "PRON", "ADP"], ["PROPN"]]
COLUMNS = "-DOCSTART- -X- O O\n\nEU NNP B-ORG\nrejects\tVBZ  O\n\n\nPeter NNP B-PER\n"


def file(folder: Path, name: str, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / name


def read(
    path: Path, skip_bad_rows: bool = False, tagged: bool = True, **columns: object
) -> list[tuple[list[str], ...]]:
    found = TaggedFile(path, TagColumns(**columns), tagged=tagged, skip_bad_rows=skip_bad_rows)
    return [(sentence.words, sentence.tags) for sentence in found]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.conllu", CONLLU),
        ("a.CoNLLU.gz", CONLLU),
        ("a.conllu", "\ufeff" + CONLLU.replace("\n", "\r\n")),
        ("a.conllu", CONLLU + "\n\n"),
        ("a.conllu", CONLLU.rstrip("\n")),
    ],
)
def test_conllu_has_words_and_no_multiword_tokens_empty_nodes_or_comments(tmp_path: Path, name: str, content: str):
    assert read(file(tmp_path, name, content)) == list(zip(WORDS, TAGS, strict=True))


def test_the_column_of_the_tags_is_named(tmp_path: Path):
    path = file(tmp_path, "a.conllu", CONLLU)
    assert [tags for _, tags in read(path, column="xpos")] == [["V", "P", "S"], ["N"]]
    assert [tags for _, tags in read(path, column="feats")] == [["_", "Case=Acc", "_"], ["_"]]


def test_columns_are_words_and_tags_between_blank_lines(tmp_path: Path):
    path = file(tmp_path, "a.txt", COLUMNS)
    assert read(path) == [(["EU", "rejects"], ["B-ORG", "O"]), (["Peter"], ["B-PER"])]
    assert read(path, tag_column=2) == [(["EU", "rejects"], ["NNP", "VBZ"]), (["Peter"], ["NNP"])]
    assert read(path, word_column=2, tag_column=1)[1] == (["NNP"], ["Peter"])
    assert read(file(tmp_path, "b.iob.gz", "# NN O\n$ NN O\n")) == [(["#", "$"], ["O", "O"])]


def test_json_lines_have_lists_under_any_names(tmp_path: Path):
    lines = '{"words": ["Go", "!"], "tags": ["V", "P"], "tokens": ["G"], "ner": ["O"]}\n\n'
    assert read(file(tmp_path, "a.jsonl", lines)) == [(["Go", "!"], ["V", "P"])]
    assert read(file(tmp_path, "a.ndjson.gz", lines), words="tokens", tags="ner") == [(["G"], ["O"])]
    assert read(file(tmp_path, "data", lines), format="jsonl") == [(["Go", "!"], ["V", "P"])]


def test_words_without_tags_are_read_where_no_tags_are_wanted(tmp_path: Path):
    assert read(file(tmp_path, "a.txt", "Go\n!\n"), tagged=False) == [(["Go", "!"], [])]
    assert read(file(tmp_path, "a.jsonl", '{"words": ["Go"]}'), tagged=False) == [(["Go"], [])]
    bare = "1\tGo\t_\t_\t_\t_\t_\t_\t_\t_\n"
    assert read(file(tmp_path, "a.conllu", bare), tagged=False) == [(["Go"], [])]


BROKEN = [
    ("a.conllu", "1 Go _ VERB\n", "line 1: expected 10 columns with tabs between, as CoNLL-U has them, found 1;"),
    ("a.conllu", CONLLU.replace("2\tnos", "x\tnos"), "line 4: expected the number of a word in the first column"),
    ("a.conllu", CONLLU.replace("\tPRON", "\t_"), "line 4: expected a tag for the word 'nos', found '_'"),
    ("a.conllu", CONLLU.replace("\ta\ta", "\t\ta"), "line 6: expected a word, found none"),
    ("a.txt", "Go V\n!\n", "line 2: expected a word and a tag with a blank or tab between, found only '!'"),
    ("a.txt", "Go x V\n! P\n", "line 2: expected 3 columns as in the lines before, found 2"),
    ("a.txt", b"Go V\n\xff P\n", "line 2: expected UTF-8, found the byte 0xff"),
    ("a.jsonl", '{"words": ["a"], "tags": ["X", "Y"]}', "line 1: expected a tag for each of 1 words, found 2 tags"),
    ("a.jsonl", '{"words": "a b", "tags": ["X"]}', "line 1: expected a list of strings as 'words', found \"a b\""),
    ("a.jsonl", '{"word": ["a"], "tags": ["X"]}', "line 1: there is no 'words', did you mean 'word'?"),
    ("a.jsonl", '{"words": ["a"], "tags": [""]}', "line 1: expected words and tags that are not empty, found"),
    ("a.jsonl", '{"words": [], "tags": []}', "line 1: expected words in 'words', found none"),
    ("a.jsonl", "[1]", r"line 1: expected a JSON object, found [1]"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_a_broken_line_is_named_or_its_sentence_left_out(tmp_path: Path, name: str, content: str, message: str):
    path = file(tmp_path, name, content)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}, {re.escape(message)}"):
        read(path)
    good = {
        ".conllu": "\n\n1\tHi\t_\tINTJ\t_\t_\t_\t_\t_\t_\n",
        ".txt": f"\n\nHi {'x ' if ' x ' in str(content) else ''}INTJ\n",
    }
    whole = content if isinstance(content, bytes) else content.encode()
    more = good.get(path.suffix, '\n{"words": ["Hi"], "tags": ["INTJ"]}').encode()
    found = TaggedFile(file(tmp_path, name, whole + more), skip_bad_rows=True)
    assert [sentence.words for sentence in found][-1] == ["Hi"]
    assert len(found.skipped) == 1


def test_what_cannot_be_read_at_all_is_said(tmp_path: Path):
    with pytest.raises(InputError, match=r"a\.conllu: expected sentences, found none; give a file with data"):
        read(file(tmp_path, "a.conllu", "\n# only a comment\n\n"))
    with pytest.raises(InputError, match=r"found 1 bad ones \(line 1: expected a word and a tag"):
        read(file(tmp_path, "b.txt", "Go\n"), skip_bad_rows=True)
    with pytest.raises(InputError, match=r"there is no file .*a.conlu, did you mean 'a.conllu'?"):
        TaggedFile(tmp_path / "a.conlu")
    with pytest.raises(InputError, match="line 1: expected the tags in column 4, found 2 columns"):
        read(file(tmp_path, "c.txt", "Go V\n"), tag_column=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"column": "upso"}, "column must be one of form, lemma, upos, .*, got 'upso', did you mean 'upos'?"),
        ({"format": "csv"}, "format must be one of auto, conllu, columns, jsonl, got 'csv'"),
        ({"word_column": 0}, "word_column must be a number from 1, the first column, got 0"),
    ],
)
def test_columns_that_cannot_be_are_refused(options: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        TagColumns(**options)


@pytest.mark.data
def test_the_english_web_treebank_has_its_words(data_folder: Path):
    lengths = [len(s.words) for s in TaggedFile(data_folder / "ud_english_ewt" / "en_ewt-ud-dev.conllu.gz")]
    assert (len(lengths), sum(lengths)) == (2001, 25147)
