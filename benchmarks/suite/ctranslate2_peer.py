"""CTranslate2 as a peer. Its process loads no PyTorch."""

from pathlib import Path

from .peers import NotAvailable
from .work import Work

try:
    import ctranslate2
except ImportError as error:
    raise NotAvailable(f"{error}: pip install 'vanilla-transformer[benchmarks]'") from error


class CTranslate2:
    def __init__(self, work: Work, folder: Path, precision: str):
        if not (folder / "ctranslate2").exists():
            raise NotAvailable("this CTranslate2 could not convert the model")
        supported = ctranslate2.get_supported_compute_types(work.device)
        if precision not in supported:
            raise NotAvailable(f"this machine supports {', '.join(sorted(supported))}")
        self.work = work
        self.translator = ctranslate2.Translator(
            str(folder / "ctranslate2"),
            device=work.device,
            compute_type=precision,
            inter_threads=1,
            intra_threads=work.threads,
        )
        self.sentences = [[[str(token) for token in source] for source, _ in batch] for batch in work.pairs]

    def outputs(self) -> dict:
        return {"tokens": self.translate(self.sentences[0])}

    def step(self) -> None:
        for batch in self.sentences:
            self.translate(batch)

    def translate(self, sentences: list[list[str]]) -> list[list[int]]:
        length = self.work.target[1]
        translations = self.translator.translate_batch(
            sentences, beam_size=self.work.beams, min_decoding_length=length, max_decoding_length=length
        )
        return [[int(token) for token in found.hypotheses[0]] for found in translations]
