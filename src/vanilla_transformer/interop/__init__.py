"""Models of other projects, converted to this package: weights in.

    from vanilla_transformer.interop import import_model
    imported = import_model("Helsinki-NLP/opus-mt-en-de", "opus-en-de")
    print(imported.report)

An importer maps weights onto the classes that exist. A conversion that would change a result is refused.
"""

from .checks import Report
from .importing import FORMATS, Imported, import_model
from .vocabulary import extend_vocabulary
from .weights import ConversionError

__all__ = ["FORMATS", "ConversionError", "Imported", "Report", "extend_vocabulary", "import_model"]
