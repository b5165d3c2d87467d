"""Making GRIT models: tokenizer, causal pretraining, GRIT fine-tuning, evaluation and export."""
