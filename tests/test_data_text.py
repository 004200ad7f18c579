import builtins
import doctest
import importlib
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from recur.data import Tokenizer, guess_kind, index_tokens, read_table
from recur.errors import InputError, MissingExtra

words = Tokenizer("words")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", ""),
        ("  \n\t ", ""),
        ("A well-made film.", "a well - made film ."),
        ("good<br /><br />bad<i>x</i><!-- y --> 1 < 2 > 0", "good bad x 1 < 2 > 0"),
        ("Tom &amp; Jerry &#39;s", "tom & jerry 's"),
        ("I don't, can't, won't", "i do n't , ca n't , wo n't"),
        ("It's he'll we've I'd I'm they're", "it 's he 'll we 've i 'd i 'm they 're"),
        ("it’s “great” don’t", "it 's \" great \" do n't"),
        ("'quoted' boys' O'Brien", "' quoted ' boys ' o ' brien"),
        ("well..... so... a.b …", "well ... so ... a . b ..."),
        ("yes--no ----- a-b —", "yes -- no -- a - b --"),
        ("really?!! 8.5/10, 10,000 people in 1999.", "really ? ! ! 8.5 / 10 , 10,000 people in 1999 ."),
        ("_great_ snake_case", "great snake case"),
        ("Œuvre naïve Ärger", "œuvre naïve ärger"),
        ("cafe\u0301", "café"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),
        ("😀👍 ok", "😀 👍 ok"),
        ("a\u00a0b", "a b"),
    ],
)
def test_words(text: str, tokens: str) -> None:
    assert words(text) == tokens.split(" ") * bool(tokens)


def test_capital_letters_can_be_kept() -> None:
    tokens = Tokenizer("words", lower=False)("DON'T Stop, IT'S Didn't")
    assert " ".join(tokens) == "DO N'T Stop , IT 'S Did n't"


def test_characters_keep_the_places_of_blanks() -> None:
    assert Tokenizer("characters")(" Ab \n c好 ") == ["a", "b", " ", "c", "好"]
    assert Tokenizer("characters", lower=False)("BtX") == ["B", "t", "X"]


def test_ngrams_are_appended() -> None:
    assert Tokenizer("words", ngrams=3)("not so good") == ["not", "so", "good", "not so", "so good", "not so good"]
    assert Tokenizer("words", ngrams=3)("good") == ["good"]
    assert Tokenizer("characters", ngrams=2)("我爱你") == ["我", "爱", "你", "我爱", "爱你"]


def test_jieba_finds_chinese_words_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jieba")
    assert Tokenizer("jieba")("我喜欢 这部电影") == ["我", "喜欢", "这部", "电影"]
    assert capfd.readouterr() == ("", "")


def test_a_missing_jieba_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from recur.data.text import _jieba

    _jieba.cache_clear()
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(MissingExtra, match=r"the tokenizer jieba needs the package jieba: pip install 'recur\[text\]'"):
        Tokenizer("jieba")("我")


def test_wrong_arguments_of_a_tokenizer() -> None:
    wrong: Any = "word"
    with pytest.raises(
        InputError,
        match=r"the tokenizer must be one of words, characters, jieba, got 'word', did you mean 'words'\?",
    ):
        Tokenizer(wrong)
    with pytest.raises(InputError, match="ngrams must be at least 1, got 0"):
        Tokenizer("words", ngrams=0)


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["A good film.", "Bad"], "words"),
        (["这部电影很好看,我喜欢 it", "不好"], "characters"),
        (["とても いい 映画です", "だめ です"], "characters"),
        (["정말 좋은 영화", "나쁜 영화"], "words"),
        (["a Chinese word, 电影, in English text"], "words"),
        (["BTXSE", "BPVVE"], "characters"),
        (["", ""], "characters"),
        ([], "words"),
    ],
)
def test_guess_kind(texts: list[str], kind: str) -> None:
    assert guess_kind(texts) == kind


def test_guess_kind_reads_no_more_than_it_needs() -> None:
    endless = iter(lambda: "a b", None)
    assert guess_kind(endless) == "words"


MODULES = ["batches", "reber", "sequences", "sources", "tables", "text", "vectors", "vocabulary"]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings(name: str) -> None:
    module: ModuleType = importlib.import_module(f"recur.data.{name}")
    assert doctest.testmod(module).failed == 0


def test_importing_the_data_layer_imports_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def guarded(name: str, *args: Any, **kwargs: Any) -> Any:
        assert name.partition(".")[0] not in {"duckdb", "jieba", "pytorch_lightning", "sklearn"}
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", guarded)
    for name in MODULES:
        # a copy of the module: reloading the real one would make classes that are not equal to those in use
        spec = importlib.util.find_spec(f"recur.data.{name}")
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.data
def test_25000_reviews_are_tokens_and_ids_in_seconds() -> None:
    if "RECUR_TEST_DATA" not in os.environ:
        pytest.skip("RECUR_TEST_DATA is not set")
    table = read_table(Path(os.environ["RECUR_TEST_DATA"]) / "imdb" / "train.csv.gz", ["text", "label"])
    start = time.process_time()
    vocabulary, rows = index_tokens((words(row["text"]) for row in table), size=10_000)
    assert time.process_time() - start < 12  # 3 s on an idle core
    assert len(vocabulary) == 10_002
    assert len(rows) == 25_000
    assert 250 < rows.lengths.mean() < 300
    assert vocabulary.words[:3] == ["the", ".", ","]
