"""Making GRIT models: data, fine-tuning, evaluation and export."""
