"""Choose the attention for word alignments once a translation model is trained."""

import logging

from ..alignments import choose_attention
from ..training.trainer import VanillaTransformerTrainer
from .sources import Rows

logger = logging.getLogger(__name__)


def choose_alignment(trainer: VanillaTransformerTrainer, pairs: Rows | None) -> None:
    """Choose it with pairs of `encode_splits`, and save it in the generation config of the output folder.

    Without pairs of at most 128 tokens, and where weights are sharded, the default stays: the middle layer.
    """
    if pairs is None or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return
    model = trainer.model
    try:
        layer, is_input = choose_attention(
            model, trainer.processing_class, list(pairs["source"]), list(pairs["target"])
        )
    except ValueError as error:
        logger.warning("the attention for word alignments was not chosen: %s", error)
        return
    where = "the input" if is_input else "predicted"
    logger.info("Word alignments use the attention of decoder layer %d where a word is %s.", layer + 1, where)
    if trainer.is_world_process_zero():
        model.generation_config.save_pretrained(str(trainer.args.output_dir))
