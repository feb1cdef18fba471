"""The peer: trl alone, on plain files, under torchrun with gloo: `torchrun … train_gloo.py FOLDER EPOCHS BATCH`.

Rank 0 prints the losses as JSON. The folder holds a model, its tokenizer, and `records.jsonl`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

folder, epochs, batch = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
trainer = SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(folder, dtype="float32"),
    processing_class=AutoTokenizer.from_pretrained(folder),
    args=SFTConfig(
        output_dir=str(folder / "output"),
        seed=42,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch // int(os.environ["WORLD_SIZE"]),
        max_length=48,
        learning_rate=0.01,
        lr_scheduler_type="linear",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        ddp_backend="gloo",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    ),
    train_dataset=datasets.Dataset.from_list(rows),
)
trainer.train()
if os.environ["RANK"] == "0":
    sys.stdout.write(json.dumps([each["loss"] for each in trainer.state.log_history if "loss" in each]) + "\n")
sys.stdout.flush()
torch.distributed.barrier()
os._exit(0)  # gloo's threads may abort a process that ends in an orderly way
