"""What a run publishes on the Hub: the files of the model, and nothing else."""

import shutil
from concurrent.futures import Future
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, create_repo, upload_folder
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress

from ..model_card import PICTURES

# Not pickled files, which can run code and contain the arguments; not predictions, which contain the user's
# texts; not the state of the trainer.
PUBLISHED = (
    *("README.md", "config.json", "generation_config.json", "model.safetensors*", "model-*.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "merges.txt", "vocab.json", "vocab.txt", "*.spm", "*.model"),
    *("preprocessor_config.json", "processor_config.json"),
    *PICTURES,  # of the card
    # the code that trust_remote_code runs
    *(path.name for path in sorted(Path(__file__).parents[1].glob("[a-z]*.py"))),
)


def publish(folder: str, repo_id: str, **options: Any) -> CommitInfo | Future[CommitInfo]:
    """Upload the files of the model in a folder; `options` are those of `upload_folder`."""
    return upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        allow_patterns=list(PUBLISHED),
        ignore_patterns=["*/*"],  # patterns also match within subfolders
        **options,
    )


class PublishingTrainer(Trainer):
    """A Trainer that uploads only `PUBLISHED` files, to a repository that is private by default."""

    hub_model_id: Any
    push_in_progress: Any

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository: private unless `private` or `hub_private_repo` is False."""
        if not self.is_world_process_zero():
            return
        if private is None:
            private = self.args.hub_private_repo is not False
        name = self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
        token = token if token is not None else self.args.hub_token
        self.hub_model_id = create_repo(name, token=token, private=private, exist_ok=True).repo_id
        self.push_in_progress = None

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save the model and upload it, with the model card that the folder has.

        Args:
            kwargs: for a folder without a card, arguments of `create_model_card`.
        """
        token = token if token is not None else self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        folder = str(self.args.output_dir)
        if not Path(folder, "README.md").exists():
            self.create_model_card(**kwargs)
        self._finish_current_push()
        return publish(
            folder,
            self.hub_model_id,
            commit_message=commit_message,
            token=token,
            revision=revision or self.args.hub_revision,
            run_as_future=not blocking,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Uploads the model of a checkpoint while training goes on."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        if self.args.save_strategy == SaveStrategy.EPOCH:
            reached = f"epoch {int(self.state.epoch or 0)}"
        else:
            reached = f"step {self.state.global_step}"
        folder = str(self.args.output_dir)  # the checkpoint may be deleted before the upload ends
        for path in Path(checkpoint_folder).iterdir():
            if any(fnmatch(path.name, pattern) for pattern in PUBLISHED):
                shutil.copy(path, folder)
        upload = publish(
            folder,
            self.hub_model_id,
            commit_message=f"Training in progress, {reached}",
            token=self.args.hub_token,
            revision=self.args.hub_revision,
            run_as_future=True,
        )
        jobs: Any = [upload]
        self.push_in_progress = PushInProgress(jobs)
