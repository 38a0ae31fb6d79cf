"""Pictures of models, of training and of scores; each function returns a figure of matplotlib.

from vanilla_transformer.visualization import plot_attention

plot_attention(model, tokenizer, "A dog runs.").savefig("attention.svg")
"""

from .architecture import plot_architecture
from .attention import plot_alignment, plot_attention
from .curves import plot_learning_rate, plot_learning_rates, plot_training_curves
from .images import plot_detections, plot_image_attention, plot_query_attention
from .page import attention_page
from .positions import plot_embeddings, plot_position_similarity, plot_positional_encoding
from .scores import plot_confusion_matrix, plot_length_against_bleu, plot_reliability

__all__ = [
    "attention_page",
    "plot_alignment",
    "plot_architecture",
    "plot_attention",
    "plot_confusion_matrix",
    "plot_detections",
    "plot_embeddings",
    "plot_image_attention",
    "plot_learning_rate",
    "plot_learning_rates",
    "plot_length_against_bleu",
    "plot_position_similarity",
    "plot_positional_encoding",
    "plot_query_attention",
    "plot_reliability",
    "plot_training_curves",
]
