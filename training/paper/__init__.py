"""The paper's evidence as commands: `python -m training.paper <table1|rerank|fewshot|kto|ablations|rag|page|all>`."""
