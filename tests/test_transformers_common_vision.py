"""transformers' own tests of models and image processors, run on the vision classes.

See test_transformers_common.py for their source.
"""

import sys
import types
import unittest
from unittest.mock import patch

from test_transformers_common import contract
from transformers.models.auto import modeling_auto

from vanilla_transformer import (
    VanillaTransformerForImageClassification,
    VanillaTransformerImageProcessor,
    VanillaTransformerVisionConfig,
    VanillaTransformerVisionModel,
)

common = contract("test_modeling_common")
ConfigTester = contract("test_configuration_common").ConfigTester
floats_tensor = common.floats_tensor
fetching = types.ModuleType("fetch_hub_objects_for_ci")  # for tests that compare with torchvision
fetching.url_to_local_path = None
with patch.dict(sys.modules, {fetching.__name__: fetching}):
    images = contract("test_image_processing_common")

for table, model_class in {
    "MODEL_MAPPING_NAMES": VanillaTransformerVisionModel,
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES": VanillaTransformerForImageClassification,
}.items():
    getattr(modeling_auto, table)["vanilla_transformer_vision"] = model_class.__name__


class ModelTester:
    """Sizes and inputs in the form that transformers' tests expect."""

    batch_size, image_size, patch_size, num_channels, num_labels = 13, 16, 4, 3, 3
    hidden_size, num_hidden_layers, num_attention_heads, intermediate_size = 16, 2, 4, 32
    is_training = True
    options = {}

    def __init__(self, parent):
        self.parent = parent
        self.patches = (self.image_size // self.patch_size) ** 2
        self.seq_length = self.patches + (self.options.get("pooling") != "mean")
        self.encoder_seq_length = self.key_length = self.seq_length

    def get_config(self) -> VanillaTransformerVisionConfig:
        return VanillaTransformerVisionConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_attention_heads=self.num_attention_heads,
            encoder_layers=self.num_hidden_layers,
            num_labels=self.num_labels,
            **self.options,
        )

    def prepare_config_and_inputs_for_common(self):
        shape = [self.batch_size, self.num_channels, self.image_size, self.image_size]
        return self.get_config(), {"pixel_values": floats_tensor(shape)}


class ConvolutionalTester(ModelTester):
    options = {"stem": "convolutions", "pooling": "mean", "position_embedding_type": "sinusoidal"}


class Contract(common.ModelTesterMixin):
    model_tester_class: type[ModelTester]
    all_model_classes = (VanillaTransformerVisionModel, VanillaTransformerForImageClassification)
    test_can_init_all_missing_weights_before_2023 = True
    test_resize_embeddings = False  # there are no word embeddings

    def setUp(self):
        self.model_tester = self.model_tester_class(self)
        self.config_tester = ConfigTester(
            self, config_class=VanillaTransformerVisionConfig, has_text_modality=False
        )

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class(config)
            self.assertIs(model.get_input_embeddings(), model.base_model.encoder.embed_patches)
            self.assertIsNone(model.get_output_embeddings())

    @unittest.skip("the model takes images, not embeddings")
    def test_inputs_embeds(self):
        pass

    @unittest.skip("the model takes images, not embeddings")
    def test_inputs_embeds_matches_input_ids(self):
        pass


class VisionTest(Contract, unittest.TestCase):
    model_tester_class = ModelTester


class ConvolutionalVisionTest(Contract, unittest.TestCase):
    model_tester_class = ConvolutionalTester


class ImageProcessingTester(images.ImageProcessingTester):
    def __init__(self, parent, **settings):
        super().__init__(parent, **{"size": {"height": 18, "width": 18}, "do_resize": True, **settings})

    def _get_image_processing_classes(self):
        return {"pil": VanillaTransformerImageProcessor}


class PaddingTester(ImageProcessingTester):
    def __init__(self, parent):
        super().__init__(parent, size={"shortest_edge": 18, "longest_edge": 40}, do_pad=True)


@unittest.skipIf(
    not hasattr(images.ImageProcessingTestMixin, "image_processor_tester_class"),
    "these tests of transformers before 5.21 cannot take a processor of another package",
)
class ImageProcessorContract(images.ImageProcessingTestMixin):
    @unittest.skip("it expects a second backend, which needs torchvision")
    def test_new_models_require_torchvision_backend(self):
        pass


class ImageProcessingTest(ImageProcessorContract, unittest.TestCase):
    image_processor_tester_class = ImageProcessingTester


class PaddingImageProcessingTest(ImageProcessorContract, unittest.TestCase):
    image_processor_tester_class = PaddingTester
