"""transformers' own model tests, run on the detection classes; see test_transformers_common.py."""

import unittest

import test_transformers_common as shared
import torch
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from vanilla_transformer import (
    VanillaTransformerDetectionConfig,
    VanillaTransformerDetectionModel,
    VanillaTransformerForObjectDetection,
)

floats_tensor = shared.common.floats_tensor

# The tests look up in this table which classes are bare models, and do not train them.
MODEL_MAPPING_NAMES["vanilla_transformer_detection"] = VanillaTransformerDetectionModel.__name__


class DetectionTester:
    batch_size, height, width, num_labels, num_queries = 4, 32, 48, 5, 7
    hidden_size, num_hidden_layers, num_attention_heads = 16, 2, 4
    is_training = True

    def __init__(self, parent):
        self.parent = parent
        self.seq_length = self.encoder_seq_length = self.key_length = 24  # cells of 8 x 8 pixels
        self.decoder_seq_length = self.decoder_key_length = self.num_queries

    def get_config(self):
        return VanillaTransformerDetectionConfig(
            hidden_size=self.hidden_size,
            intermediate_size=32,
            num_attention_heads=self.num_attention_heads,
            encoder_layers=self.num_hidden_layers,
            decoder_layers=self.num_hidden_layers,
            patch_size=8,
            num_queries=self.num_queries,
            num_labels=self.num_labels,
        )

    def prepare_config_and_inputs_for_common(self):
        pixels = floats_tensor([self.batch_size, 3, self.height, self.width])
        return self.get_config(), {"pixel_values": pixels}


class DetectionTest(shared.Contract, unittest.TestCase):
    model_tester_class = DetectionTester
    all_model_classes = (VanillaTransformerDetectionModel, VanillaTransformerForObjectDetection)
    is_encoder_decoder = True
    test_resize_embeddings = False
    has_text_modality = False

    def setUp(self):
        super().setUp()
        self.config_tester = shared.ConfigTester(
            self, config_class=VanillaTransformerDetectionConfig, has_text_modality=False
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class is VanillaTransformerForObjectDetection:
            inputs["labels"] = [
                {
                    "class_labels": torch.tensor([0, 3]),
                    "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.3], [0.2, 0.3, 0.1, 0.2]]),
                }
                for _ in range(self.model_tester.batch_size)
            ]
        return inputs

    def test_model_get_set_embeddings(self):
        """Pixels have no embedding table; the stem takes its role."""
        for model_class in self.all_model_classes:
            model, stem = model_class(self.model_tester.get_config()), torch.nn.Linear(10, 10)
            model.set_input_embeddings(stem)
            self.assertIs(model.get_input_embeddings(), stem)

    def test_attention_outputs(self):
        """transformers' own test counts outputs as of a text model, so this replaces it."""
        cells, queries = self.model_tester.seq_length, self.model_tester.num_queries
        shapes = {
            "encoder_attentions": (cells, cells),
            "decoder_attentions": (queries, queries),
            "cross_attentions": (queries, cells),
        }
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class._from_config(config, attn_implementation="eager").eval()
            for requested in (True, False):
                with torch.no_grad():
                    outputs = model(**inputs, output_attentions=requested)
                for name, shape in shapes.items():
                    weights = outputs.get(name)
                    if not requested:
                        self.assertIsNone(weights)
                        continue
                    self.assertEqual(len(weights), self.model_tester.num_hidden_layers)
                    for one in weights:
                        self.assertEqual(one.shape, (self.model_tester.batch_size, 4, *shape))
                        torch.testing.assert_close(one.sum(-1), torch.ones(one.shape[:-1]))
