"""transformers' own tests of a tokenizer, over this package's."""

import os
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

import vanilla_transformer
from vanilla_transformer.tokenization_vanilla_transformer import VanillaTransformerTokenizer

ROOT = Path(__file__).parents[1]
CONTRACT = Path(os.environ.get("TRANSFORMERS_TESTS", ROOT / ".cache" / "transformers-tests"))
CORPUS = Path(vanilla_transformer.__file__).parent / "corpora" / "bible_en_es" / "train.parquet"

if CONTRACT.exists():
    sys.path.append(str(CONTRACT))
    from tests.test_tokenizers_backend_mixin import TokenizersBackendTesterMixin

    from tests import test_tokenization_common as common

    class TransformersTest(common.TokenizerTesterMixin, TokenizersBackendTesterMixin, unittest.TestCase):
        """With `split_special_tokens=False`, because these tests expect special tokens in a text to count."""

        tokenizer_class = rust_tokenizer_class = VanillaTransformerTokenizer
        from_pretrained_kwargs = {"split_special_tokens": False}

        @classmethod
        def setUpClass(cls):
            cls.folder = tempfile.mkdtemp()
            text = parquet.read_table(CORPUS, columns=["en"])["en"].to_pylist()[:4000]
            tokenizer = VanillaTransformerTokenizer.train([text], vocab_size=3000, show_progress=False)
            tokenizer.save_pretrained(cls.folder)
            sample = Path(cls.folder) / "fixtures" / "sample_text.txt"  # not in the source distribution
            sample.parent.mkdir()
            sample.write_text("\n\n".join(text[:10]), encoding="utf-8")
            common.get_tests_dir = lambda: cls.folder
            cls.from_pretrained_id = cls.folder
            super().setUpClass()

        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            shutil.rmtree(cls.folder)

        @classmethod
        def get_tokenizer(cls, pretrained_name=None, **kwargs):
            kwargs = {**cls.from_pretrained_kwargs, **kwargs}
            return super().get_tokenizer(pretrained_name, **kwargs)

        # These two expect decoding to return the normalizer's output. This normalizer adds a space, which
        # decoding removes. test_tokenization.py::test_retrained_on_other_text_stays_exact replaces them.
        test_training_new_tokenizer = test_training_new_tokenizer_with_special_tokens_change = None

else:

    @pytest.mark.skip(reason="transformers' tests are not here: `make transformers-tests` fetches them")
    def test_transformers_own_tests():
        pass
