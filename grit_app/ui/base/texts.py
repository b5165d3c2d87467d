"""The words of the page that are longer than a label. Plain, exact, no promises that the model does not keep."""

from __future__ import annotations

from typing import Final, NamedTuple

CLAIM: Final = "One model that embeds, writes, and reuses what it has read."
PAPER: Final = "https://arxiv.org/abs/2402.09906"

CHAT_STARTERS: Final = (
    "Explain in two sentences what an embedding is.",
    "Write a short, friendly reminder to return a library book.",
    "What is the difference between a query and a passage?",
    "List three things to pack for a rainy hike.",
)
CHAT_EMPTY: Final = (
    "### Talk with the model\nPick a starter or write below. Enter sends, Shift + Enter breaks the line, Esc stops."
)
UNDO_TOO_LATE: Final = "The document is gone already. Add the file again."
EMPTY_FOLDER: Final = "This folder holds no file that can be read here. Files of these kinds can: {kinds}."
INTERRUPTED: Final = "not answered: the page was closed or reloaded before the first word"
DESK_FULL: Final = "Twenty questions wait already. Wait for an answer, or take one of them back."
SMALL_MODEL: Final = (
    "A small model is running ({parameters} parameters): it finds passages, quotes them, and talks. Facts that it "
    "writes freely are often made up."
)

DOCUMENTS_EMPTY: Final = (
    "### Ask your documents\nAdd a PDF, a text or a Markdown file, or try the sample. "
    "Each sentence of an answer is marked with the passage that supports it."
)
PRIVACY_LOCAL: Final = (
    "Documents stay on this computer, in the data folder, filed under a random key that only this browser holds. "
    "Another browser sees none of them. Removing a document deletes its files."
)
PRIVACY_SHARED: Final = (
    "Documents are held in the server's memory for this browser alone, and are freed soon after its last "
    "tab is closed, "
    "or when they have been idle for {idle_minutes} minutes. Nothing is written to a library on disk."
)
SAMPLE_QUESTIONS: Final = (
    "How many bytes of keys and values does GritLM-7B keep per token?",
    "Which strategy is exact?",
    "When is the harbour museum closed?",
    "What is this about?",
)
GENERAL_QUESTIONS: Final = (
    "What is this about?",
    "Who is it written for?",
    "What are the most important results?",
)
STRATEGY_WORDS: Final = {
    "rag_doc_query": "Full: passages and question are read again",
    "docs_cache": "Passages cached",
    "docs_query_cache": "Passages and question cached",
}
CUT_SINCE: Final = "The documents were cut into other passages since this answer. Ask again to see its sources."
CUT_INFO: Final = (
    "Longest passage, in tokens. Short ones are found more precisely, long ones read better in context. The button "
    "cuts and indexes your documents anew, which takes about as long as adding them; later files are cut so, too."
)
CUT_STOPPED: Final = "Stopped: {count} keep the passages that they had. Press the button again to go on."
CUT_DONE: Final = "Documents are cut into passages of up to {tokens} tokens."
NEXT_QUESTION: Final = "What is said about {topic}?"
SOURCES_ONLY: Final = "The passages that fit best are listed beside the conversation."
NO_PASSAGES: Final = "There is nothing to search: add a document, or tick one in the list."

SIMILARITY_INTRO: Final = (
    "An instruction tells the model what *similar* should mean. Rank and distance between scores tell "
    "more than a score itself: "
    "every model has its own floor below which cosine hardly ever falls."
)
SIMILARITY_NUMBERS: Final = (
    "Heatmap, map and CSV are of instruction A. Their numbers are the lines of the list, as in the small frames of the "
    "ranking; Q is the query."
)
INSTRUCTIONS: Final = (
    ("No instruction", ""),
    ("Find passages that answer", "Given a question, retrieve passages that answer it"),
    ("Similar in meaning", "Retrieve semantically similar text."),
    ("Same topic", "Identify the topic or theme of the given text"),
    ("Same mood", "Classify the emotion expressed in the given text"),
    ("Same opinion", "Classify the sentiment of the review as positive or negative"),
    ("Duplicate questions", "Given a question, retrieve questions that are semantically equivalent to it"),
)


class Scene(NamedTuple):
    """A query, texts and two instructions that rank them differently."""

    query: str
    texts: tuple[str, ...]
    first: str
    second: str
    on_both_sides: bool


SCENES: Final = {
    "Subject or feeling": Scene(
        "I am so happy with my new phone!",
        (
            "My new phone is a disaster and I am furious.",
            "What a wonderful holiday, we laughed all day!",
            "The phone has a battery of 4,000 mAh and two cameras.",
            "I am so glad that my sister is coming to visit!",
            "The phone fell once and its screen broke.",
            "The bus was late again and I am angry.",
        ),
        "Retrieve semantically similar text.",
        "Classify the emotion expressed in the given text",
        True,
    ),
    "Plot or praise": Scene(
        "The film was brilliant, I loved every minute.",
        (
            "The film was dull, I left before the end.",
            "The soup was delicious, I loved every spoonful.",
            "The film runs for two hours and was shot in Norway.",
            "What a great concert, I want to go again.",
            "The soup was cold and tasted of nothing.",
            "The cinema sells tickets from noon.",
        ),
        "Retrieve semantically similar text.",
        "Classify the sentiment of the review as positive or negative",
        True,
    ),
    "Answers or the same question": Scene(
        "How do I keep bread fresh for longer?",
        (
            "How can I stop a loaf from going stale?",
            "Store a loaf in a paper bag or a bread box, cut side down.",
            "What is the best way to store bread?",
            "Freezing sliced bread stops it from going stale for weeks.",
            "How do I bake bread without yeast?",
            "The bakery on the corner opens at six in the morning.",
        ),
        "Given a question, retrieve passages that answer it",
        "Given a question, retrieve questions that are semantically equivalent to it",
        False,
    ),
}
"""Chosen by measuring the served model: in the first the second instruction moves four of six ranks."""

RACE_INTRO: Final = (
    "The same question over the same long document, twice. *Full prefill* reads the whole document again before the "
    "first token; *cached* joins the keys and values that were kept when the document was embedded, and reads only "
    "the question."
)
CACHING_METHOD: Final = """
**How it is measured.** All strategies run interleaved in one process after a warm-up run that is thrown away; the
device is synchronised before each reading of the clock; figures are medians with the 10–90 % band. Documents have
exactly the stated number of tokens, and questions up to five more or fewer, so that no run repeats a length. *Hot*
caches are in memory, *warm* ones in files that the system holds in its page cache. *TTFT* is the time to the first
token: from the start of the prefill in the charts named so, and from the question, with retrieval and loading, in the
others. In the race each lane runs alone on the device; its clock starts when the question arrives and is read after
the device is done. A model that quotes compares the sentences that fit the question's words best; the chosen one
appears at once.
"""
RACE_QUESTION: Final = "How many terabytes would the caches of all passages take?"

PROGRAMS: Final = """
This page is also a server: the same weights embed and write for your programs, through the routes that OpenAI's clients
speak. Description of all routes: [{url}/docs]({url}/docs). Model name: `{model}`.{key}

**Embed and write** (Python, `pip install openai`)

```python
from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key="{api_key}")
vectors = client.embeddings.create(model="{model}", input=["Bees make honey from nectar."])
reply = client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}])
print(len(vectors.data[0].embedding), reply.choices[0].message.content)
```

**Cited answers over your files**

```sh
curl {url}/v1/documents {header}-F "file=@report.pdf"
curl {url}/v1/answers {header}-H "Content-Type: application/json" -d '{{"question": "How many schools took part?"}}'
```

**In programs that ask for addresses** (Open WebUI, AnythingLLM, LangChain): base URL `{url}/v1`, API key `{api_key}`.
Agents reach documents and answers over the Model Context Protocol at `{url}/mcp`.
"""
"""Filled by `programs_panel`."""

OTHER_THAN_THE_RACE: Final = (
    "The race above is of the model and the document that you have here: it tells a number of its own."
)
RACE_LINK: Final = "▶ Race this question with and without the cache"
RACE_GONE: Final = "This answer's question is not held any more. Ask again, then race it."

BREAKS_INTRO: Final = (
    "The caches of the prompt below are kept. Change a word, add a passage, or move one, and see what each kind of "
    "cache still spares: coloured words are not read again, grey ones are. Times are of this model on this machine."
)
BREAKS_PROMPT: Final = """The harbour museum opens at ten. On Mondays it is closed.

A ticket costs 14 euros. Children under six pay nothing.

The ferry to the island leaves every hour from the pier behind the museum.

What does a ticket cost?"""
BREAKS_KINDS: Final = {
    "nothing": "No cache",
    "beginning": "The prompt's beginning, as servers keep it",
    "passages": "Each passage by itself, as here",
}
