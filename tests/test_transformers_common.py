"""transformers' own model tests, from its source distribution, run on every text class of this package.

`make test` downloads them into .cache; TRANSFORMERS_TESTS sets another folder. The distribution lacks a few
files that the tests import; STAND_INS replaces them.
"""

import importlib
import os
import sys
import types
import unittest
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from transformers.models.auto import modeling_auto

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForMaskedLM,
    VanillaTransformerForQuestionAnswering,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
    VanillaTransformerModel,
)

FOLDER = Path(os.environ.get("TRANSFORMERS_TESTS", ".cache/transformers-tests")) / "tests"
if not (FOLDER / "test_modeling_common.py").is_file():
    pytest.skip(f"transformers' model tests are not in {FOLDER.resolve()}", allow_module_level=True)

STAND_INS = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {
        "config_common_kwargs": {
            "return_dict": False,
            "output_hidden_states": True,
            "output_attentions": True,
            "dtype": "float16",
            "chunk_size_feed_forward": 5,
            "architectures": ["BertModel"],
            "id2label": {0: "label"},
            "label2id": {"label": "0"},
            "problem_type": "regression",
        }
    },
}


def contract(name: str) -> types.ModuleType:
    """Imports a module of transformers' tests under a package name of its own."""
    package = sys.modules.setdefault("transformers_tests", types.ModuleType("transformers_tests"))
    package.__path__ = [str(FOLDER)]
    for path, contents in STAND_INS.items():
        if not (FOLDER / f"{path.replace('.', '/')}.py").is_file():
            parent, _, _ = path.partition(".")
            sys.modules.setdefault(f"transformers_tests.{parent}", types.ModuleType(parent)).__path__ = []
            sys.modules.setdefault(f"transformers_tests.{path}", types.ModuleType(path)).__dict__.update(
                contents
            )
    with patch("transformers.utils.direct_transformers_import"):  # it needs an __init__.py that is missing
        return importlib.import_module(f"transformers_tests.{name}")


common = contract("test_modeling_common")
ConfigTester = contract("test_configuration_common").ConfigTester
GenerationTesterMixin = contract("generation.test_utils").GenerationTesterMixin
TrainingTesterMixin = contract("test_training_mixin").TrainingTesterMixin
ids_tensor, random_attention_mask = common.ids_tensor, common.random_attention_mask

# The tests look up in these tables which labels a class needs.
for table, model_class in {
    "MODEL_MAPPING_NAMES": VanillaTransformerModel,
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES": VanillaTransformerForConditionalGeneration,
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": VanillaTransformerForCausalLM,
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": VanillaTransformerForMaskedLM,
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": VanillaTransformerForSequenceClassification,
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": VanillaTransformerForTokenClassification,
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES": VanillaTransformerForQuestionAnswering,
}.items():
    getattr(modeling_auto, table)["vanilla_transformer"] = model_class.__name__


class ModelTester:
    """Sizes and inputs of one kind of model, in the form that transformers' tests expect."""

    batch_size, seq_length, vocab_size = 13, 7, 99
    hidden_size, num_hidden_layers, num_attention_heads, intermediate_size = 16, 2, 4, 32
    encoder_layers = decoder_layers = num_hidden_layers
    dropout, pad_token_id = 0.1, 1
    is_training = True

    def __init__(self, parent):
        self.parent = parent
        self.encoder_seq_length = self.decoder_seq_length = self.key_length = self.seq_length

    def get_config(self) -> VanillaTransformerConfig:
        return VanillaTransformerConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_attention_heads=self.num_attention_heads,
            encoder_layers=self.encoder_layers,
            decoder_layers=self.decoder_layers,
            dropout=self.dropout,
            pad_token_id=self.pad_token_id,
            max_position_embeddings=50,
        )

    def ids(self) -> torch.Tensor:
        ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size).clamp(3)
        ids[:, -1] = 2
        return ids

    def prepare_config_and_inputs_for_common(self):
        ids = self.ids()
        return self.get_config(), {"input_ids": ids, "attention_mask": random_attention_mask(ids.shape)}


class Seq2SeqTester(ModelTester):
    def prepare_config_and_inputs_for_common(self):
        config, inputs = super().prepare_config_and_inputs_for_common()
        ids = self.ids()
        return config, {**inputs, "decoder_input_ids": ids, "decoder_attention_mask": torch.ones_like(ids)}


class EncoderTester(ModelTester):
    decoder_layers = 0


class DecoderTester(ModelTester):
    encoder_layers = 0
    causal_lm_class = VanillaTransformerForCausalLM


class Contract(common.ModelTesterMixin):
    model_tester_class: type[ModelTester]
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = self.model_tester_class(self)
        self.config_tester = ConfigTester(self, config_class=VanillaTransformerConfig)

    def test_config(self):
        self.config_tester.run_common_tests()


class GenerationContract(GenerationTesterMixin):
    """The main points of transformers' generation tests, which its source distribution lacks."""

    def models_and_inputs(self):
        for model_class in self.all_generative_model_classes:
            torch.manual_seed(0)
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            model = model_class(config).eval()
            model.generation_config.eos_token_id = None  # every sequence gets its full length
            with self.subTest(model_class.__name__):
                yield model, inputs["input_ids"][:2]

    def test_generate_returns_all_requested_outputs(self):
        for model, ids in self.models_and_inputs():
            model.set_attn_implementation("eager")
            for settings in ({}, {"do_sample": True}, {"num_beams": 3}):
                requested = ("scores", "logits", "attentions", "hidden_states")
                output = model.generate(
                    ids,
                    max_new_tokens=4,
                    return_dict_in_generate=True,
                    **{f"output_{name}": True for name in requested},
                    **settings,
                )
                rows, heads = 2 * settings.get("num_beams", 1), model.config.num_attention_heads
                prompt = output.sequences.shape[1] - 4
                self.assertEqual(prompt, 1 if self.is_encoder_decoder else ids.shape[1])
                kind = "decoder_" * self.is_encoder_decoder
                for scores in (output.scores, output.logits):
                    self.assertEqual([s.shape for s in scores], [(rows, model.config.vocab_size)] * 4)
                for step, attentions in enumerate(output[f"{kind}attentions"]):
                    new, seen = (prompt if step == 0 else 1), prompt + step
                    self.assertEqual([a.shape for a in attentions], [(rows, heads, new, seen)] * 2)
                for states in output[f"{kind}hidden_states"]:
                    self.assertEqual(len(states), 3)  # two layers and the embeddings
                if self.is_encoder_decoder:
                    self.assertEqual(output.cross_attentions[-1][0].shape, (rows, heads, 1, ids.shape[1]))
                    self.assertEqual(len(output.encoder_hidden_states), 3)

    def test_sampling_repeats_with_its_seed(self):
        for model, ids in self.models_and_inputs():
            drawn = []
            for seed in (0, 0, 1):
                torch.manual_seed(seed)
                drawn.append(model.generate(ids, do_sample=True, max_new_tokens=8, num_return_sequences=2))
            self.assertEqual(drawn[0].shape[0], 4)
            self.assertTrue(torch.equal(drawn[0], drawn[1]))
            self.assertFalse(torch.equal(drawn[0], drawn[2]))

    def test_looking_up_the_prompt_changes_no_token(self):
        for model, ids in self.models_and_inputs():
            greedy = model.generate(ids[:1], max_new_tokens=8)
            looked_up = model.generate(ids[:1], max_new_tokens=8, prompt_lookup_num_tokens=2)
            self.assertTrue(torch.equal(looked_up, greedy))

    def test_generation_continues_from_a_cache(self):
        for model, ids in self.models_and_inputs():
            whole = model.generate(ids, max_new_tokens=6)
            part = model.generate(ids, max_new_tokens=3, return_dict_in_generate=True)
            prompt = {"input_ids": part.sequences}
            if self.is_encoder_decoder:
                # Without the mask `generate` would read the whole prompt again, after its cached part.
                mask = torch.ones_like(part.sequences)
                prompt = {
                    "input_ids": ids,
                    "decoder_input_ids": part.sequences,
                    "decoder_attention_mask": mask,
                }
            rest = model.generate(**prompt, past_key_values=part.past_key_values, max_new_tokens=3)
            self.assertTrue(torch.equal(rest, whole))

    def test_generation_from_embeddings_equals_generation_from_ids(self):
        for model, ids in self.models_and_inputs():
            new = model.generate(ids, max_new_tokens=5, num_beams=2)[:, -5:]
            embeddings = model.get_input_embeddings()(ids)
            given = model.generate(inputs_embeds=embeddings, max_new_tokens=5, num_beams=2)
            self.assertTrue(torch.equal(given[:, -5:], new))


class Seq2SeqTest(Contract, GenerationContract, unittest.TestCase):
    model_tester_class = Seq2SeqTester
    all_model_classes = (VanillaTransformerModel, VanillaTransformerForConditionalGeneration)
    is_encoder_decoder = True


class EncoderTest(Contract, unittest.TestCase):
    model_tester_class = EncoderTester
    all_model_classes = (
        VanillaTransformerModel,
        VanillaTransformerForMaskedLM,
        VanillaTransformerForSequenceClassification,
        VanillaTransformerForTokenClassification,
        VanillaTransformerForQuestionAnswering,
    )


class DecoderTest(Contract, TrainingTesterMixin, GenerationContract, unittest.TestCase):
    model_tester_class = DecoderTester
    all_model_classes = (VanillaTransformerModel, VanillaTransformerForCausalLM)

    def test_training_overfit(self):
        # This test expects no dropout, and its text begins with token 1.
        self.model_tester.dropout, self.model_tester.pad_token_id = 0.0, 0
        super().test_training_overfit()
