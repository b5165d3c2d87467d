"""The field's protocols over one set of weights: embeddings, chat, answers and reranking for the clients people have.

python -m grit_app.serve --port 8000        the routes alone
python app.py                               the same routes beside the page
"""
