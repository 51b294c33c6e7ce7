"""Parts of the ``finetune`` recipe: networks, views, batches, mixing."""
