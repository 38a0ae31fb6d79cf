"""LoRA through PEFT: trained, saved, loaded, merged, and saved as a plain model."""

import pytest
import torch
from imported_models import source_batch
from tiny_marian import write_marian
from tiny_models import random_model
from transformers import AutoModelForSeq2SeqLM

from vanilla_transformer import TrainingLoss
from vanilla_transformer.interop import import_model

peft = pytest.importorskip("peft")


@pytest.fixture(params=["own", "imported"])
def folder(request, tmp_path):
    if request.param == "own":
        random_model().save_pretrained(tmp_path / "base")
    else:
        write_marian(tmp_path / "opus", with_tokenizer=False)
        import_model(tmp_path / "opus", tmp_path / "base")
    return tmp_path


def logits(model, batch):
    with torch.no_grad():
        return model.eval()(**batch).logits


def test_lora_is_trained_saved_loaded_and_merged(folder):
    base = AutoModelForSeq2SeqLM.from_pretrained(folder / "base")
    batch = source_batch(base)
    before = logits(base, batch)
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules="all-linear", r=4, lora_dropout=0.1)
    model = peft.get_peft_model(base, config)
    adapted = {name.split(".")[-4] for name, _ in model.named_parameters() if "lora_A" in name}
    assert {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"} <= adapted
    torch.testing.assert_close(logits(model, batch), before, atol=1e-5, rtol=1e-5)

    torch.manual_seed(0)
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], 1e-2)
    model.train()
    losses = []
    for _ in range(8):
        loss = model(**batch, training_loss=TrainingLoss(smoothing=0.1)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    trained = logits(model, batch)
    assert (trained - before).abs().max() > 1e-2

    model.save_pretrained(folder / "adapter")
    loaded = peft.PeftModel.from_pretrained(
        AutoModelForSeq2SeqLM.from_pretrained(folder / "base"), folder / "adapter"
    )
    torch.testing.assert_close(logits(loaded, batch), trained, atol=1e-5, rtol=1e-5)
    labels = batch.pop("labels")
    generated = loaded.generate(**batch, max_length=12)
    batch["labels"] = labels

    merged = loaded.merge_and_unload()
    torch.testing.assert_close(logits(merged, batch), trained, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(folder / "merged")
    again = AutoModelForSeq2SeqLM.from_pretrained(folder / "merged")
    torch.testing.assert_close(logits(again, batch), trained, atol=1e-4, rtol=1e-4)
    del batch["labels"]
    assert again.generate(**batch, max_length=12).shape == generated.shape
