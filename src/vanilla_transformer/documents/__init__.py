"""Translation of texts with inline markup, and of documents."""

from .translating import (
    FORMATS,
    Document,
    records_with_markup,
    translate_document,
    translate_markup,
    translate_sentences,
)

__all__ = [
    "FORMATS",
    "Document",
    "records_with_markup",
    "translate_document",
    "translate_markup",
    "translate_sentences",
]
